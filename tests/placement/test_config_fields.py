# ruff: noqa: E501  (messages stand here as they are printed)
"""Single fields: rows 12 to 18, 23, 27, 39 and 44 of the table of bad inputs."""

import pytest

from placement.config import ConfigError, load
from placement.config.cron import cron_fault


def faults(text: str) -> list[str]:
    """The problems of a text that cannot be loaded."""
    with pytest.raises(ConfigError) as caught:
        load(text, {})
    return [str(problem).removeprefix("cluster.yaml:") for problem in caught.value.problems]


def role(fields: str) -> str:
    """A file of one role with `fields` in its second line."""
    return f"roles:\n  coder: {{lora_path: ./coder, location: RAM, {fields}}}\n"


def refused(fields: str) -> str:
    """The only problem of a role with `fields`, from the column of the first of them."""
    (fault,) = faults(role(fields))
    place, _, rest = fault.partition(" ")
    line, col = place.split(":")[:2]
    assert line == "2"
    return f"{int(col) - 46} {rest}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("role: {}", "1:1 role: unknown field 'role'; did you mean 'roles'? [CFG020]"),
        ("version: 2", "1:1 version: unknown field 'version'; one of lab, nodes, bases, roles, rag, policy, serve [CFG020]"),
        ("include: [a.yaml]", "1:1 include: unknown field 'include'; one of lab, nodes, bases, roles, rag, policy, serve [CFG020]"),
        ("warnings: []", "1:1 warnings: unknown field 'warnings'; one of lab, nodes, bases, roles, rag, policy, serve [CFG020]"),
        ("nodes: {desk: {vrm: 1GiB}}", "1:16 nodes.desk.vrm: unknown field 'vrm'; did you mean 'vram'? [CFG020]"),
        (
            "nodes: {desk: {ssd: {path: /x, buget: 1GiB}}}",
            "1:32 nodes.desk.ssd.buget: unknown field 'buget'; did you mean 'budget'? [CFG020]",
        ),
        (
            "serve: {api_keys: [{name: x, hash: y, role: [z]}]}",
            "1:39 serve.api_keys[0].role: unknown field 'role'; did you mean 'roles'? [CFG020]",
        ),
        ("policy: {want_deadline_s: 3s}", "1:10 policy.want_deadline_s: unknown field 'want_deadline_s'; did you mean 'want_deadline'? [CFG020]"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_never_ignored(text, fault):
    """A misspelt field is CFG020 at its key, with the field that was meant (row 12)."""
    assert faults(text + "\n") == [fault]


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("teir: RAM", "location"),
        ("tier: RAM", "location"),
        ("base_model: x", "base"),
        ("adapter: x", "lora_path"),
        ("persona_fle: x", "persona_file"),
    ],
)
def test_words_of_other_systems_lead_to_ours(field, meant):
    """What people write from habit is answered with the word it has here (row 12)."""
    name = field.partition(":")[0]
    assert refused(field) == f"0 roles.coder.{name}: unknown field '{name}'; did you mean '{meant}'? [CFG020]"


def test_a_name_is_the_key_and_no_field():
    """`name:` inside an entry is unknown, since the entry has one already."""
    assert refused("name: x").startswith("0 roles.coder.name: unknown field 'name'; one of base, lora_path, ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("roles:\n  coder:\n", "2:9 roles.coder: is empty; give a value, or take the line out [CFG022]"),
        ("roles: {coder: null}\n", "1:16 roles.coder: is null; an entry is a mapping of fields [CFG022]"),
        ("rag: [a, b]\n", "1:1 rag: expected a mapping of names to entries [CFG022]"),
        ("policy: 5\n", "1:9 policy: expected a mapping of fields: vram_high, vram_low, ram_high, ram_low, ssd_high, ssd_low, warm_ahead, want_deadline, lease, score [CFG022]"),
        ("nodes: {desk: 24GiB}\n", "1:15 nodes.desk: expected a mapping of fields: vram, ram, ssd [CFG022]"),
    ],
)  # fmt: skip
def test_an_entry_has_to_be_a_mapping(text, fault):
    """An empty entry or one of the wrong shape is CFG022 (row 13)."""
    assert faults(text) == [fault]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ("rag: plato", "5 roles.coder.rag: expected a list, such as [one, two], found plato [CFG022]"),
        ("warm: true", "6 roles.coder.warm: expected a mapping of fields, found true [CFG022]"),
        ("persona: [a]", "0 roles.coder.persona: expected text, found a list [CFG022]"),
        (
            "persona_file: ''",
            "14 roles.coder.persona_file: is empty; give a value, or take the line out [CFG022]",
        ),
        ("consults: [~]", "11 roles.coder.consults[0]: is empty; expected text [CFG022]"),
    ],
)
def test_a_value_of_the_wrong_shape_is_refused(fields, fault):
    """Lists, mappings and values are not taken for each other."""
    assert refused(fields) == fault


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("24", "24 of what? write 24GiB"),
        ("'24'", "'24' has no unit; write 24GiB"),
        ("-1GiB", "'-1GiB' is not a number with a unit, such as 8GiB"),
        ("nan", "'nan' is not a number with a unit, such as 8GiB"),
        (".inf", "inf is not a quantity; write one such as 24GiB"),
        ("1e9", "1e+09 of what? write 1e+09GiB"),
        ("24GiBs", "unknown unit 'GiBs' in '24GiBs'; write 24GiB"),
        ("9999PiB", "'9999PiB' is more bytes than a machine can have"),
        ("12:30", "'12:30' is not a number with a unit, such as 8GiB"),
    ],
)
def test_a_size_needs_its_unit(size, message):
    """24 is not 24 bytes: every odd size is CFG023 with what to write (rows 14 and 16)."""
    assert faults(f"nodes: {{desk: {{vram: {size}}}}}\n") == [f"1:22 nodes.desk.vram: {message} [CFG023]"]
    assert faults(f"nodes: {{desk: {{vram: {{cuda:0: {size}}}}}}}\n") == [
        f"1:31 nodes.desk.vram.cuda:0: {message} [CFG023]"
    ]


@pytest.mark.parametrize(
    ("node", "place"),
    [
        ("vram: 0GiB", "22 nodes.desk.vram"),
        ("vram: {cuda:0: 0B}", "31 nodes.desk.vram.cuda:0"),
        ("ram: 0GiB", "21 nodes.desk.ram"),
        ("ssd: {path: /x, budget: 0MiB}", "40 nodes.desk.ssd.budget"),
    ],
)
def test_a_node_gives_more_than_nothing(node, place):
    """A room of 0 bytes is CFG034, as any other number that is out of range (row 27)."""
    assert faults(f"nodes: {{desk: {{{node}}}}}\n") == [f"1:{place}: must be more than 0 [CFG034]"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (role("unload: {idle: 10}"), "2:61 roles.coder.unload.idle: 10 of what? write 10s [CFG023]"),
        (role("unload: {idle: soon}"), "2:61 roles.coder.unload.idle: 'soon' is not a number with a unit, such as 8s [CFG023]"),
        ("policy: {vram_high: 92}\n", "1:21 policy.vram_high: 92 of what? write 92% [CFG023]"),
        ("policy: {vram_high: 920%}\n", "1:21 policy.vram_high: '920%' is more than 100% [CFG023]"),
        ("policy: {lease: [1s]}\n", "1:10 policy.lease: expected a quantity such as 10s [CFG022]"),
    ],
)  # fmt: skip
def test_times_and_shares_need_their_unit(text, fault):
    """Unitless seconds and shares are CFG023 with a suggestion."""
    assert faults(text) == [fault]


def test_decimal_units_are_accepted_with_a_warning():
    """24GB is 24 * 10**9 bytes, and L1 says what that is in GiB (row 15)."""
    lab = load("nodes: {desk: {vram: 24GB, ssd: {path: 24GB, budget: 1TiB}}}\n", {})
    assert lab.nodes["desk"].vram == 24 * 10**9
    assert [str(warning) for warning in lab.warnings] == [
        "cluster.yaml:1:22 nodes.desk.vram: 24GB is 24,000,000,000 bytes (22.4 GiB); is GiB meant? [L1]"
    ]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ("persona: 1.20", '9 roles.coder.persona: expected text, found 1.20; quote it: "1.20" [CFG024]'),
        ("persona: true", '9 roles.coder.persona: expected text, found true; quote it: "true" [CFG024]'),
        ("description: 010", '13 roles.coder.description: expected text, found 010; quote it: "010" [CFG024]'),
        ("consults: [1e3]", '11 roles.coder.consults[0]: expected text, found 1e3; quote it: "1e3" [CFG024]'),
        ("pin: yes", "5 roles.coder.pin: 'yes' is text; expected true or false [CFG024]"),
        ("pin: 1", "5 roles.coder.pin: '1' is a number; expected true or false [CFG024]"),
        ("generation: {max_tokens: '5'}", "25 roles.coder.generation.max_tokens: '5' is text; expected a whole number [CFG024]"),
        ("generation: {max_tokens: 5.5}", "25 roles.coder.generation.max_tokens: '5.5' is not a whole number [CFG024]"),
        ("generation: {max_tokens: true}", "25 roles.coder.generation.max_tokens: 'True' is not a whole number [CFG024]"),
        ("generation: {temperature: warm}", "26 roles.coder.generation.temperature: 'warm' is text; expected a number [CFG024]"),
    ],
)  # fmt: skip
def test_text_and_numbers_are_not_taken_for_each_other(fields, fault):
    """A number where text belongs is CFG024 with the quotes to write, and the other way round (row 17)."""
    assert refused(fields) == fault


def test_words_that_yaml_1_1_changed_stay_words():
    """`no`, `on` and `12:30` are text, as YAML 1.2 says (row 17)."""
    lab = load("roles: {r: {lora_path: no, location: RAM, persona: on, description: 12:30}}\n", {})
    coder = lab.roles["r"]
    assert (coder.lora_path, coder.persona, coder.description) == ("no", "on", "12:30")


def test_missing_fields_are_named():
    """What an entry must have is CFG025 at the entry (row 18)."""
    assert faults("bases: {small: {}}\nroles:\n  coder: {persona: x}\n") == [
        "1:9 bases.small: the field model is missing [CFG025]",
        "3:3 roles.coder: the field location is missing [CFG025]",
        "3:3 roles.coder: the field lora_path is missing [CFG025]",
    ]


@pytest.mark.parametrize(
    ("tier", "message"),
    [
        ("vrm", "unknown tier 'vrm'; did you mean 'vram'?"),
        ("VRM", "unknown tier 'VRM'; did you mean 'VRAM'?"),
        ("dsk", "unknown tier 'dsk'; did you mean 'disk'?"),
        ("floppy", "unknown tier 'floppy'; one of VRAM, RAM, SSD, disk, network"),
        ("3", "unknown tier '3'; one of VRAM, RAM, SSD, disk, network"),
    ],
)
def test_an_unknown_tier_is_answered_with_the_nearest(tier, message):
    """CFG021 suggests in the letter case that was written (row 23)."""
    text = f"roles:\n  coder:\n    lora_path: x\n    location: {tier}\n"
    assert faults(text) == [f"4:15 roles.coder.location: {message} [CFG021]"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("bases: {b: {model: x, dtype: bf16}}\n", "1:30 bases.b.dtype: unknown dtype 'bf16'; did you mean 'bfloat16'? [CFG021]"),
        ("bases: {b: {model: x, kernels: fast}}\n", "1:32 bases.b.kernels: unknown kernels 'fast'; one of auto, torch [CFG021]"),
        ("bases: {b: {model: x, slot_dtype: float16}}\n", "1:35 bases.b.slot_dtype: unknown slot_dtype 'float16'; did you mean 'bfloat16'? [CFG021]"),
        ("bases: {b: {model: x, device: gpu}}\n", "1:31 bases.b.device: unknown device 'gpu'; one of auto, cpu, cuda, cuda:0, cuda:1 … [CFG037]"),
        ("serve: {api_keys: [{name: x, hash: y, scope: adm}]}\n", "1:46 serve.api_keys[0].scope: unknown scope 'adm'; did you mean 'admin'? [CFG021]"),
        ("nodes: {desk: {vram: {gpu0: 1GiB}}}\n", "1:29 nodes.desk.vram.gpu0: unknown device 'gpu0'; one of cpu, cuda:0, cuda:1 … [CFG037]"),
    ],
)  # fmt: skip
def test_an_unknown_choice_is_answered_with_the_nearest(text, fault):
    """Fields of a few words behave as tiers do."""
    assert faults(text) == [fault]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ("unload: {idle: -5s}", "15 roles.coder.unload.idle: '-5s' is below zero [CFG034]"),
        ("unload: {idle: 0s}", "15 roles.coder.unload.idle: must be more than 0 [CFG034]"),
        ("generation: {temperature: .nan}", "26 roles.coder.generation.temperature: 'nan' is not a finite number [CFG034]"),
        ("generation: {top_p: 1.5}", "20 roles.coder.generation.top_p: must be at most 1 [CFG034]"),
        ("generation: {min_p: 1.5}", "20 roles.coder.generation.min_p: must be at most 1 [CFG034]"),
        ("generation: {repetition_penalty: 0}", "33 roles.coder.generation.repetition_penalty: must be at least 0.01 [CFG034]"),
        ("generation: {seed: -1}", "19 roles.coder.generation.seed: must be at least 0 [CFG034]"),
    ],
)  # fmt: skip
def test_numbers_have_their_limits(fields, fault):
    """What is out of range is CFG034 with the limit (row 27)."""
    assert refused(fields) == fault


@pytest.mark.parametrize(
    ("persona", "code"),
    [
        ("<|im_start|>system", "CFG072"),
        ("be [INST] good", "CFG072"),
        ("hello {{name}}", "CFG073"),
        ("hello {% if x %}", "CFG073"),
        ("x" * 65_537, "CFG071"),
    ],
)
def test_a_persona_is_plain_text(persona, code):
    """Control tokens, template variables and 64 KiB of text are refused (row 39)."""
    assert refused(f"persona: '{persona}'").endswith(f"[{code}]")


@pytest.mark.parametrize("persona", ["if a < b: return {x: 1}", "x" * 65_536, "{ {a} } and <s-expressions>"])
def test_ordinary_braces_may_be_in_a_persona(persona):
    """Only what looks like a template is refused, not every brace."""
    assert load(role(f"persona: '{persona}'"), {}).roles["coder"].persona == persona


@pytest.mark.parametrize(
    "schedule",
    [
        "0 9 * * 1-5",
        "*/5 * * * *",
        "0 0 1,15 jan-mar SUN",
        "59 23 31 12 7",
        "  0  9 * * * ",
        "0-30/10 * * * mon,fri",
    ],
)
def test_a_schedule_of_five_fields_is_accepted(schedule):
    """Lists, ranges, steps and names are what cron has."""
    assert cron_fault(schedule) is None


@pytest.mark.parametrize(
    ("schedule", "offset"),
    [
        ("0 9 * * 1-8", 8),
        ("0 9 * *", 7),
        ("0 9 * * * *", 10),
        ("60 9 * * *", 0),
        ("0 24 * * *", 2),
        ("0 9 0 * *", 4),
        ("0 9 * foo *", 6),
        ("0 9 * * 5-1", 8),
        ("0 9 */0 * *", 4),
        ("0 1,2,x * * *", 6),
        ("0 1, * * *", 4),
        ("@daily", 6),
        ("", 0),
    ],
)
def test_a_bad_schedule_has_the_position_of_its_fault(schedule, offset):
    """The fault is found at the character where it is."""
    fault = cron_fault(schedule)
    assert fault is not None
    assert fault.offset == offset


def test_the_caret_points_into_a_schedule():
    """CFG038 has the line and column of the bad part itself, quoted or not (row 44)."""
    assert refused('warm: {at: "0 9 * * 1-8"}') == (
        "20 roles.coder.warm.at: field 5 (day of the week): '1-8' is not *, a value from 0 to 7, a range such as "
        "0-7, or one with a step such as */5 [CFG038]"
    )
    assert refused("warm: {at: 0 99 * * *}").startswith("13 roles.coder.warm.at: field 2 (hour): '99' ")


def test_a_message_is_one_printable_line():
    """A value of many lines or with control characters is quoted and shortened."""
    text = role("x: 1").replace("x: 1", 'rag: "a\\nb\\e[31m' + "c" * 200 + '"')
    shown = r"a\nb\x1b[31m" + "c" * 49 + "..."
    assert faults(text) == [
        f"2:51 roles.coder.rag: expected a list, such as [one, two], found '{shown}' [CFG022]"
    ]
