# ruff: noqa: E501  (messages stand here as they are printed)
"""Names and what they refer to: rows 19 to 22, 36 and 42 of the table of bad inputs."""

import pytest

from placement.config import ConfigError, load


def faults(text: str) -> list[str]:
    """The problems of a text that cannot be loaded."""
    with pytest.raises(ConfigError) as caught:
        load(text, {})
    return [str(problem).removeprefix("cluster.yaml:") for problem in caught.value.problems]


def roles(**fields: str) -> str:
    """A file of roles with the given fields, one on each line from the second on."""
    lines = [f"  {name}: {{lora_path: x, location: RAM, {text}}}\n" for name, text in fields.items()]
    return "roles:\n" + "".join(lines)


@pytest.mark.parametrize(
    "name", ["../x", "a b", "Ä", "x" * 64, "__base__", "", ".hidden", "a/b", "a@b", "a#b", "-"]
)
@pytest.mark.parametrize("section", ["roles", "bases", "nodes", "rag"])
def test_a_bad_name_is_answered_with_the_rule(section, name):
    """Names go into files, actors and addresses: CFG026 shows the pattern (row 19)."""
    fields = {
        "roles": "lora_path: x, location: RAM",
        "bases": "model: x",
        "nodes": "",
        "rag": "location: RAM, source: d",
    }[section]
    found = [fault for fault in faults(f"{section}:\n  '{name}': {{{fields}}}\n") if "CFG026" in fault]
    assert len(found) == 1
    assert found[0].startswith("2:3 ")
    assert found[0].endswith("must match [A-Za-z0-9][A-Za-z0-9_.-]{0,62} [CFG026]")


def test_good_names_are_taken():
    """Letters, digits, dots, dashes and underscores, 63 of them."""
    lab = load(roles(**{"1": "", "a.b-c_D": "", "no": "", "y" * 63: ""}), {})
    assert list(lab.roles) == ["1", "a.b-c_D", "no", "y" * 63]


def test_the_lab_has_a_name_too():
    """It is the namespace in Ray, so it follows the same rule."""
    assert faults("lab: my lab\n") == [
        "1:6 lab: the lab name 'my lab' must match [A-Za-z0-9][A-Za-z0-9_.-]{0,62} [CFG026]"
    ]
    assert faults("lab: 7\n") == ['1:6 lab: expected text, found 7; quote it: "7" [CFG024]']


def test_the_words_of_activated_by_are_no_role_names():
    """A role called user could not be told from the user."""
    assert faults(roles(user="")) == [
        "2:3 roles.user: the role name 'user' is a word of activated_by; choose another [CFG026]"
    ]


def test_a_node_cannot_be_called_network():
    """What rests at an address rests at `network`, which is no machine."""
    (fault,) = (fault for fault in faults("nodes:\n  network: {ram: 1GiB}\n") if "CFG026" in fault)
    assert fault.startswith("2:3 nodes.network: the node name 'network' is the word for what rests at an")


def test_names_that_differ_by_letter_case_are_refused():
    """Some disks cannot tell them apart: CFG027 at the second (row 20)."""
    assert faults(roles(coder="", Coder="")) == [
        "3:3 roles.Coder: differs from 'coder' only by letter case; choose another name [CFG027]"
    ]


def test_a_role_cannot_have_the_name_of_a_base():
    """Requests name roles and bases in one place: CFG028 (row 21)."""
    assert faults("bases: {small: {model: x}}\n" + roles(small="")) == [
        "3:3 roles.small: the role has the name of the base 'small'; requests could not tell them apart [CFG028]"
    ]


def test_a_shard_may_not_have_the_name_of_a_role():
    """`move` and `story` take the name of either: CFG028."""
    text = "roles:\n  plato: {lora_path: ./a, location: RAM}\nrag:\n  plato: {location: RAM, source: ./b}\n"
    (problem,) = faults(text)
    assert problem.endswith(
        "the shard has the name of the role 'plato'; commands could not tell them apart [CFG028]"
    )


def test_an_unknown_node_is_answered_with_the_nodes():
    """CFG030 suggests the nearest and lists them all (row 22)."""
    nodes = "nodes: {desk: {vram: 1GiB}, attic: {ram: 1GiB}}\nbases: {m: {model: x}}\n"
    assert faults(nodes + roles(a="node: dsk", b="node: cellar")) == [
        "4:42 roles.a.node: unknown node 'dsk'; did you mean 'desk'? (nodes: desk, attic) [CFG030]",
        "5:42 roles.b.node: unknown node 'cellar'; one of desk, attic [CFG030]",
    ]


def test_without_nodes_there_is_one_machine():
    """A file without the section nodes has the machine `local` and no other (row 22)."""
    assert load(roles(a="node: local"), {}).roles["a"].node == "local"
    assert faults(roles(a="node: desk")) == [
        "2:42 roles.a.node: unknown node 'desk'; without a section nodes there is one machine, 'local': list this one in nodes [CFG030]"
    ]


def test_an_unknown_base_is_answered_with_the_bases():
    """CFG030 for bases too (row 22)."""
    assert faults(
        "bases: {small: {model: x}, big: {model: y}}\n" + roles(a="base: smal", b="base: tiny")
    ) == [
        "3:42 roles.a.base: unknown base 'smal'; did you mean 'small'? (bases: small, big) [CFG030]",
        "4:42 roles.b.base: unknown base 'tiny'; one of small, big [CFG030]",
    ]
    assert faults(roles(a="base: small")) == [
        "2:42 roles.a.base: unknown base 'small'; the file lists no bases [CFG030]"
    ]


def test_an_undefined_shard_is_refused():
    """A shard that is read has to be defined: CFG062 in the list, in both spellings (row 36)."""
    text = roles(a="rag: [plato, plat, {shard: homer}]") + "rag: {plato: {location: RAM, source: d}}\n"
    assert faults(text) == [
        "2:49 roles.a.rag[1]: unknown shard 'plat'; did you mean 'plato'? [CFG062]",
        "2:55 roles.a.rag[2]: unknown shard 'homer'; one of plato [CFG062]",
    ]


def test_an_undefined_role_is_refused_wherever_it_is_named():
    """CFG062 for consults, activated_by, warm.after and the roles of a key."""
    text = (
        roles(coder="consults: [codr], activated_by: [user, schedul, cuder], warm: {after: [coder, poet]}")
        + "rag: {s: {location: RAM, source: d, warm: {after: [nobody]}}}\n"
        + "serve: {api_keys: [{name: x, hash: y, roles: [coder, painter]}]}\n"
    )
    assert [fault for fault in faults(text) if "CFG062" in fault] == [
        "2:51 roles.coder.consults[0]: unknown role 'codr'; did you mean 'coder'? [CFG062]",
        "2:79 roles.coder.activated_by[1]: unknown role 'schedul'; did you mean 'schedule'? [CFG062]",
        "2:88 roles.coder.activated_by[2]: unknown role 'cuder'; did you mean 'coder'? [CFG062]",
        "2:118 roles.coder.warm.after[1]: unknown role 'poet'; one of coder [CFG062]",
        "3:52 rag.s.warm.after[0]: unknown role 'nobody'; one of coder [CFG062]",
        "4:54 serve.api_keys[0].roles[1]: unknown role 'painter'; one of coder [CFG062]",
    ]


def test_what_is_not_used_is_a_warning():
    """A shard or base that no role uses is L3 and no error (row 36)."""
    lab = load(
        "bases: {m: {model: x}, n: {model: y}}\n"
        + roles(a="base: m")
        + "rag: {s: {location: RAM, source: d}}\n",
        {},
    )
    assert [str(warning) for warning in lab.warnings] == [
        "cluster.yaml:1:24 bases.n: no role uses this base [L3]",
        "cluster.yaml:4:7 rag.s: no role reads this shard [L3]",
    ]
    assert {warning.severity for warning in lab.warnings} == {"warning"}


def test_whom_a_role_consults_has_to_let_it_in():
    """An ask that would always be refused is CFG039, with the line that mends it."""
    assert faults(roles(a="consults: [b]", b="consults: [c]", c="activated_by: [b]")) == [
        "2:47 roles.a.consults[0]: b would refuse it; write activated_by: [user, a] at b [CFG039]"
    ]
    assert load(roles(a="consults: [b]", b="activated_by: [user, a]"), {}).warnings == ()


def test_a_role_with_a_schedule_lets_it_in():
    """Who writes warm.at and no activated_by means the schedule too; who writes both says it, or is warned."""
    lab = load(roles(a='warm: {at: "0 9 * * *"}', b="warm: {after: [a]}"), {})
    assert [role.activated_by for role in lab.roles.values()] == [("user", "schedule"), ("user",)]
    assert lab.warnings == ()
    lab = load(roles(a='warm: {at: "0 9 * * *"}, activated_by: [user]'), {})
    assert lab.roles["a"].activated_by == ("user",)
    assert [str(warning) for warning in lab.warnings] == [
        "cluster.yaml:2:47 roles.a.warm.at: the schedule will be refused: activated_by does not list schedule [L7]"
    ]
    load(roles(a='warm: {at: "0 9 * * *"}, activated_by: null'), {})
    assert load(roles(a='warm: {at: "0 9 * * *"}, activated_by: [schedule]'), {}).warnings == ()


def test_a_circle_of_warming_is_printed():
    """A circle in warm.after is CFG036, once, with its roles in order (row 42)."""
    text = roles(
        a="warm: {after: [b]}", b="warm: {after: [c]}", c="warm: {after: [a]}", d="warm: {after: [a]}"
    )
    assert faults(text) == ["2:43 roles.a.warm.after: a circle: a -> b -> c -> a [CFG036]"]


def test_circles_of_consulting_are_printed():
    """Each circle in consults is found: a role that asks itself, and two that ask each other (row 42)."""
    text = roles(
        a="consults: [a, b]", b="consults: [], activated_by: [a]", c="consults: [d]", d="consults: [b, c]"
    )
    assert [fault for fault in faults(text) if "CFG036" in fault] == [
        "2:36 roles.a.consults: a circle: a -> a [CFG036]",
        "4:36 roles.c.consults: a circle: c -> d -> c [CFG036]",
    ]


def test_a_chain_is_no_circle():
    """Roles that follow each other, even by two ways, are no circle, however long the chain."""
    chain = {f"r{n}": f"warm: {{after: [r{n + 1}, r{n + 2}]}}" for n in range(200)}
    lab = load(roles(**chain, r200="", r201=""), {})
    assert len(lab.roles) == 202


def test_a_broken_entry_hides_no_problem_of_others():
    """Names of a broken entry count as defined, and its own references are checked all the same."""
    text = (
        "nodes: {desk: {vram: 1}}\n"
        "bases: {small: {model: x, slots: many}}\n"
        "roles:\n"
        "  a: {lora_path: x, location: vrm, node: dsk, base: small, rag: [plato, homer], teir: x}\n"
        "  b: {lora_path: x, location: RAM, node: desk, consults: [a, c], activated_by: [a]}\n"
        "rag: {plato: {location: RAM}}\n"
    )
    assert faults(text) == [
        "1:22 nodes.desk.vram: 1 of what? write 1GiB [CFG023]",
        "2:34 bases.small.slots: 'many' is text; expected a whole number [CFG024]",
        "4:31 roles.a.location: unknown tier 'vrm'; did you mean 'vram'? [CFG021]",
        "4:42 roles.a.node: unknown node 'dsk'; did you mean 'desk'? (nodes: desk) [CFG030]",
        "4:73 roles.a.rag[1]: unknown shard 'homer'; one of plato [CFG062]",
        "4:81 roles.a.teir: unknown field 'teir'; did you mean 'location'? [CFG020]",
        "5:59 roles.b.consults[0]: a would refuse it; write activated_by: [user, b] at a [CFG039]",
        "5:62 roles.b.consults[1]: unknown role 'c'; one of a, b [CFG062]",
        "6:7 rag.plato: source (documents to build it from) or path (an index that exists) is missing [CFG025]",
    ]


def test_one_bad_field_hides_no_reference_of_its_neighbours():
    """Within one entry, what is right beside a wrong field is still checked."""
    text = roles(a="rag: [nope, {shard: no, top_k: x}], warm: {after: [b], at_start: x}, consults: [c, ~]")
    codes = [fault.rpartition("[")[2] for fault in faults(text)]
    assert sorted(codes) == ["CFG022]", "CFG024]", "CFG024]", "CFG062]", "CFG062]", "CFG062]"]
