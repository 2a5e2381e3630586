"""Who may ask a role, roles that ask roles, and the incarnations of a role; real roles on a real Ray."""

import asyncio
import os
import signal
import time
from contextlib import contextmanager

import pytest
import ray

from actors.aio import AioLab
from actors.answer import Found, Piece
from actors.ask import USER, Ask, Stamp, admit
from actors.errors import NotAllowed, UnknownName, Unreachable
from actors.names import Handles, current, incarnations, numbered
from actors.rag.prompt import Consulted, Said
from actors.stream import Stream
from placement.errors import TierceError, UserError, WorldError

pytestmark = pytest.mark.ray


async def until(true, within_s=90.0):
    """Poll a condition of the world under a deadline."""
    give_up = time.monotonic() + within_s
    while not await true():
        assert time.monotonic() < give_up, "the condition did not come true in time"
        await asyncio.sleep(0.05)


def asked_by(stage, role, stamp, **options):
    """Ask as whoever the stamp names."""
    return Stream(Handles(stage.lab), role, Ask("Why?", **options), stamp).whole()


async def pid_of(role):
    """Return the pid of an actor that has started."""
    return (await role.beat.remote()).pid


@contextmanager
def frozen(pid):
    """Stop a process in the middle of whatever it does, and let it go on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_caller_that_is_not_named_is_told_who_may(stage):
    """A refusal names the role, who may activate it, and who asked; whoever is named gets an answer."""
    stage.role("critic", activated_by=("user", "coder"))
    with pytest.raises(NotAllowed) as refused:
        await asked_by(stage, "critic", Stamp("philosopher", ("philosopher",)))
    assert refused.value.code == "TRC002"
    assert refused.value.message == "critic may be activated by user, coder; not by 'philosopher'"
    assert (await asked_by(stage, "critic", Stamp("coder", ("coder",)))).text == "critic@1 speaks"


async def test_the_client_is_the_user_whatever_it_says(stage):
    """What the client passes on is stamped as the user's, and no option of a question changes that."""
    stage.role("critic", activated_by=("coder",))
    with pytest.raises(NotAllowed, match="not by 'user'"):
        await AioLab(stage.lab).ask("critic", "Why?")
    for forged in ({"caller": "coder"}, {"stamp": Stamp("coder")}):
        with pytest.raises(TypeError):
            await AioLab(stage.lab).ask("critic", "Why?", **forged)


async def test_an_answer_cites_the_roles_that_it_consulted(stage):
    """A consulted role gets the same question; its answer stands numbered in the prompt and is cited."""
    stage.role("critic", activated_by=("philosopher",))
    stage.role("philosopher", consults=("critic",))
    answer = await AioLab(stage.lab).ask("philosopher", "Why?")
    assert answer.consulted == (Consulted(1, "critic", "critic@1", "critic@1 speaks"),)
    assert "[1] critic (critic@1): critic@1 speaks" in str(answer)
    (first, question), (second, prompt) = stage.heard()
    assert (first, second) == ("critic@1", "philosopher@1")
    assert "Why?" in question
    assert "Answers of other roles:\n[1] critic: critic@1 speaks" in prompt


async def test_passages_and_consulted_roles_are_numbered_together(stage):
    """Passages come first, then the roles, and no number stands for two things."""
    stage.role("critic", activated_by=("philosopher",))
    reads = (stage.shard("notes", by_text=True),)
    stage.role("philosopher", consults=("critic",), shards=reads)
    answer = await AioLab(stage.lab).ask("philosopher", "Why?")
    assert [(source.n, type(source).__name__) for source in answer.sources] == [
        (1, "Citation"),
        (2, "Consulted"),
    ]


async def test_a_shard_that_reads_text_needs_no_embedder(stage):
    """A role whose shards are searched by words alone calls no embedder: there is none here."""
    stage.role("reader", shards=(stage.shard("notes", by_text=True),))
    answer = await AioLab(stage.lab).ask("reader", "Why?")
    assert [citation.document for citation in answer.citations] == ["text.md"]


async def test_consulted_roles_are_asked_at_the_same_time(stage):
    """Two roles that both wait in the middle of their answers have both begun."""
    for name in ("critic", "poet"):
        stage.role(name, activated_by=("philosopher",))
        await stage.engine.hold.remote(f"{name}@1")
    stage.role("philosopher", consults=("critic", "poet"))
    asking = asyncio.create_task(AioLab(stage.lab).ask("philosopher", "Why?"))

    async def both_begun():
        return {item for item, _ in await stage.engine.heard.remote()} == {"critic@1", "poet@1"}

    await until(both_begun)
    for name in ("critic", "poet"):
        await stage.engine.release.remote(f"{name}@1")
    assert [told.role for told in (await asking).consulted] == ["critic", "poet"]


async def test_a_consulted_role_that_refuses_ends_the_ask(stage):
    """Without the right to ask, there is no answer that seems to have asked."""
    stage.role("critic", activated_by=("user",))
    stage.role("philosopher", consults=("critic",))
    with pytest.raises(NotAllowed, match="critic may be activated by user; not by 'philosopher'"):
        await AioLab(stage.lab).ask("philosopher", "Why?")
    assert stage.heard() == []


async def test_a_circle_of_roles_is_refused_with_its_way(stage):
    """Roles that consult each other are stopped where the circle closes."""
    stage.role("philosopher", consults=("critic",), activated_by=("user", "critic"))
    stage.role("critic", consults=("philosopher",), activated_by=("philosopher",))
    with pytest.raises(NotAllowed, match="philosopher > critic > philosopher") as refused:
        await AioLab(stage.lab).ask("philosopher", "Why?")
    assert refused.value.code == "TRC003"


def test_three_roles_in_a_row_may_be_consulted_and_a_fourth_may_not():
    """The length of the way from the user is bounded, and the refusal says the way."""
    stamp = USER
    for asked in ("one", "two", "three", "four"):
        admit(asked, (stamp.caller,), stamp)
        stamp = stamp.through(asked)
    with pytest.raises(NotAllowed, match="one > two > three > four > five") as refused:
        admit("five", ("four",), stamp)
    assert refused.value.code == "TRC003"


async def test_a_consulted_role_that_cannot_serve_is_named_and_the_answer_goes_on(stage):
    """A broken adapter of another role is no reason to say nothing, and is not kept quiet."""
    stage.role("critic", activated_by=("philosopher",), item="", failure=UserError("ADP001", "no weights"))
    stage.role("philosopher", consults=("critic", "nobody"))
    answer = await AioLab(stage.lab).ask("philosopher", "Why?")
    assert answer.consulted == ()
    assert answer.text == "philosopher@1 speaks"
    assert "role critic: no weights [ADP001]" in answer.left_out
    assert any(left_out.startswith("role nobody: ") for left_out in answer.left_out)


async def test_a_consulted_role_that_hangs_takes_half_of_the_time(stage):
    """What is consulted leaves time for the answer itself, though its process does not even run."""
    critic = stage.role("critic", activated_by=("philosopher",))
    await pid_of(stage.role("philosopher", consults=("critic",)))
    with frozen(await pid_of(critic)):
        answer = await AioLab(stage.lab).ask("philosopher", "Why?", deadline_s=6.0)
    assert "role:critic did not answer in time" in answer.left_out[0]
    assert answer.text == "philosopher@1 speaks"


async def test_a_role_that_hangs_ends_the_stream_at_its_deadline(stage):
    """A stopped process cannot say that it is late: the stream says it."""
    role = stage.role("critic")
    with frozen(await pid_of(role)), pytest.raises(Unreachable) as late:
        await AioLab(stage.lab).ask("critic", "Why?", deadline_s=1.0)
    assert late.value.code == "TRC030"


async def test_an_engine_that_hangs_ends_the_answer_at_the_deadline(stage):
    """The deadline of a question holds from its first step to the last."""
    await pid_of(stage.role("critic"))
    await stage.engine.hold.remote("critic@1")
    began_s = time.monotonic()
    with pytest.raises(WorldError):
        await AioLab(stage.lab).ask("critic", "Why?", deadline_s=2.0)
    assert time.monotonic() - began_s < 10


async def test_what_was_said_before_stands_in_the_prompt(stage):
    """Earlier turns come oldest first, before the question."""
    stage.role("critic")
    said = (Said("philosopher", "All is water."), Said("coder", "All is code."))
    await AioLab(stage.lab).ask("critic", "Why?", said=said)
    ((_, prompt),) = stage.heard()
    assert "Said so far:\nphilosopher: All is water.\ncoder: All is code." in prompt


async def test_a_client_follows_a_role_that_moved(stage):
    """A handle to an incarnation that ends leads on to the current one, without a word to the asker."""
    first = stage.role("critic")
    lab = AioLab(stage.lab)
    await lab.ask("critic", "One?")
    second = stage.role("critic", incarnation=2, item="critic@2")
    assert await first.close.remote(1.0)
    assert (await lab.ask("critic", "Two?")).version == "critic@2"
    assert current(stage.lab, "role:critic") == "role:critic#2"
    ray.kill(first)
    await until_gone(stage, "role:critic")
    assert (await lab.ask("critic", "Three?")).version == "critic@2"
    beat = await second.beat.remote()
    assert (beat.incarnation, beat.node, beat.asking) == (2, "desk", 0)


async def until_gone(stage, actor):
    """Wait until the name of an incarnation is free."""

    async def gone():
        return actor not in [name for _, name in incarnations(stage.lab, "role:critic")]

    await until(gone)


async def test_a_role_follows_one_that_moved(stage):
    """A role that consulted an incarnation which was ended since asks the current one."""
    first = stage.role("critic", activated_by=("philosopher",))
    stage.role("philosopher", consults=("critic",))
    lab = AioLab(stage.lab)
    await lab.ask("philosopher", "One?")
    stage.role("critic", activated_by=("philosopher",), incarnation=2, item="critic@2")
    ray.kill(first)
    assert (await lab.ask("philosopher", "Two?")).consulted[0].version == "critic@2"


async def test_an_incarnation_that_ends_finishes_what_it_began(stage):
    """Closing waits for the answers in flight, says when some are left, and lets none of them break."""
    role = stage.role("critic")
    await stage.engine.hold.remote("critic@1")
    asking = asyncio.create_task(AioLab(stage.lab).ask("critic", "Why?"))

    async def begun():
        return (await role.beat.remote()).asking == 1

    await until(begun)
    assert not await role.close.remote(0.1)
    with pytest.raises(TierceError) as moved:
        await AioLab(stage.lab).ask("critic", "Me too?")
    assert moved.value.code == "TRC018"
    closing = role.close.remote(30.0)
    await stage.engine.release.remote("critic@1")
    assert await closing
    assert (await asking).text == "critic@1 speaks"


async def test_a_role_that_was_killed_between_two_asks_is_waited_for(stage):
    """An ask that meets a dead process is put to the one that Ray starts in its place."""
    role = stage.role("critic")
    lab = AioLab(stage.lab)
    await lab.ask("critic", "One?")
    os.kill(await pid_of(role), signal.SIGKILL)
    assert (await lab.ask("critic", "Two?")).text == "critic@1 speaks"


async def test_an_answer_that_broke_is_not_begun_again(stage):
    """Once something was heard, the death of its role is told and the answer is not said twice."""
    role = stage.role("critic")
    await stage.engine.hold.remote("critic@1")
    pid = await pid_of(role)
    heard = []

    async def listen():
        async for event in AioLab(stage.lab).stream("critic", "Why?").events():
            heard.append(event)
            if isinstance(event, Piece):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(Unreachable):
        await listen()
    assert [type(event) for event in heard] == [Found, Piece]
    assert len(stage.heard()) == 1


async def test_a_role_that_there_is_not_is_named(stage):
    """Asking nobody is the asker's mistake."""
    with pytest.raises(UnknownName, match="no role 'critic'"):
        await AioLab(stage.lab).ask("critic", "Why?")


async def test_an_adapter_at_an_address_is_fetched_by_the_first_ask(stage):
    """Of two first asks one fetches, and its cost is told with the activation; later asks fetch nothing."""
    stage.role("critic", item="")
    await stage.engine.cool.remote("critic@9")
    lab = AioLab(stage.lab)
    answers = await asyncio.gather(lab.ask("critic", "One?"), lab.ask("critic", "Two?"))
    assert {answer.version for answer in answers} == {"critic@9"}
    assert "network" in {answer.end.activation.source for answer in answers if answer.end.activation}
    await lab.ask("critic", "Three?")
    assert [call for call in stage.calls() if call[0] == "fetch"] == [("fetch", "critic", "user")]


async def test_a_role_without_its_base_takes_tokenizer_and_template_from_the_engine(stage, tmp_path):
    """Where the base's directory is not on the role's node, its engine gives what a prompt needs."""
    stage.role("critic", model=str(tmp_path / "elsewhere"))
    answer = await asked_by(stage, "critic", USER)
    assert answer.text == "critic@1 speaks"
    assert "You are critic." in stage.heard()[0][1]


def test_incarnations_are_those_of_one_role_in_their_order():
    """Numbers are compared as numbers, and a name that only begins alike is another role's."""
    names = ["role:a#10", "role:ab", "role:a", "role:a#2", "role:a#x", "role:b#3", "coordinator"]
    assert numbered(names, "role:a") == [(1, "role:a"), (2, "role:a#2"), (10, "role:a#10")]
    assert numbered(names, "role:b") == [(3, "role:b#3")]
    assert numbered(names, "role:c") == []
