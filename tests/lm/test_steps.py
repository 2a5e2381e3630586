"""Steps over a model that only takes time: when decode steps are run, who is told, whose fault a fault is."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from actors.lm.delivery import Delivery
from actors.lm.request import Request, Sampling
from actors.lm.sample import Drawing
from actors.lm.schedule import BESIDE_TOKENS, Schedule
from actors.lm.sequence import Caller, Sequence
from actors.lm.steps import SLICE, Steps
from placement.errors import WorldError

LAYERS = 10
DECODE_S = 10.0
LAYER_S = 1.0
BIG_LAYER_S = 6.0


class Room:
    """KV rows without end."""

    def __init__(self):
        self.held = {}

    def take(self, _content, _tokens, rows):
        """Take rows."""
        row = len(self.held)
        self.held[row] = rows
        return row, 0

    def extend(self, row, _written):
        """Rows of a sequence that still runs."""
        assert row in self.held

    def catch_up(self, _row):
        """Nothing is ever shared."""
        return 0

    def give(self, row, _tokens, _computed_as_prompt):
        """Give rows back."""
        del self.held[row]


class Slow:
    """A model with a clock: a decode step takes DECODE_S, a layer of a prompt forward LAYER_S."""

    def __init__(self):
        self.now_s = 0.0
        #: what was computed, by its end: the time, and the positions of each part
        self.done = []
        #: slots whose forward raises
        self.broken = set()
        self.between = lambda: None
        #: of BESIDE_TOKENS; one of fewer takes so much less
        self.layer_s = LAYER_S

    def clock(self):
        """Tell the time."""
        return self.now_s

    def forward(self, parts, *, interlude=None):
        """Take the time of a forward; all logits are for token 5."""
        if interlude is None:
            self.now_s += DECODE_S
        else:
            for _ in range(LAYERS):
                self.between()
                interlude()
                self.now_s += self.layer_s * min(1, sum(len(part.tokens) for part in parts) / BESIDE_TOKENS)
        if self.broken & {part.slot for part in parts}:
            raise RuntimeError("out of luck")
        self.done.append((interlude is None, self.now_s, [(part.first, len(part.tokens)) for part in parts]))
        logits = torch.zeros(sum(part.wanted for part in parts), 8)
        logits[:, 5] = 1.0
        return logits

    def probe(self, slot):
        """Whether the base still works."""
        if slot in self.broken:
            raise RuntimeError("the base is gone")

    def decodes(self):
        """When each decode step ended."""
        return [now_s for decode, now_s, _ in self.done if decode]


class Here:
    """An event loop that does at once what it is told to do."""

    def call_soon_threadsafe(self, call, events):
        """Do it."""
        call(events)


class Lab:
    """Steps over a slow model, and what was told to whom."""

    def __init__(self):
        self.model = Slow()
        self.told = {}
        self.left = []
        self.delivery = Delivery()
        self.room = Room()
        plan = Schedule(self.room, deterministic=True)
        self.steps = Steps(self.model, plan, self.delivery, self.left.append, self.model.clock)

    def ask(self, name="r", prompt=3, answer=5, slot=1, n=1, deadline_s=None):
        """Enter a request."""
        sampling = Sampling(max_tokens=answer, n=n)
        request = Request(name, f"item{slot}", [1] * prompt, sampling, deadline_s)
        told = self.told.setdefault(name, [])
        queue = SimpleNamespace(put_nowait=told.append)
        caller = Caller(request, slot, "", self.model.now_s, Here(), queue)
        for index in range(n):
            text = SimpleNamespace(push=str, end=str, stopped=False)
            caller.answers.append(Sequence(caller, index, text, Drawing.of(sampling, request.tokens, index)))
        self.delivery.opened(caller)
        self.steps.enter(caller)
        return caller

    def turn(self, serve=lambda: True):
        """Do what the decode thread does in a round."""
        self.steps.sweep(self.model.now_s)
        self.steps.schedule.admit(self.model.now_s)
        self.steps.step(serve)
        self.steps.flush()

    def run(self):
        """Go on until everybody has ended."""
        while not self.steps.idle:
            self.turn()

    def ends(self, name):
        """How the answers of a request ended."""
        return [getattr(one, "finish", None) or one.code for one in self.told[name] if is_end(one)]


def is_end(told):
    """Whether what a caller heard ends something."""
    return getattr(told, "finish", "error") is not None


@pytest.fixture
def lab():
    """A lab where nobody asks yet."""
    return Lab()


def gaps_while_reading(lab, prompt):
    """Let four answer while a prompt is read; how long each of their steps came after the one before."""
    for index in range(4):
        lab.ask(f"talks{index}", answer=10_000)
    lab.turn()
    lab.turn()
    began_s, before = lab.model.now_s, len(lab.model.decodes())
    lab.ask("long", prompt, 1)
    while not lab.told["long"]:
        lab.turn()
    steps = [began_s, *lab.model.decodes()[before:]]
    assert min(len(lab.told[f"talks{index}"]) for index in range(4)) >= len(steps)
    return [later - sooner for sooner, later in pairwise(steps)]


def test_a_long_prompt_gives_way_between_its_layers(lab):
    """While 1,500 tokens are read the others get a step per slice, and no gap is over 1.4 steps."""
    gaps = gaps_while_reading(lab, 1500)
    forwards = [parts for decode, _, parts in lab.model.done if not decode][1:]
    assert len(forwards) == -(-1500 // BESIDE_TOKENS)
    assert len(gaps) >= int(1500 / BESIDE_TOKENS * LAYERS * LAYER_S / (SLICE * DECODE_S))
    assert max(gaps) <= DECODE_S + SLICE * DECODE_S


def test_a_model_of_slow_layers_reads_less_at_a_time(lab):
    """Where a layer of a whole forward takes longer than a slice, forwards are of one cell."""
    lab.model.layer_s = BIG_LAYER_S
    gaps = gaps_while_reading(lab, 1500)
    assert max(gaps[2:]) <= DECODE_S + SLICE * DECODE_S


def test_a_prompt_makes_progress_between_decode_steps(lab):
    """The others do not keep a prompt from being read: it gets SLICE of a step's time for each step."""
    lab.ask("talks", answer=10_000)
    lab.turn()
    before = len(lab.model.decodes())
    lab.ask("long", 640, 1)
    while "long" in {name for name, told in lab.told.items() if not told}:
        lab.turn()
    assert len(lab.model.decodes()) - before <= 5 * LAYERS * LAYER_S / (SLICE * DECODE_S) + 2


def test_many_prompts_get_more_of_the_time(lab):
    """With eight prompts to read a slice is eight times as long: they do not wait for each other's."""
    lab.ask("talks", answer=10_000)
    lab.turn()
    before = len(lab.model.decodes())
    for index in range(8):
        lab.ask(f"p{index}", 64, 1)
    while any(not lab.told[f"p{index}"] for index in range(8)):
        lab.turn()
    forwards = 4
    assert len(lab.model.decodes()) - before <= forwards * LAYERS * LAYER_S / (SLICE * DECODE_S * 2) + 2


def test_what_a_nested_step_gives_is_told_at_once(lab):
    """A token of a decode step between two layers is told before the prompt forward goes on."""
    lab.ask("talks", answer=10_000)
    lab.turn()
    heard = []
    lab.model.between = lambda: heard.append(len(lab.told["talks"]))
    lab.ask("long", 64, 1)
    lab.turn()
    assert len(heard) == LAYERS
    assert heard[-1] > heard[0]


def test_a_cancelled_prompt_is_abandoned_at_the_next_layer(lab):
    """A forward that only serves those who have left ends between two layers, and then its rows are free."""
    caller = lab.ask("long", 200, 1)

    def cancel():
        if lab.model.now_s >= 3 * LAYER_S:
            caller.cancelled = True
            assert lab.room.held

    lab.model.between = cancel
    lab.turn()
    assert lab.model.now_s == 3 * LAYER_S
    assert lab.room.held == {}
    assert (lab.left, lab.told["long"]) == ([caller], [])


def test_an_overdue_prompt_is_told_at_once_and_keeps_its_rows_while_they_are_written(lab):
    """Beside another prompt the forward goes on; the late one hears LM003 between two layers."""
    lab.ask("late", 64, 1, deadline_s=2.5)
    lab.ask("other", 64, 1)
    heard = []
    lab.model.between = lambda: heard.append((len(lab.told["late"]), len(lab.room.held)))
    lab.turn()
    assert heard[-1] == (1, 2)
    assert (lab.ends("late"), lab.ends("other")) == (["LM003"], ["length"])
    assert lab.room.held == {}


def test_a_stopped_decoder_abandons_a_prompt(lab):
    """When what is served between layers says that it is over, the forward ends there."""
    lab.ask("long", 200, 1)
    lab.turn(serve=lambda: False)
    assert lab.model.done == []


def test_what_one_adapter_raises_ends_its_requests_alone(lab):
    """A forward that raises for one slot ends those of that slot with LM022; all others get their tokens."""
    for slot in (1, 2, 3):
        lab.ask(f"of{slot}", slot=slot)
    lab.turn()
    lab.model.broken = {2}
    lab.run()
    assert [lab.ends(f"of{slot}") for slot in (1, 2, 3)] == [["length"], ["LM022"], ["length"]]
    assert len(lab.told["of1"]) == len(lab.told["of3"]) == 5
    assert len(lab.left) == 3


def test_a_prompt_that_raises_ends_alone(lab):
    """The same holds for a prompt forward: the prompt of another slot beside it is read."""
    lab.model.broken = {2}
    lab.ask("bad", slot=2)
    lab.ask("good", slot=1)
    lab.run()
    assert (lab.ends("bad"), lab.ends("good")) == (["LM022"], ["length"])


def test_when_the_base_is_broken_too_nobody_is_blamed(lab):
    """If the base cannot be computed alone either, the error of the step is raised: the decoder is over."""
    lab.ask("one", slot=1)
    lab.model.broken = {0, 1}
    with pytest.raises(RuntimeError, match="out of luck"):
        lab.turn()


def test_a_fault_of_a_nested_step_is_no_fault_of_the_prompt(lab):
    """What ends the decoder in a step between layers is raised as it is; the prompt is not tried again."""
    lab.ask("talks", answer=10_000)
    lab.turn()
    lab.ask("long", 64, 1, slot=2)
    lab.model.between = lambda: lab.model.broken.update({0, 1})
    before = len(lab.model.done)
    with pytest.raises(RuntimeError, match="out of luck"):
        lab.turn()
    assert [parts for decode, _, parts in lab.model.done[before:] if not decode] == []


def test_several_answers_read_their_prompt_once(lab):
    """Of n answers the first reads the prompt; each ends by itself, and the request when the last has."""
    caller = lab.ask("three", 100, 4, n=3)
    lab.turn()
    assert lab.steps.schedule.waiting() == {"item1": 2}
    lab.run()
    assert sorted(told.index for told in lab.told["three"] if told.finish) == [0, 1, 2]
    assert len(lab.told["three"]) == 12
    assert lab.left == [caller]
    assert lab.room.held == {}


def test_a_cancelled_request_takes_all_its_answers_along(lab):
    """Answers that run and answers that wait for the first are gone together, once."""
    caller = lab.ask("three", 100, 400, n=3)
    lab.turn()
    lab.turn()
    caller.cancelled = True
    lab.turn()
    assert (lab.left, lab.steps.idle, lab.steps.schedule.idle) == ([caller], True, True)
    assert lab.room.held == {}


def test_nothing_is_told_after_the_end(lab):
    """Whoever ended a request, later events of it are dropped: there is one end and nothing behind it."""
    lab.ask("one", answer=10)
    lab.turn()
    lab.delivery.end_all(lambda: WorldError("LM021", "stuck"))
    told = len(lab.told["one"])
    lab.turn()
    assert len(lab.told["one"]) == told
