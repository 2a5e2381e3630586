"""A lab on a real Ray: asks, tiers, moves, pins, and what is refused."""

import asyncio

import pytest
import ray
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.answer import End, Found, Piece
from actors.errors import UnknownName
from actors.launch import raise_lab
from placement.errors import UserError
from tests.tiny_lab import FILE, without_shards
from tests.waiting import until

pytestmark = pytest.mark.ray

ROLES = ("philosopher", "coder", "artist")


def peft_answer(parts, role, messages, new_tokens):
    """What PEFT and transformers alone say, greedily, in fp32."""
    base = AutoModelForCausalLM.from_pretrained(parts / "base")
    tokenizer = AutoTokenizer.from_pretrained(parts / "base")
    tuned = PeftModel.from_pretrained(base, parts / role).eval()
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = tuned.generate(**prompt, max_new_tokens=new_tokens, do_sample=False)
    return tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_each_item_comes_up_where_the_file_says(lab):
    """After `up`, VRAM, RAM and SSD each hold what the file gives them."""
    tiers = {thing.name: thing.home for thing in lab.ps().things}
    assert tiers == {
        "philosopher": "desk:VRAM(cpu)",
        "coder": "desk:RAM",
        "artist": "desk:SSD",
        "war": "desk:RAM",
        "bread": "desk:SSD",
    }
    assert all(not thing.problem for thing in lab.ps().things)


PERSONAS = {"philosopher": "You think.", "coder": "You code.", "artist": "You sing."}


def test_each_role_says_what_peft_says_alone_and_in_one_batch(make_lab, parts, folder_of):
    """Through the whole lab, greedy text in fp32 equals PEFT's own for each of three roles."""
    text = FILE.format(name="bare", root=folder_of("bare"), parts=parts, idle="10min", slots=3)
    lab = make_lab("bare", text=without_shards(text))
    due = {}
    for role, persona in PERSONAS.items():
        messages = [{"role": "system", "content": persona}, {"role": "user", "content": "Who are you?"}]
        due[role] = peft_answer(parts, role, messages, 12)
    assert len(set(due.values())) == 3
    assert {role: lab.ask(role, "Who are you?").text for role in due} == due

    async def together():
        answers = await asyncio.gather(*(lab.aio.ask(role, "Who are you?") for role in due))
        return dict(zip(due, (answer.text for answer in answers), strict=True))

    assert asyncio.run(together()) == due


def test_roles_asked_at_once_answer_as_they_do_alone(lab):
    """Three roles decoded in one batch give the words that each gives alone."""
    alone = {role: lab.ask(role, "Tell me.").text for role in ROLES}

    async def together():
        answers = await asyncio.gather(*(lab.aio.ask(role, "Tell me.") for role in ROLES for _ in range(3)))
        return [(answer.end.role, answer.text) for answer in answers]

    for role, text in asyncio.run(together()):
        assert text == alone[role]


def test_an_answer_cites_the_passages_in_its_prompt(lab):
    """A role with a shard answers with source, span and score, best first."""
    answer = lab.ask("philosopher", "When did the wall fall?")
    assert answer.citations[0].document == "war.md"
    assert answer.citations[0].shard == "war"
    assert answer.citations[0].end > answer.citations[0].start
    scores = [citation.score for citation in answer.citations]
    assert scores == sorted(scores, reverse=True)


def test_a_stream_is_found_then_pieces_then_one_end(lab):
    """The events of an answer come in order, and the pieces make up the text."""
    events = list(lab.events("philosopher", "When?"))
    assert isinstance(events[0], Found)
    assert isinstance(events[-1], End)
    text = "".join(event.text for event in events if isinstance(event, Piece))
    assert text == lab.ask("philosopher", "When?").text


def test_a_warm_ask_needs_no_activation_and_a_cold_one_says_what_it_cost(lab):
    """The first ask of a role at rest in RAM names the tier and bytes that it came from.

    The next names none.
    """
    lab.move("coder", to="SSD")
    lab.move("coder", to="RAM")
    cold, warm = lab.ask("coder", "One?"), lab.ask("coder", "Two?")
    assert cold.end.activation is not None
    assert cold.end.activation.source == "RAM"
    assert cold.end.activation.nbytes == lab.ps().thing("coder").nbytes
    assert warm.end.activation is None


def test_a_role_moves_between_all_tiers_and_says_the_same(lab):
    """RAM, VRAM and SSD in turn as the home of one role: the same version, the same words, one ready home."""
    words, version = lab.ask("artist", "Sing.").text, lab.ps().thing("artist").version
    for tier in ("RAM", "VRAM", "SSD", "VRAM", "RAM", "SSD"):
        moved = lab.move("artist", to=tier)
        assert moved.home.startswith(f"desk:{tier}")
        assert f"{moved.home} ready" in moved.copies
        assert moved.version == version
        assert lab.ask("artist", "Sing.").text == words
    lab.move("artist", to="SSD")


def test_a_role_moves_while_it_answers(lab):
    """Answers that stream while their role is moved up and down end whole, with the words of one at rest."""
    words = lab.ask("artist", "Sing on.", max_tokens=40).text

    async def asks_and_moves():
        asks = [asyncio.create_task(lab.aio.ask("artist", "Sing on.", max_tokens=40)) for _ in range(6)]
        for tier in ("VRAM", "RAM", "VRAM", "SSD"):
            await lab.aio.move("artist", tier)
        return [answer.text for answer in await asyncio.gather(*asks)]

    assert asyncio.run(asks_and_moves()) == [words] * 6


def test_a_shard_moves_between_ram_and_ssd_and_finds_the_same(lab):
    """The index of a shard changes tier while searches go on, and the passages stay the same."""
    found = lab.ask("philosopher", "When did the wall fall?").citations
    for tier in ("SSD", "RAM"):
        assert lab.move("war", to=tier).tier == tier
        again = lab.ask("philosopher", "When did the wall fall?").citations
        assert [(c.document, c.start, c.end) for c in again] == [(c.document, c.start, c.end) for c in found]


def test_a_move_down_leaves_no_replica_above(lab):
    """Once a role's home is below, its old place is free."""
    lab.move("artist", to="VRAM")
    assert lab.move("artist", to="SSD").copies == ("desk:SSD ready",)


def test_a_pinned_role_is_shown_as_pinned_and_unpinning_lets_go(lab):
    """`pin` and `unpin` show in the row, and in the story with who ordered them."""
    assert lab.pin("philosopher").pinned
    assert not lab.unpin("philosopher").pinned
    told = [line.text for line in lab.story("philosopher")]
    assert told[-2:] == ["pinned by the user", "unpinned by the user"]


def test_the_story_tells_copies_with_their_causes(lab):
    """Each copy and drop in a story says why it was done."""
    lab.move("artist", to="VRAM")
    lab.move("artist", to="SSD")
    told = " | ".join(line.text for line in lab.story("artist"))
    assert "moved by the user" in told
    assert "to desk:VRAM(cpu)" in told


def test_why_tells_who_ordered_a_home_and_what_an_ask_comes_to(lab):
    """The order is in the story, and holds over what the file says."""
    lab.move("artist", to="RAM")
    told = lab.why("artist")
    assert told.home_by == "`move`, ordered by the user"
    assert {here.place: here.rule for here in told.here}["desk:RAM"] == f"its home by {told.home_by}"
    lab.move("artist", to="SSD")
    told = lab.why("artist")
    assert (told.home_by, [here.place for here in told.here]) == ("the file", ["desk:SSD"])
    assert "desk:RAM for" in " ".join(told.absent)
    assert told.asked.startswith("ready at desk:VRAM(cpu) in about ")
    described = lab.describe("artist")
    assert described.why.item == described.item == f"artist@{described.thing.version}"
    assert "engine:small on desk" in described.actors
    assert str(described).endswith(described.why.asked)


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        (lambda lab: lab.ask("nobody", "?"), UnknownName, "TRC001"),
        (lambda lab: lab.move("nobody", to="RAM"), UnknownName, "TRC001"),
        (lambda lab: lab.story("nobody"), UnknownName, "TRC001"),
        (lambda lab: lab.describe("nobody"), UnknownName, "TRC001"),
        (lambda lab: lab.move("coder", to="vrm"), UserError, "CFG021"),
        (lambda lab: lab.move("coder", to="RAM", node="attic"), UnknownName, "CFG030"),
        (lambda lab: lab.move("coder", to="network"), UserError, "TRC023"),
        (lambda lab: lab.ask("coder", "word " * 2000), UserError, "RAG002"),
    ],
    ids=[
        "ask nobody",
        "move nobody",
        "story of nobody",
        "nobody described",
        "no tier",
        "no node",
        "network",
        "too long",
    ],
)
def test_what_cannot_be_done_is_refused_by_a_typed_error(lab, call, error, code):
    """Unknown names, tiers and nodes, callers that may not, and questions too long each give their code."""
    with pytest.raises(error) as refused:
        call(lab)
    assert refused.value.code == code


def test_leaving_a_stream_stops_the_decoding(lab):
    """A reader that goes away ends its request: the role holds no lease soon after."""
    for _ in lab.stream("philosopher", "Go on.", max_tokens=300):
        break
    until(lambda: lab.ps().thing("philosopher").leases == 0)


def test_a_role_process_has_no_torch(lab):
    """Only engines and embedders load torch: the resident memory of a role stays far below theirs."""
    rss = {member.name: member.rss for member in lab.ps().members}
    assert rss["role:coder"] < rss["engine:small"] / 2
    assert rss["coordinator"] < rss["engine:small"] / 2
    named = ray.util.list_named_actors(all_namespaces=True)
    names = [each["name"] for each in named if each["namespace"] == lab.name]
    coder = next(name for name in names if name.partition("#")[0] == "role:coder")
    assert not ray.get(ray.get_actor(coder, namespace=lab.name).beat.remote()).torch


def test_up_again_changes_nothing(lab, folder_of):
    """A second `up` of the same file finds the lab as it is: the same coordinator, the same processes."""
    before = {member.name: member.pid for member in lab.ps().members}
    again = raise_lab(str(folder_of(lab.name) / "cluster.yaml"))
    assert {member.name: member.pid for member in again.ps().members} == before
