"""A round table of real roles: who hears what, who is announced, and what a turn costs."""

import pytest

from actors.aio import AioLab
from actors.answer import End, Found, Piece
from actors.client import Lab
from actors.rag.prompt import Citation, Consulted
from actors.roundtable import RoundTable, Turn
from placement.errors import UserError, WorldError

NAMES = ("philosopher", "coder")
CITED = Citation(1, "plato", "republic.md", "Book IV", 120, 560, 0.8)
TURN = Turn(
    round=1,
    role="philosopher",
    text="All is <water>.",
    citations=(CITED,),
    consulted=(Consulted(2, "critic", "critic@1", "Hardly."),),
    left_out=(),
    version="philosopher@1",
    tier="RAM",
    exposed_s=0.25,
    total_s=1.5,
)


@pytest.fixture
def stage(stage):
    """A stage with two roles whose adapters are not in VRAM."""
    for name in NAMES:
        stage.role(name)
    return stage


async def cool(stage):
    """Take every adapter out of VRAM."""
    await stage.engine.cool.remote(*(f"{name}@1" for name in NAMES))


@pytest.mark.ray
async def test_roles_speak_in_turn_and_hear_what_was_said(stage):
    """Two rounds of two roles are four turns; each prompt holds the turns before it, and no later one."""
    table = await AioLab(stage.lab).roundtable("Why?", NAMES, rounds=2)
    assert [(turn.round, turn.role) for turn in table.turns] == [
        (1, "philosopher"),
        (1, "coder"),
        (2, "philosopher"),
        (2, "coder"),
    ]
    said = [prompt.count("@1 speaks") for _, prompt in stage.heard()]
    assert said == [0, 1, 2, 3]
    assert all("Why?" in prompt for _, prompt in stage.heard())


@pytest.mark.ray
async def test_the_next_speaker_is_warm_before_its_turn(stage):
    """With announcements only the first speaker waits for its adapter; without, each does.

    An announcement is made when the turn before begins, and nobody is announced after the last.
    """
    lab = AioLab(stage.lab)
    await cool(stage)
    cold = await lab.roundtable("Why?", NAMES, warm_ahead=False)
    assert [turn.tier for turn in cold.turns] == ["RAM", "RAM"]
    assert cold.exposed_s == pytest.approx(0.5)
    assert not [call for call in stage.calls() if call[0] == "warm"]
    await cool(stage)
    ahead = await lab.roundtable("Why?", NAMES)
    assert [turn.tier for turn in ahead.turns] == ["RAM", "VRAM"]
    assert ahead.exposed_s == pytest.approx(0.25)
    assert [call[1] for call in stage.calls() if call[0] == "warm"] == ["coder"]


@pytest.mark.ray
async def test_each_event_of_each_turn_can_be_heard_as_it_comes(stage):
    """Whoever listens gets the speaker with each event, in the order of the turns."""
    heard = []
    await AioLab(stage.lab).roundtable("Why?", NAMES, hear=lambda role, event: heard.append((role, event)))
    kinds = [(role, type(event)) for role, event in heard]
    once = [Found, Piece, Piece, End]
    assert kinds == [(name, kind) for name in NAMES for kind in once]


@pytest.mark.ray
async def test_a_speaker_that_fails_is_shown_and_the_table_goes_on(stage):
    """What the world did to one role does not end the table, and nobody hears a turn that was not spoken."""
    stage.role("artist", item="", failure=WorldError("TRC012", "did not come up"))
    table = await AioLab(stage.lab).roundtable("Why?", ("philosopher", "artist", "coder"))
    assert [bool(turn.problem) for turn in table.turns] == [False, True, False]
    assert "artist: did not answer: did not come up [TRC012]" in str(table)
    assert "artist:" not in stage.heard()[-1][1]


@pytest.mark.ray
def test_a_table_for_a_role_that_there_is_not_is_refused(stage):
    """A wrong name is an error of the call, also of the call that blocks."""
    with pytest.raises(UserError) as refused:
        Lab(stage.lab).roundtable("Why?", ["philosopher", "nobody"], warm_ahead=False)
    assert refused.value.code == "TRC001"


@pytest.mark.parametrize(("roles", "rounds"), [([], 1), ("philosopher", 1), (["philosopher"], 0)])
async def test_a_table_needs_roles_and_rounds(roles, rounds):
    """Nobody, a name in place of a list, and no round are told before anybody is asked."""
    with pytest.raises(UserError) as refused:
        await AioLab("nowhere").roundtable("Why?", roles, rounds)
    assert refused.value.code == "TRC019"


def test_a_table_shows_turns_sources_tiers_and_what_was_waited_for():
    """As text: who said what on which sources, from which tier, and the seconds that turns waited."""
    table = RoundTable("Why?", (TURN, TURN), warm_ahead=True, unannounced=("coder: no coordinator",))
    shown = str(table)
    assert "philosopher: All is <water>.\n  [1] plato/republic.md 0.80 chars 120-560 Book IV" in shown
    assert "[2] critic (critic@1): Hardly." in shown
    assert "philosopher@1 · adapter from RAM, 250ms waited for it · 1.5s" in shown
    assert "2 turns in 3s, 500ms of it waiting for adapters; next speaker announced" in shown
    assert shown.endswith("not announced: coder: no coordinator")


def test_a_notebook_shows_a_table_as_text_and_not_as_markup():
    """What a role says is escaped in HTML."""
    html = RoundTable("Why?", (TURN,), warm_ahead=False)._repr_html_()
    assert "All is &lt;water&gt;." in html
    assert "nobody announced" in html
