"""Prefixes: rows that hold a beginning are used again, and nobody waits or is disturbed for their sake."""

from dataclasses import dataclass, field
from itertools import count, pairwise

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.lm.prefix import Prefixes
from actors.lm.spans import Spans

PERSONA = list(range(100, 140))


class Room:
    """Prefixes over rows that remember what was written to them: (content, token, position, how)."""

    def __init__(self, capacity=100, grid=1):
        self.cells = np.full(capacity, None, dtype=object)
        self.spans = Spans(capacity)
        self.prefixes = Prefixes(self.spans, self.copy, grid, count().__next__)
        self.copied = []

    def copy(self, source, target, number):
        assert not {*range(source, source + number)} & {*range(target, target + number)}
        self.cells[target : target + number] = self.cells[source : source + number].copy()
        self.copied.append((source, target, number))

    def ask(self, content, tokens, answer=4):
        """Have a request enter and read its prompt; return its first row and what it found written."""
        taken = self.prefixes.take(content, tokens, len(tokens) + answer)
        if taken is not None:
            row, found = taken
            for place in range(found, len(tokens)):
                self.cells[row + place] = (content, tokens[place], place, "prompt")
            self.prefixes.extend(row, len(tokens))
        return taken

    def say(self, content, tokens, answer=()):
        """Let a whole request pass; return how much of its prompt was found."""
        row, found = self.ask(content, tokens, len(answer) + 1)
        self.prefixes.give(row, [*tokens, *answer], len(tokens))
        return found

    def holds(self, row, content, tokens):
        return [cell[:3] for cell in self.cells[row : row + len(tokens)]] == [
            (content, token, place) for place, token in enumerate(tokens)
        ]


def test_what_was_computed_for_one_request_serves_the_next():
    """A shared beginning is copied, its rows hold what they say, and it is counted."""
    room = Room()
    assert room.say("a", [*PERSONA, 1]) == 0
    row, found = room.ask("a", [*PERSONA, 2])
    assert found == len(PERSONA)
    assert room.holds(row, "a", PERSONA)
    assert (room.prefixes.hits, room.prefixes.hit_tokens) == (1, len(PERSONA))


def test_a_prefix_serves_only_its_own_content():
    """Another adapter, or the base, finds nothing of what an adapter has written."""
    room = Room()
    room.say("a", PERSONA)
    assert room.say("", PERSONA) == 0
    assert room.say("b", PERSONA) == 0


def test_the_last_token_is_always_computed():
    """The same prompt again finds all but its last token, which gives the logits."""
    room = Room()
    room.say("a", PERSONA)
    assert room.say("a", PERSONA) == len(PERSONA) - 1


def test_a_running_request_is_copied_from_as_far_as_it_has_written():
    """Two that are in flight together share what the first has told of."""
    room = Room()
    row, _ = room.prefixes.take("a", PERSONA, 45)
    assert room.prefixes.take("a", PERSONA, 5)[1] == 0
    room.prefixes.extend(row, 30)
    assert room.prefixes.take("a", PERSONA, 45)[1] == 30


def test_who_entered_together_catches_up():
    """A request that found nothing takes what its neighbour has written before it reads the rest."""
    room = Room()
    first, _ = room.prefixes.take("a", PERSONA, 45)
    second, found = room.prefixes.take("a", PERSONA, 45)
    assert (found, room.prefixes.catch_up(second)) == (0, 0)
    for place, token in enumerate(PERSONA):
        room.cells[first + place] = ("a", token, place, "prompt")
    room.prefixes.extend(first, len(PERSONA))
    assert room.prefixes.catch_up(second) == len(PERSONA) - 1
    assert room.holds(second, "a", PERSONA[:-1])
    assert room.prefixes.hits == 1


def test_who_has_read_a_part_catches_up_with_the_rest():
    """Only what is missing is copied, to where it belongs."""
    room = Room()
    second, _ = room.prefixes.take("a", PERSONA, 45)
    room.prefixes.extend(second, 10)
    first, _ = room.ask("a", [*PERSONA, 1])
    assert room.prefixes.catch_up(second) == len(PERSONA) - 1
    assert room.copied[-1] == (first + 10, second + 10, len(PERSONA) - 11)


def test_a_session_goes_on_in_place():
    """The next turn begins with all of the last one: its rows are taken over, not copied."""
    room = Room()
    room.say("a", [1, 2, 3], [4, 5])
    assert room.say("a", [1, 2, 3, 4, 5, 6, 7], [8]) == 5
    assert room.copied == []
    assert room.prefixes.kept_rows == 8


def test_a_session_that_fills_the_cache_goes_on_in_place():
    """Where copy and source do not both fit, the source's own rows serve, and others there are evicted."""
    room = Room(20)
    room.say("a", [1, 2, 3, 4, 5, 6, 7, 8], [9])
    room.say("b", [1, 2])
    assert room.say("a", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [15, 16]) == 9
    assert room.prefixes.evictions == 1
    assert room.prefixes.kept_rows == room.spans.used == 16


def test_a_longer_prefix_replaces_the_one_it_covers():
    """No beginning is kept twice, whichever of the two came first."""
    room = Room()
    room.say("a", PERSONA[:20])
    room.say("a", PERSONA[:30])
    assert room.prefixes.kept_rows == 30
    room.say("a", PERSONA[:10])
    assert room.prefixes.kept_rows == 30
    assert room.prefixes.evictions == 0


def test_two_sessions_of_a_persona_hold_it_once():
    """Of the second only its own rows are kept, and its next turn finds the head in the first one's."""
    room = Room(200)
    room.say("a", [*PERSONA, 1, 2])
    room.say("a", [*PERSONA, 3, 4, 5])
    assert room.prefixes.kept_rows == len(PERSONA) + 2 + 3
    turn = [*PERSONA, 3, 4, 5, 6]
    row, found = room.ask("a", turn)
    assert found == len(PERSONA) + 3
    assert room.holds(row, "a", turn)


def test_each_part_of_a_beginning_may_be_kept_by_another():
    """What three requests have in common, two by two, is held once; a fourth finds it all."""
    room = Room(200)
    room.say("a", [*PERSONA[:20], 1])
    room.say("a", [*PERSONA[:30], 2])
    room.say("a", [*PERSONA, 3])
    assert room.prefixes.kept_rows == 21 + 11 + 11
    row, found = room.ask("a", [*PERSONA, 4])
    assert found == len(PERSONA)
    assert room.holds(row, "a", PERSONA)
    assert [number for _, _, number in room.copied[-3:]] == [20, 10, 10]


def test_where_a_copy_does_not_fit_the_head_serves_in_place():
    """Of a beginning that stands in two places, what stands first is taken over, and only that is told."""
    room = Room(86)
    room.say("a", [*PERSONA, 1])
    room.say("a", [*PERSONA, 2, 3, 4])
    copied, turn = len(room.copied), [*PERSONA, 2, 3, 4, 5]
    row, found = room.ask("a", turn)
    assert (found, len(room.copied)) == (len(PERSONA), copied)
    assert room.holds(row, "a", turn)


def test_what_another_covers_that_ran_beside_it_is_not_kept():
    """Of two in flight with one beginning, the shorter is given up when the longer one ends."""
    room = Room()
    short, _ = room.ask("a", PERSONA[:20])
    long, _ = room.ask("a", PERSONA[:30])
    room.prefixes.give(short, PERSONA[:20], 20)
    room.prefixes.give(long, PERSONA[:30], 30)
    assert room.prefixes.kept_rows == 30


def test_a_session_much_longer_than_the_head_it_shares_is_kept_whole():
    """So that its next turn goes on in place."""
    room = Room()
    room.say("a", PERSONA[:10])
    room.say("a", [*PERSONA[:9], *range(20)])
    copied = len(room.copied)
    assert room.say("a", [*PERSONA[:9], *range(22)]) == 9 + 20
    assert len(room.copied) == copied


def test_what_has_lost_its_head_serves_again_when_the_head_is_back():
    """Without it nothing of the rest is found, and nothing is computed twice once somebody has read it."""
    room = Room(200)
    room.say("a", [*PERSONA, 1])
    room.say("a", [*PERSONA, 2, 3, 4])
    row, _ = room.prefixes.take("a", [*PERSONA, 1, 9], 43)
    room.prefixes.give(row, [], 0)
    assert room.prefixes.kept_rows == 3
    row, found = room.ask("a", [*PERSONA, 2, 3, 4, 5])
    assert found == 0
    room.prefixes.give(row, PERSONA, len(PERSONA))
    assert room.say("a", [*PERSONA, 2, 3, 4, 5]) == len(PERSONA) + 3


def test_a_head_outlives_what_lacks_it():
    """Of a head and the rests that are used with it, the rests are evicted first."""
    room = Room(86)
    room.say("a", [*PERSONA, 1])
    room.say("a", [*PERSONA, 2, 3, 4])
    room.prefixes.give(room.prefixes.take("z", [1, 2], 41)[0], [], 0)
    assert (room.prefixes.evictions, room.prefixes.kept_rows) == (1, 41)
    assert room.say("a", [*PERSONA, 2]) == len(PERSONA)


def test_the_least_recently_used_are_evicted_first():
    """Room is made of the oldest, and a use makes a prefix young again."""
    room = Room(46)
    for content in "abcd":
        room.say(content, PERSONA[:10])
    row, found = room.prefixes.take("a", PERSONA[:5], 6)
    room.prefixes.give(row, [], 0)
    row, _ = room.prefixes.take("z", [1, 2], 10)
    room.prefixes.give(row, [], 0)
    assert (found, room.prefixes.evictions) == (4, 1)
    assert [room.say(content, PERSONA[:5]) for content in "abcd"] == [4, 0, 4, 4]


def test_room_is_made_where_least_is_lost():
    """Of several places that suffice, the one with the fewest kept rows is cleared."""
    room = Room(44)
    for content in "abc":
        room.say(content, PERSONA[:10])
    row, _ = room.prefixes.take("z", [1, 2], 24)
    assert (row, room.prefixes.evictions) == (20, 1)


def test_nothing_is_evicted_in_vain():
    """A request that has no room even without kept prefixes takes none of them down."""
    room = Room(40)
    room.ask("z", [1], 19)
    room.say("a", PERSONA[:10])
    assert room.prefixes.take("b", PERSONA, 30) is None
    assert (room.prefixes.evictions, room.prefixes.kept_rows) == (0, 10)


def test_a_grid_shares_whole_cells_of_prompts_only():
    """With a grid neither a part of a cell nor what was computed as an answer is used again."""
    room = Room(grid=8)
    room.say("a", PERSONA[:20], PERSONA[20:30])
    assert room.prefixes.kept_rows == 16
    assert room.say("a", PERSONA[:30]) == 16
    assert room.say("a", PERSONA[:16]) == 8


@dataclass(eq=False)
class Asked:
    """A request in flight in the model."""

    row: int
    rows: int
    content: str
    prompt: list[int]
    written: list[int]
    computed: int = field(default=0)


class Traffic(RuleBasedStateMachine):
    """Requests come, read, answer and end in any order, and every row is checked against what was written."""

    @initialize(grid=st.sampled_from([1, 4]), capacity=st.sampled_from([40, 64]))
    def begin(self, grid, capacity):
        self.grid = grid
        self.capacity = capacity
        self.room = Room(capacity, grid)
        self.asked = []

    @rule(
        content=st.sampled_from(["", "a"]),
        shared=st.integers(0, 24),
        own=st.lists(st.integers(0, 1), min_size=1, max_size=10),
        answer=st.integers(1, 12),
    )
    def enter(self, content, shared, own, answer):
        prompt, prefixes = [7] * shared + own, self.room.prefixes
        before = (prefixes.evictions, prefixes.kept_rows)
        rows = len(prompt) + answer
        taken = prefixes.take(content, prompt, rows)
        if taken is None:
            assert self.widest() < rows
            assert before == (prefixes.evictions, prefixes.kept_rows)
            return
        row, found = taken
        assert 0 <= row <= self.capacity - rows
        assert found <= len(prompt) - 1
        assert found % self.grid == 0
        self.asked.append(Asked(row, rows, content, prompt, prompt[:found], found))
        self.may_be_used_again(row, found)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), cells=st.integers(1, 12))
    def read(self, data, cells):
        one = data.draw(st.sampled_from(self.asked))
        begin, end = len(one.written), min(len(one.written) + cells * self.grid, len(one.prompt))
        whole = len(one.prompt) - len(one.prompt) % self.grid
        for place in range(begin, end):
            how = "prompt" if place < whole else "part of a cell"
            self.room.cells[one.row + place] = (one.content, one.prompt[place], place, how)
        if end > begin:
            one.written, one.computed = one.prompt[:end], end
            self.room.prefixes.extend(one.row, end)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def catch_up(self, data):
        one = data.draw(st.sampled_from(self.asked))
        if len(one.written) < len(one.prompt):
            written = self.room.prefixes.catch_up(one.row)
            assert len(one.written) <= written < len(one.prompt)
            one.written, one.computed = one.prompt[:written], written
            self.may_be_used_again(one.row, written)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), token=st.integers(0, 1))
    def answer(self, data, token):
        one = data.draw(st.sampled_from(self.asked))
        if len(one.prompt) <= len(one.written) < one.rows:
            self.room.cells[one.row + len(one.written)] = (one.content, token, len(one.written), "answer")
            one.written.append(token)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def end(self, data):
        one = data.draw(st.sampled_from(self.asked))
        self.asked.remove(one)
        self.room.prefixes.give(one.row, one.written, one.computed)

    @invariant()
    def every_request_has_its_rows(self):
        if hasattr(self, "asked"):
            assert all(self.room.holds(one.row, one.content, one.written) for one in self.asked)
            spans = sorted((one.row, one.row + one.rows) for one in self.asked)
            assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))

    @invariant()
    def all_rows_are_accounted_for(self):
        if hasattr(self, "asked"):
            prefixes, free = self.room.prefixes, sum(size for _, size in self.room.spans.gaps)
            assert prefixes.used == sum(one.rows for one in self.asked)
            assert prefixes.used + prefixes.kept_rows + free == self.capacity

    def may_be_used_again(self, row, number):
        if self.grid > 1:
            assert {cell[3] for cell in self.room.cells[row : row + number]} <= {"prompt"}

    def widest(self):
        """The widest room between running requests."""
        walls = sorted((one.row, one.row + one.rows) for one in self.asked)
        edges = [(0, 0), *walls, (self.capacity, self.capacity)]
        return max(start - stop for (_, stop), (start, _) in pairwise(edges))


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=80, stateful_step_count=60, deadline=None, derandomize=True)
