"""Decoding: steps with many roles beside the base alone, and whole answers beside PEFT and transformers."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from actors.bench import baselines, load, mixed, rig, streams
from actors.bench.plan import sizes
from actors.bench.shapes import TOY, T, prompt
from actors.bench.sheet import Sheet, at_least, at_most
from actors.bench.spread import Spread, interleaved, over, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actors.bench.plan import Plan
    from actors.bench.shapes import Made, Shape
    from actors.lm.decoder import Decoder

#: prompts of one round
Asked: TypeAlias = "list[list[int]]"

PARTS = ("steps", "roles", "throughput", "mixed", "overhead", "load")
ROLES = 8
MODES = {"exact": "float32", "fast": "bfloat16"}
GOALS = {"exact": at_most(1.35), "fast": at_most(1.25)}


def run(plan: Plan) -> list[Sheet]:
    """Measure steps, whole answers, the loop around the model, and closed loops."""
    made = plan.made(ROLES)
    sheets = []
    if plan.does("steps"):
        sheets += _steps(plan, made)
    if plan.does("roles"):
        sheets.append(_roles(plan, made))
    if plan.does("throughput"):
        sheets.append(_throughput(plan, made))
    if plan.does("mixed"):
        sheets.append(mixed.run(plan, made, seated(plan, made)))
    if plan.does("overhead"):
        sheets.append(_overhead(plan))
    if plan.does("load"):
        sheets += load.run(plan, made)
    return sheets


def seats(batch: int, roles: int) -> list[int]:
    """Return the slots of a batch in which `roles` distinct ones take turns; 0 roles are the base."""
    return [1 + at % roles if roles else 0 for at in range(batch)]


def block(batch: rig.Batch, slots: Sequence[int], steps: int) -> float:
    """Return the median seconds of that many steps."""
    return statistics.median(batch.step(slots) for _ in range(steps))


def _steps(plan: Plan, made: Made) -> list[Sheet]:
    batches = sizes(plan, (1, 8, 16), (1, 4))
    distinct = sizes(plan, (1, 4, 8), (1, 4))
    cases: dict[str, Callable[[], float]] = {}
    kernels = Sheet("decode: kernels chosen")
    for mode, dtype in MODES.items():
        setting = plan.setting(ROLES, slot_dtype=dtype)
        model = rig.load_model(made.base, setting)
        for slot, path in enumerate(made.adapters, 1):
            rig.fill(model, slot, rig.image_of(path, made.base, setting))
        asked = [prompt(made.shape, made.shape.prompt, seed) for seed in range(max(batches))]
        batch = rig.Batch(model, asked)
        for size in batches:
            for roles in (0, *(roles for roles in distinct if roles <= size)):
                cases[f"{mode} B={size} k={roles}"] = partial(
                    block, batch, seats(size, roles), made.shape.steps
                )
        for what, kernel in rig.chosen(model).items():
            kernels.add(f"{mode}: {what}", kernel)
    plan.tell(f"steps: {len(cases)} cases, {plan.repeats} rounds of {made.shape.steps} steps")
    found = interleaved(cases, plan.repeats)
    sheet = Sheet(f"decode: one step (shape {made.shape.name}); exact: fp32 slots, fast: bf16 slots")
    for what, values in found.items():
        sheet.add(what, Spread.of(values), "ms")
    ratios = Sheet("decode: steps with k distinct roles ÷ base-only steps of the same engine")
    for what, values in found.items():
        mode, among, distinct_told = what.split()
        if distinct_told != "k=0":
            goal = GOALS[mode] if (among, distinct_told) == ("B=8", "k=8") else None
            ratios.add(what, over(values, found[f"{mode} {among} k=0"]), "x", goal=goal)
    return [sheet, ratios, kernels]


def _roles(plan: Plan, made: Made) -> Sheet:
    """Time 8 roles with 2 requests each, from the first prompt token to the last answer's end."""
    shape = made.shape
    decoder = seated(plan, made)
    told: dict[str, list[list[int]]] = {}

    def case(name: str, act: Callable[[Asked], list[list[int]]]) -> Callable[[], float]:
        new = fresh(shape, 2 * ROLES)

        def ask() -> float:
            asked = new()
            return seconds(lambda: told.update({name: act(asked)}))

        return ask

    cases = {"ours": case("ours", lambda asked: answers(decoder, asked, shape.answer, ROLES))}
    dtype = baselines.peers_dtype(plan, made, 2 * ROLES)
    peft = baselines.Peft(made.base, made.adapters, dtype)
    for name, act in (("mixed batch", peft.mixed), ("set_adapter", peft.by_role)):
        cases[f"PEFT {name}, {dtype}"] = case(f"PEFT {name}, {dtype}", partial(act, answer=shape.answer))
    plan.tell(f"roles end to end: {len(cases)} cases, {plan.repeats} rounds")
    try:
        found = interleaved(cases, plan.repeats)
    finally:
        decoder.stop()
    sheet = Sheet(f"decode: {ROLES} roles x 2 requests of {shape.prompt}+{shape.answer} tokens, end to end")
    for what, values in found.items():
        sheet.add(what, Spread.of(values), "s")
    for what, values in found.items():
        if what != "ours":
            goal = at_most(0.5) if "mixed" in what else None
            sheet.add(f"ours ÷ {what}", over(found["ours"], values), "x", goal=goal)
    ours = [told["ours"][at] for role in range(ROLES) for at in range(role, 2 * ROLES, ROLES)]
    equal = sum(a == b for a, b in zip(ours, told[f"PEFT set_adapter, {dtype}"], strict=True))
    sheet.add(f"answers equal PEFT's, {dtype}", f"{equal} of {len(ours)}", note="greedy, role by role")
    return sheet


def _throughput(plan: Plan, made: Made) -> Sheet:
    shape, size = made.shape, 16
    decoder = seated(plan, made)
    tokens = size * (shape.prompt + shape.answer)

    def case(act: Callable[[Asked], object]) -> Callable[[], float]:
        new = fresh(shape, size)

        def ask() -> float:
            asked = new()
            return seconds(lambda: act(asked))

        return ask

    cases = {"ours": case(lambda asked: answers(decoder, asked, shape.answer, 0))}
    dtype = baselines.peers_dtype(plan, made, size)
    net = baselines.base(made.base, dtype)
    cases[f"generate, {dtype}"] = case(partial(baselines.generate, net, answer=shape.answer))
    continuous = baselines.Continuous(made.base, dtype, answer=shape.answer, tokens=tokens)
    cases[f"continuous batching, {dtype}"] = case(continuous.run)
    plan.tell(f"throughput: {len(cases)} cases, {plan.repeats} rounds")
    try:
        found = interleaved(cases, plan.repeats)
    finally:
        decoder.stop()
        continuous.stop()
    sheet = Sheet(f"decode: base alone, B={size}, {shape.prompt}+{shape.answer} tokens, answers per second")
    for what, values in found.items():
        sheet.add(what, Spread.of(size * shape.answer / took_s for took_s in values), "tok/s")
    for what, values in found.items():
        if what != "ours":
            goal = at_least(2) if what.startswith("generate") else None
            sheet.add(f"ours ÷ {what}", over(values, found["ours"]), "x", goal=goal)
    return sheet


def _overhead(plan: Plan) -> Sheet:
    """Find what a step costs beside the transformers model: all of the wall that was not spent in it."""
    size = sizes(plan, (16,), (4,))[0]
    sheet = Sheet(f"decode: what the loop adds to a step, B={size}, base alone")
    for shape in (T,) if plan.quick else (plan.shape, TOY):
        made = plan.made(1, shape)
        decoder = rig.load_decoder(made.base, plan.setting(1, shape))
        asked = [prompt(shape, shape.prompt, 300 + at) for at in range(size)]
        outside, whole = [], []
        try:
            for _ in range(plan.repeats):
                each_s, net_s = streams.run(_watched(decoder, asked, 2 * shape.steps))
                whole.append(each_s)
                outside.append(each_s - net_s)
        finally:
            decoder.stop()
        sheet.add(f"{shape.name}: step, whole", Spread.of(whole), "ms")
        sheet.add(f"{shape.name}: outside the model", Spread.of(outside), "ms", goal=at_most(0.002))
    return sheet


async def _watched(decoder: Decoder, asked: Sequence[Sequence[int]], steps: int) -> tuple[float, float]:
    """Return the seconds of a step and those of it in the model, while nobody enters or leaves."""
    async with streams.Hot(decoder, [None] * len(asked), asked, 4 * steps) as hot:
        with rig.inside(rig.model_of(decoder)) as took_s:
            gaps = await hot.idle(steps)
        return statistics.median(gaps), statistics.median(took_s)


def seated(plan: Plan, made: Made, roles: int = ROLES, *, spare: int = 0, **more: object) -> Decoder:
    """Return a decoder with `roles` adapters attached as role0, role1 … and `spare` free slots."""
    setting = plan.setting(roles + spare, made.shape, **more)
    decoder = rig.load_decoder(made.base, setting)
    for at, path in enumerate(made.adapters[:roles]):
        decoder.attach(f"role{at}", rig.image_of(path, made.base, setting))
    return decoder


def answers(decoder: Decoder, asked: Sequence[Sequence[int]], answer: int, roles: int) -> list[list[int]]:
    """Ask everything at once, request i of role i mod `roles` (0 roles: of the base); return the tokens."""

    def of(stream: int, _: int) -> tuple[str | None, Sequence[int]]:
        return (f"role{stream % roles}" if roles else None), asked[stream]

    _, told = streams.run(streams.closed_loop(decoder, len(asked), 1, of, answer))
    return [each.tokens for each in told]


def fresh(shape: Shape, number: int) -> Callable[[], Asked]:
    """Return what gives `number` new prompts at each call, the same ones to all who call as often.

    Nobody's prefix cache knows them, and in each round all are asked the same.
    """
    turns = iter(range(1, 10**6))

    def new() -> Asked:
        first = next(turns) * 1000
        return [prompt(shape, shape.prompt, first + at) for at in range(number)]

    return new
