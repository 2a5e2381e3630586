"""Two slots and three roles on a real Ray: who is asked once gets a turn among those asked all the time."""

import asyncio
from collections import Counter

import pytest

from tests.tiny_lab import FILE, without_shards

pytestmark = pytest.mark.ray

HOT = ("philosopher", "coder")
CALLERS = 3
#: How often each caller of a hot role may be answered while the cold one waits.
HANDFUL = 4


@pytest.fixture(scope="module")
def narrow(make_lab, parts, folder_of):
    """A lab of three roles without shards, whose engine has two slots."""
    text = FILE.format(name="narrow", root=folder_of("narrow"), parts=parts, idle="10min", slots=2)
    return make_lab("narrow", text=without_shards(text))


def test_a_role_that_is_asked_once_is_answered_among_two_that_are_asked_all_the_time(narrow):
    """Its answer comes within a handful of theirs, which stay the same words; nobody gets an error."""
    answered = Counter()

    async def keep_asking(role, over):
        texts = set()
        while not over.is_set():
            texts.add((await narrow.aio.ask(role, "Go on and on.", max_tokens=300)).text)
            answered[role] += 1
        return texts

    async def play():
        over = asyncio.Event()
        callers = [asyncio.create_task(keep_asking(role, over)) for role in HOT for _ in range(CALLERS)]
        try:
            while min(answered[role] for role in HOT) < CALLERS:
                await asyncio.sleep(0.01)
                assert not any(caller.done() for caller in callers)
            before = answered.total()
            answer = await narrow.aio.ask("artist", "Sing.")
            meanwhile, hot = answered.total() - before, Counter(answered)
            while min((answered - hot)[role] for role in HOT) < 1:
                await asyncio.sleep(0.01)
                assert not any(caller.done() for caller in callers)
        finally:
            over.set()
            texts = await asyncio.gather(*callers)
        return answer, meanwhile, texts

    answer, meanwhile, texts = asyncio.run(asyncio.wait_for(play(), 240))
    assert answer.end.version.startswith("artist@")
    assert answer.end.activation is not None
    assert meanwhile <= HANDFUL * CALLERS * len(HOT)
    for each in (texts[:CALLERS], texts[CALLERS:]):
        assert len(set().union(*each)) == 1
    assert any("has had its seat longest" in line.text for role in HOT for line in narrow.story(role))
