"""Who enters and what a step computes: fair between items, in order within one, nobody outside for ever."""

from types import SimpleNamespace

import pytest

from actors.lm.request import Request, Sampling
from actors.lm.schedule import AGE_S, ALONE_TOKENS, BESIDE_TOKENS, GRID, MAX_CHUNKS, Schedule
from actors.lm.sequence import Caller, Sequence


class Room:
    """KV rows of which only the number matters; the first `known` tokens of every prompt are written."""

    def __init__(self, rows, known=0):
        self.free = rows
        self.known = known
        self.caught = 0
        self.asked = 0
        self.given = []
        self._rows = {}

    def take(self, _content, tokens, rows):
        """Take rows, if there are so many."""
        self.asked += 1
        if rows > self.free:
            return None
        self.free -= rows
        self._rows[len(self._rows)] = rows
        return len(self._rows) - 1, min(self.known, len(tokens) - 1)

    def catch_up(self, _row):
        """What others have written."""
        return self.caught

    def give(self, row, tokens, computed_as_prompt):
        """Free rows."""
        self.free += self._rows[row]
        self.given.append((tokens, computed_as_prompt))


def ask(item, prompt=10, answer=10):
    """A sequence that waits for nothing yet."""
    request = Request(f"{item}", item, [*range(prompt)], Sampling(max_tokens=answer))
    caller = Caller(request, 1, item, 0.0, SimpleNamespace(), SimpleNamespace())
    caller.answers = [Sequence(caller, 0, None, SimpleNamespace(seen=[]))]
    return caller.answers[0]


def schedule(rows=1000, known=0, *, deterministic=True, **more):
    """A schedule over so many rows."""
    return Schedule(Room(rows, known), deterministic=deterministic, **more)


def names(sequences):
    """The items of sequences."""
    return [sequence.caller.item for sequence in sequences]


def read(sequence):
    """Let a running sequence have read its prompt and said one token."""
    sequence.written = len(sequence.prompt)
    sequence.out.append(7)


def counts(pieces):
    """What each piece takes of which item."""
    return [(piece.sequence.caller.item, piece.first, piece.count) for piece in pieces]


def test_requests_of_one_item_enter_in_order():
    """A small request does not overtake a large one of its own item, though it would fit."""
    plan = schedule(rows=50)
    first, large, small = ask("a", 10, 20), ask("a", 10, 30), ask("a", 1, 1)
    for one in (first, large, small):
        plan.add(one)
    plan.admit(0.0)
    assert plan.running == [first]
    plan.remove(first)
    plan.admit(0.0)
    assert plan.running == [large, small]


def test_the_item_that_had_least_enters_first():
    """One item floods the queue; the request of another one, which came last, takes the next place."""
    plan = schedule(max_running=2)
    for _ in range(5):
        plan.add(ask("hot"))
    plan.admit(0.0)
    plan.add(ask("cold"))
    assert names(plan.running) == ["hot", "hot"]
    plan.remove(plan.running[0])
    plan.admit(1.0)
    assert names(plan.running) == ["hot", "cold"]


def test_items_are_charged_tokens_and_not_requests():
    """An item of long requests gets fewer of them in than one of short requests."""
    plan = schedule(rows=10_000, max_running=12)
    for _ in range(20):
        plan.add(ask("long", 50, 50))
        plan.add(ask("short", 10, 10))
    plan.admit(0.0)
    assert sorted(names(plan.running)) == ["long"] * 2 + ["short"] * 10


def test_an_item_gets_back_what_it_did_not_use():
    """An item that asked for many tokens and ended early is charged for what it had."""
    plan = schedule(rows=10_000, max_running=1)
    early = ask("a", 10, 500)
    other = ask("b", 10, 100)
    for one in (early, other, ask("b", 10, 100), ask("a", 10, 10)):
        plan.add(one)
    plan.admit(0.0)
    read(early)
    plan.remove(early)
    plan.admit(0.0)
    assert plan.running == [other]
    read(other)
    other.written = other.rows
    plan.remove(other)
    plan.admit(0.0)
    assert names(plan.running) == ["a"]


def test_an_item_that_was_away_has_no_credit():
    """Who comes back after a pause begins where the least served of the others stands."""
    plan = schedule(rows=10_000, max_running=1)
    plan.add(ask("busy", 100, 100))
    entered = []
    for turn in range(30):
        if turn == 20:
            for _ in range(20):
                plan.add(ask("away", 100, 100))
        plan.add(ask("busy", 100, 100))
        plan.admit(0.0)
        entered += names(plan.running)
        plan.running[0].written = plan.running[0].rows
        plan.remove(plan.running[0])
    assert entered[20:].count("away") == 5


def test_a_request_without_room_is_overtaken_by_other_items():
    """What fits enters although a larger request of another item came before it."""
    plan = schedule(rows=100)
    plan.add(ask("a", 10, 60))
    plan.admit(0.0)
    plan.add(ask("large", 10, 80))
    plan.add(ask("small", 5, 5))
    plan.admit(1.0)
    assert names(plan.running) == ["a", "small"]


def test_nobody_overtakes_a_request_for_ever():
    """After AGE_S at the head of its item a request that finds no room is next, whatever else would fit."""
    plan = schedule(rows=100)
    first = ask("a", 10, 60)
    plan.add(first)
    plan.admit(0.0)
    plan.add(ask("large", 10, 80))
    plan.admit(1.0)
    plan.add(ask("small", 5, 5))
    plan.admit(1.1 + AGE_S)
    assert names(plan.running) == ["a"]
    plan.remove(first)
    plan.admit(1.2 + AGE_S)
    assert names(plan.running) == ["large", "small"]


@pytest.mark.parametrize("seed", range(5))
def test_everybody_enters_in_the_end(seed):
    """Whatever the sizes, with small requests coming in all the time, a large one enters in bounded time."""
    plan = schedule(rows=200, max_running=8)
    large = ask("large", 100, 100)
    plan.add(large)
    plan.add(ask(f"{seed}", 1, 5 + seed))
    for second in range(60):
        plan.add(ask(f"item{(second * (seed + 2)) % 7}", 10, 10 + seed))
        plan.admit(float(second))
        if large in plan.running:
            return
        plan.remove(plan.running[(second * 3 + seed) % len(plan.running)])
    raise AssertionError(plan.waiting())


def test_a_full_cache_is_not_asked_again_before_something_changes():
    """While nobody has left and nobody has come a waiting request costs a step nothing."""
    plan = schedule(rows=20)
    plan.add(ask("a", 10, 10))
    plan.add(ask("b", 10, 10))
    for _ in range(10):
        plan.admit(0.0)
    assert plan.prefixes.asked == 2


def test_rows_go_back_with_the_tokens_that_are_written():
    """Of an answer the last token is not written, and of its tokens those of the prompt were read as one."""
    plan = schedule()
    one = ask("a", 3, 10)
    plan.add(one)
    plan.admit(0.0)
    one.written, one.out = 5, [7, 8, 9]
    plan.remove(one)
    assert plan.prefixes.given == [([0, 1, 2, 7, 8], 3)]
    assert plan.idle


def test_a_prompt_is_cut_at_the_grid():
    """In deterministic mode every chunk is a cell of the grid or ends the prompt, whatever the room."""
    plan = schedule()
    plan.add(ask("a", 3 * GRID + 5))
    plan.admit(0.0)
    cells = [("a", 0, GRID), ("a", GRID, GRID), ("a", 2 * GRID, GRID), ("a", 3 * GRID, 5)]
    assert counts(plan.pieces()) == cells


def test_cells_do_not_depend_on_company():
    """Beside others a prompt is read in fewer cells at a time, but in the same ones."""
    plan = schedule(rows=10_000)
    plan.add(ask("a", 3 * GRID + 5))
    for _ in range(3):
        plan.add(ask("b", 100))
    plan.admit(0.0)
    answering = plan.running[-1]
    read(answering)
    seen = []
    while plan.reading():
        for piece in plan.pieces():
            piece.sequence.written = piece.first + piece.count
            seen.append((piece.sequence.caller.item, piece.first, piece.count))
            if not piece.sequence.unread:
                piece.sequence.out.append(7)
    assert [cell for cell in seen if cell[0] == "a"] == [
        ("a", 0, GRID),
        ("a", GRID, GRID),
        ("a", 2 * GRID, GRID),
        ("a", 3 * GRID, 5),
    ]
    assert {cell for cell in seen if cell[0] == "b"} == {("b", 0, GRID), ("b", GRID, 100 - GRID)}


def test_a_known_prefix_is_not_read_again():
    """A sequence whose first cell is written begins with the second one."""
    plan = schedule(known=GRID)
    plan.add(ask("a", GRID + 9))
    plan.admit(0.0)
    assert counts(plan.pieces()) == [("a", GRID, 9)]


@pytest.mark.parametrize(("answering", "room"), [(False, ALONE_TOKENS), (True, BESIDE_TOKENS)])
def test_a_prompt_forward_is_smaller_beside_answers(answering, room):
    """One long prompt is read by ALONE_TOKENS a forward, by BESIDE_TOKENS while somebody answers."""
    plan = schedule(rows=10_000, deterministic=False)
    plan.add(ask("talks"))
    plan.admit(0.0)
    read(plan.running[0])
    if not answering:
        plan.remove(plan.running[0])
    plan.add(ask("a", 1000))
    plan.admit(0.0)
    assert counts(plan.pieces()) == [("a", 0, room)]


def test_short_prompts_do_not_wait_for_a_long_one():
    """Half of a forward is for the prompt that came first, the rest for those with the least to read."""
    plan = schedule(rows=10_000, deterministic=False)
    for name, prompt in (("long", 2000), ("middle", 300), ("short", 20)):
        plan.add(ask(name, prompt))
    plan.admit(0.0)
    half = ALONE_TOKENS // 2
    assert sorted(counts(plan.pieces())) == [("long", 0, half), ("middle", 0, half - 20), ("short", 0, 20)]


def test_a_forward_has_so_many_chunks_and_no_more():
    """Many tiny prompts are read MAX_CHUNKS at a time."""
    plan = schedule(rows=10_000)
    for index in range(20):
        plan.add(ask(f"{index}", 3))
    plan.admit(0.0)
    assert len(plan.pieces()) == MAX_CHUNKS


def test_forwards_of_one_cell_alternate():
    """With room for a single cell every second forward is for the prompt that came first: none waits long."""
    plan = schedule(rows=10_000)
    for name, prompt in (("talks", 1), ("long", 640), ("short", 100)):
        plan.add(ask(name, prompt))
    plan.admit(0.0)
    read(plan.running[0])
    seen = []
    for _ in range(4):
        (piece,) = plan.pieces(GRID)
        piece.sequence.written = piece.first + piece.count
        piece.sequence.out += [7] * (not piece.sequence.unread)
        seen.append(piece.sequence.caller.item)
    assert seen == ["long", "short", "long", "short"]


def test_a_beginning_is_read_once_for_all_who_enter_with_it():
    """Whoever begins as somebody who is being read waits for that, and goes on where the two part."""
    plan = schedule(rows=10_000)
    for _ in range(3):
        plan.add(ask("a", 3 * GRID))
    plan.admit(0.0)
    first, *others = plan.running
    assert {piece.sequence for piece in plan.pieces()} == {first}
    plan.prefixes.caught = first.written = 2 * GRID
    assert {piece.sequence for piece in plan.pieces()} == {first, *others}
    assert [other.written for other in others] == [2 * GRID] * 2


def test_nobody_waits_for_a_leader_that_has_left():
    """When the one who reads for others ends, the next of them reads."""
    plan = schedule(rows=10_000)
    for _ in range(3):
        plan.add(ask("a", 3 * GRID))
    plan.admit(0.0)
    first, second, third = plan.running
    plan.pieces()
    first.over = True
    plan.remove(first)
    assert {piece.sequence for piece in plan.pieces()} == {second}
    assert plan.running == [second, third]
