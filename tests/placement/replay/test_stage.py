import pytest

from placement.config import ConfigError, load
from placement.errors import UserError
from placement.replay.replay import POLICIES, play
from placement.replay.stage import of_lab
from placement.replay.trace import Ask, Cargo, Header, Trace
from placement.replay.what_if import what_if
from placement.state import Item, Limits
from placement.tiers import Tier
from placement.units import parse_bytes

FILE = """\
lab: athens
nodes:
  desk: {vram: 20GiB, ram: 1GiB, ssd: {path: /ssd, budget: 40GiB}}
bases:
  small: {model: ./base, node: desk, slots: 4, kv_cache: 2GiB}
roles:
  a: {base: small, lora_path: ./a, location: VRAM, pin: true}
  b: {base: small, lora_path: ./b, location: RAM, unload: {idle: 1min}}
  c: {base: small, lora_path: ./c, location: disk, warm: {after: [b]}}
policy: {want_deadline: 5s}
"""


def trace(*roles):
    """Return a trace that asks these roles of 100 MiB, one each second."""
    items = {Item(f"{role}@1"): Cargo(100 * 2**20, role) for role in dict.fromkeys(roles)}
    header = Header(
        "log", None, items, 8, 2**30, {"SSD>RAM": 1e9, "RAM>VRAM": 1e10}, {"SSD>RAM": 0.0, "RAM>VRAM": 0.0}
    )
    return Trace(header, tuple(Ask(float(t), role, 0.5) for t, role in enumerate(roles)))


def staged(made, text=FILE, slots=None):
    """Return what `of_lab` makes of a trace and a file."""
    return of_lab(made, load(text, {}, name="lab.yaml"), Limits(), slots)


def test_a_lab_gives_the_stage_its_room_and_each_role_its_home():
    """Budgets, slots, homes, pins, warming and unloading are the file's; bytes are the trace's."""
    _, stage = staged(trace("a", "b", "c"))
    assert stage.slots == 4
    assert stage.patience_s == 5.0
    assert (stage.room(Tier.VRAM).budget, stage.room(Tier.VRAM).fixed) == (20 * 2**30, 2 * 2**30)
    assert stage.room(Tier.VRAM).seats == {"small": 4}
    assert stage.room(Tier.RAM).budget == 2**30
    a, b, c = stage.specs
    assert (a.home.tier, a.pinned, b.home.tier, b.idle_s) == (Tier.VRAM, True, Tier.RAM, 60.0)
    assert (c.home.tier, c.after, c.nbytes) == (Tier.SSD, ("b",), 100 * 2**20)


def test_every_policy_plays_in_a_lab():
    """The pinned role is warm for ours, whatever the others do."""
    made, stage = staged(trace("a", "b", "c", "a", "b", "c"))
    scores = {policy: play(made, policy, stage) for policy in POLICIES}
    assert all(score.asks == 6 and not score.refused for score in scores.values())


def test_a_role_that_the_file_lacks_is_an_error():
    """The near one is named."""
    with pytest.raises(UserError, match=r"the trace asks role 'aa', which the file lacks.*\[TRC084\]"):
        staged(trace("a", "aa"))


def test_roles_of_several_bases_are_an_error():
    """One engine is played."""
    two = FILE.replace("roles:\n", "  big: {model: ./big, node: desk}\nroles:\n").replace(
        "c: {base: small", "c: {base: big"
    )
    with pytest.raises(UserError, match=r"roles of several bases \(small, big\).*\[TRC084\]"):
        staged(trace("a", "c"), two)
    assert staged(trace("a", "b"), two)[1].slots == 4


@pytest.mark.parametrize(
    ("change", "tier", "budget"),
    [("node.desk.ram=96GiB", Tier.RAM, "96GiB"), ("node.desk.vram=40GiB", Tier.VRAM, "40GiB")],
)
def test_what_if_changes_one_value_of_the_file(change, tier, budget):
    """Everything else stays as it was."""
    _, stage = staged(trace("a", "b", "c"), what_if(FILE, [change]))
    assert stage.room(tier).budget == parse_bytes(budget)
    assert stage.specs == staged(trace("a", "b", "c"))[1].specs


def test_what_if_reaches_bases_roles_and_the_policy():
    """Nested fields too; what the file lacks is added."""
    text = what_if(
        FILE,
        [
            "base.small.slots=16",
            "role.b.location=SSD",
            "role.b.unload.to=disk",
            "policy.vram_high=90%",
            "role.a.pin=false",
        ],
    )
    lab = load(text, {}, name="lab.yaml")
    assert lab.bases["small"].slots == 16
    assert (lab.roles["b"].location, lab.roles["b"].unload.idle_s) == (Tier.SSD, 60.0)
    assert (lab.policy.vram_high, lab.roles["a"].pin) == (0.9, False)


def test_without_a_change_the_file_is_the_same_to_the_letter():
    """Comments stay."""
    assert what_if("# mine\n" + FILE, []) == "# mine\n" + FILE


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("node.desk.vram", "is no KEY=VALUE of a file"),
        ("vram=40GiB", "is no KEY=VALUE of a file"),
        ("desk.vram=40GiB", "begins with no section of a file"),
        ("node.dsk.vram=40GiB", "names node 'dsk'; did you mean 'desk'?"),
        ("role.critic.pin=true", "names role 'critic'; one of a, b, c"),
        ("node.desk=40GiB", "names no field of 'desk'"),
    ],
)
def test_a_change_that_cannot_be_made_is_an_error_that_shows_how_to_write_one(change, told):
    """A typo would else say nothing has changed."""
    with pytest.raises(UserError) as error:
        what_if(FILE, [change])
    assert error.value.code == "TRC087"
    assert told in error.value.message
    assert "node.NAME.ram=96GiB" in error.value.hint


def test_a_value_that_the_file_would_refuse_is_refused_as_there():
    """The schema judges, in its own words."""
    with pytest.raises(ConfigError, match="40 of what"):
        load(what_if(FILE, ["node.desk.vram=40"]), {}, name="lab.yaml")
