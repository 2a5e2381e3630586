"""What `plan`, `diff` and `apply` write and how they end; the labs here are in the test's own process."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.cli.faults import Exit
from actors.progress import Progress
from placement.errors import UserError
from placement.messages import Copy, Drop
from placement.preview.ahead import Step
from placement.preview.drift import Drift
from placement.preview.entries import Change, Field
from placement.preview.fit import Misfit, Share
from placement.preview.foresight import Foresight
from placement.preview.plan import Act, Build, Trouble
from placement.preview.room import Fill
from placement.state import Place
from placement.tiers import Tier

MIB = 2**20
RAM, SSD, FAR = Place("desk", Tier.RAM), Place("desk", Tier.SSD), Place("attic", Tier.SSD)
STEPS = (
    Step(Copy("1.1", "coder@1", RAM, FAR, 30 * MIB, "moved by the file"), 0.0, 0.3),
    Step(Copy("1.2", "coder@1", FAR, Place("attic", Tier.RAM), 30 * MIB, "moved by the file"), 0.3, 0.1),
    Step(Drop("1.3", "coder@1", RAM, "moved to attic:RAM"), 0.4, 0.0),
)
MISFIT = Misfit(
    RAM,
    64 * MIB,
    (Share("large", 80 * MIB), Share("small", 30 * MIB)),
    ("small",),
    ("small: home desk:SSD", "nodes.desk.ram: 110MiB"),
)


@pytest.fixture
def planned(labs):
    """A plan with something of everything."""
    labs.planned = replace(
        labs.planned,
        changes=(
            Change("~", "role", "coder", (Field("node", "desk", "attic"),)),
            Change("-", "role", "artist", ()),
        ),
        acts=(Act("~", "role:coder", "attic", "node"), Act("-", "role:artist", "desk")),
        builds=(
            Build("critic@2", "./critic", SSD, 5 * MIB),
            Build("war#shard", "./war", RAM, MIB, exact=False),
        ),
        foresight=Foresight(
            steps=STEPS,
            took_s=0.4,
            before=(Fill(RAM, 64 * MIB, 0, 0, 0, 32 * MIB, ()),),
            after=(Fill(RAM, 64 * MIB, 0, 0, 0, 2 * MIB, ()),),
            misfits=(MISFIT,),
        ),
        said=("role critic: added, as was said since the file",),
        absent=(Trouble("node shed", "TRC041", "Ray does not see it", "join it"),),
    )
    return labs.planned


@pytest.mark.usefixtures("planned")
def test_a_plan_shows_copies_with_bytes_way_and_seconds(tierce):
    """Each copy has its bytes, source, target, estimate and reason; more than one leg is shown as a route."""
    out = tierce("plan").out
    assert "+ copy coder@1  30.0 MiB  desk:RAM -> attic:SSD   ~300ms  moved by the file" in out
    assert "- drop coder@1            desk:RAM                        moved to attic:RAM" in out
    assert "route of coder@1: desk:RAM -> attic:SSD -> attic:RAM, ~400ms in all" in out


@pytest.mark.usefixtures("planned")
def test_a_plan_shows_what_changes_who_starts_and_what_is_made(tierce):
    """Entries with their fields before and after, actors, images and indexes; estimates are called so."""
    out = tierce("plan").out
    assert "  ~ role coder\n      node  desk -> attic\n  - role artist\n" in out
    assert "  ~ role:coder on attic, begins anew: node\n  - role:artist on desk\n" in out
    assert "+ critic@2 at desk:SSD, 5.0 MiB, from ./critic" in out
    assert "+ war#shard at desk:RAM, about 1.0 MiB, from ./war" in out
    assert "role critic: added, as was said since the file; it stands" in out
    assert out.rstrip().endswith(
        "Plan: 0 to add, 1 to change, 1 to remove; 2 copies (60.0 MiB, ~400ms), 1 drop; "
        "actors: 0 to start, 1 to stop, 1 to begin anew."
    )


@pytest.mark.usefixtures("planned")
def test_a_plan_has_a_bar_for_each_place_as_it_will_be_and_is(tierce):
    """The bar is of plain signs; below it stand the numbers of now, where they are others."""
    out = tierce("plan").out
    assert "  desk:RAM  [+.............................]  items 2.0 MiB + 62.0 MiB free of 64.0 MiB\n" in out
    assert "            now: items 32.0 MiB + 32.0 MiB free of 64.0 MiB\n" in out


@pytest.mark.usefixtures("planned")
def test_what_does_not_fit_is_an_addition_with_its_repairs(tierce):
    """Biggest first, the sum, who is left out, and the changes that would do."""
    assert (
        """\
  desk:RAM has a budget of 64.0 MiB
      large     80.0 MiB
      small     30.0 MiB
      in all   110.0 MiB, 46.0 MiB more than the budget
    without room: small
    it fits with: small: home desk:SSD   or   nodes.desk.ram: 110MiB
"""
        in tierce("plan").out
    )


def test_a_plan_is_plain_text_where_nobody_watches(tierce, planned):
    """Without a terminal there is no escape sequence in it, and none of what a file holds."""
    assert planned.changes
    assert "\x1b" not in tierce("plan").out


def test_nothing_to_do_is_said_so(tierce):
    """A lab that is as its file says has a plan of one sentence."""
    done = tierce("plan")
    assert (done.code, "Nothing to do" in done.out) == (0, True)


@pytest.mark.parametrize("verb", ["plan", "diff"])
def test_the_detailed_exit_code_tells_changes_from_errors(tierce, labs, lab, planned, verb):
    """0 for nothing, 2 for something, 1 for an error that would else be 2."""
    labs.drifted, labs.planned = (), replace(planned, changes=(), acts=(), builds=(), foresight=Foresight())
    assert tierce(verb, "--detailed-exitcode").code == 0
    labs.drifted, labs.planned = (Drift("role", "coder", "home", "desk:RAM", "desk:SSD"),), planned
    assert tierce(verb, "--detailed-exitcode").code == 2
    assert tierce(verb).code == 0
    lab.error = UserError("CFG021", "unknown tier")
    assert (tierce(verb, "--detailed-exitcode").code, tierce(verb).code) == (1, 2)


def test_a_plan_that_cannot_be_applied_is_shown_and_is_an_error(tierce, labs, planned):
    """What forbids it stands in the plan with its code; the exit says error, and apply does nothing."""
    labs.planned = replace(
        planned, troubles=(Trouble("base small", "TRC048", "slots cannot change", "down"),)
    )
    done = tierce("plan")
    assert "base small: slots cannot change [TRC048]" in done.out
    assert (done.code, tierce("plan", "--detailed-exitcode").code, tierce("apply").code) == (1, 1, 1)
    assert not any(asked[0] == "apply" for asked in labs.asked)


def test_the_plan_as_json_has_every_number(tierce, planned):
    """`--json` gives steps with bytes and seconds, routes, room, misfits, and the mark."""
    told = json.loads(tierce("plan", "--json").out)
    assert told["schema"] == "tierce.plan/v1"
    assert told["mark"] == planned.mark()
    assert told["steps"][0] == {
        "verb": "copy",
        "item": "coder@1",
        "source": "desk:RAM",
        "target": "attic:SSD",
        "nbytes": 30 * MIB,
        "begins_s": 0.0,
        "took_s": 0.3,
        "reason": "moved by the file",
    }
    assert told["routes"] == {"coder@1": ["desk:RAM", "attic:SSD", "attic:RAM"]}
    assert told["room"][0]["then"]["free"] == 62 * MIB
    assert told["misfits"][0]["repairs"] == list(MISFIT.repairs)


def test_an_apply_as_json_says_how_long_it_took_and_who_cannot_serve(tierce, lab, planned):
    """`apply --json` gives the plan that was done, its seconds as they were, and the failed ones; it is 6."""
    lab.things = (lab.things[0], replace(lab.things[1], problem="no weights in the directory [ADP002]"))
    done = tierce("apply", "--json")
    told = json.loads(done.out)
    assert told["schema"] == "tierce.apply/v1"
    assert told["steps"][0]["item"] == "coder@1"
    assert 0 < told["took_s"] != planned.foresight.took_s
    assert [thing["name"] for thing in told["failed"]] == ["coder"]
    assert done.code == Exit.PARTIAL


def test_an_apply_after_which_some_cannot_serve_is_six(tierce, lab):
    """The failed role is named with its reason, and the file is applied all the same."""
    lab.things = (lab.things[0], replace(lab.things[1], problem="no weights in the directory [ADP002]"))
    done = tierce("apply")
    assert done.code == Exit.PARTIAL
    assert "lab athens is as cluster.yaml says" in done.err
    assert "error: role coder: no weights in the directory [ADP002]" in done.err


@pytest.mark.parametrize("name", ["plan.json", "plan", "plan.yaml"])
def test_a_kept_plan_is_applied_by_its_mark(tierce, labs, planned, tmp_path, name):
    """Whatever its file is called: `apply` plans once more, finds the same, and hands the mark on."""
    kept = tmp_path / name
    tierce("plan", "lab.yaml", "--out", str(kept), "--forget")
    labs.steps = (Progress("role artist is removed"),)
    done = tierce("apply", str(kept))
    asked = [asked for asked in labs.asked if asked[0] == "apply"]
    assert done.code == 0
    assert "role artist is removed" in done.err
    ((_, file, _, forget, mark),) = asked
    assert (file.endswith("/lab.yaml"), forget) == (True, True)
    assert mark == replace(planned, file=file, forget=True).mark()


def test_a_kept_plan_that_would_be_another_now_is_not_applied(tierce, labs, planned, tmp_path):
    """When the lab has changed since, the lines that differ are told and nothing is done."""
    kept = tmp_path / "plan.json"
    tierce("plan", "--out", str(kept))
    labs.planned = replace(planned, foresight=Foresight(steps=STEPS[2:]))
    done = tierce("apply", str(kept))
    assert done.code == 1
    assert "the lab has changed since" in done.err
    assert "no longer: + copy coder@1, 31457280 bytes, desk:RAM -> attic:SSD" in done.err
    assert not any(asked[0] == "apply" for asked in labs.asked)


def test_what_is_no_plan_is_not_applied(tierce, tmp_path):
    """A JSON file that is something else is refused by name."""
    other = tmp_path / "other.json"
    other.write_text('{"schema": "tierce.ps/v1"}', encoding="utf-8")
    assert (tierce("apply", str(other)).code, "is no plan" in tierce("apply", str(other)).err) == (2, True)


def test_a_lab_file_that_is_written_in_json_is_no_plan(tierce, labs, tmp_path):
    """JSON is YAML: what has no schema of ours is the file of a lab."""
    file = tmp_path / "lab.json"
    file.write_text('{"lab": "athens", "roles": {}}', encoding="utf-8")
    assert tierce("apply", str(file)).code == 0
    assert ("plan", str(file), None, False) in labs.asked


def test_a_plan_that_cannot_be_kept_is_an_error_and_no_change(tierce, planned):
    """A file that cannot be written ends with 1, which is not 2 for changes."""
    assert planned.changes_anything
    done = tierce("plan", "--out", "/nowhere/x.json", "--detailed-exitcode")
    assert (done.code, "cannot be kept in /nowhere/x.json: No such file" in done.err) == (1, True)


def test_a_plan_that_cannot_take_its_place_leaves_no_part(tierce, planned, tmp_path, monkeypatch):
    """What was written before the error is taken away again."""
    assert planned.changes_anything

    def full(_: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", full)
    assert tierce("plan", "--out", str(tmp_path / "x.json")).code == 1
    assert list(tmp_path.iterdir()) == []


def test_the_same_plan_has_the_same_mark_whatever_the_clock_says(planned):
    """Estimates and reasons are not part of what is done; the file and each copy are."""
    slower = tuple(replace(step, took_s=9.0, begins_s=step.begins_s + 1) for step in STEPS)
    assert replace(planned, foresight=Foresight(steps=slower)).mark() == planned.mark()
    assert replace(planned, fingerprint="f2").mark() != planned.mark()
    assert replace(planned, foresight=Foresight(steps=STEPS[1:])).mark() != planned.mark()


def test_a_diff_shows_the_file_and_the_lab(tierce, labs):
    """- is what the file says, + what is; why stands below. Without differences it says so."""
    assert "the lab is as cluster.yaml says" in tierce("diff").out
    labs.drifted = (Drift("role", "coder", "home", "desk:RAM", "desk:SSD", "ordered"),)
    assert "  role coder home\n    - desk:RAM\n    + desk:SSD\n      ordered\n" in tierce("diff").out
    assert json.loads(tierce("diff", "--json").out)["drift"][0]["world"] == "desk:SSD"
