"""A plan as text, in the style that people know from Terraform: + comes, - goes, ~ changes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.text import Text

from actors.cli.screen import plain
from placement.messages import Copy
from placement.preview.plan import routes
from placement.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from placement.preview.ahead import Step
    from placement.preview.drift import Drift
    from placement.preview.entries import Change
    from placement.preview.plan import Plan
    from placement.preview.room import Fill

STYLES = {"+": "green", "-": "red", "~": "yellow"}
BAR_CELLS = 30
#: A longer value is cut, in the middle of what a person would read of it anyway.
VALUE_CHARS = 72

Line = Text | str


def plan_lines(plan: Plan) -> Iterator[Line]:
    """Yield the lines of a plan: what the file changes, actors, copies and drops, room, what does not fit."""
    state = "is up" if plan.running else "is not up: this is all that `tierce up` would do"
    yield Text(f"lab {plan.lab} {state}", style="bold")
    if plan.unfinished:
        yield Text(
            "  an up or apply before was cut off: whoever it did not come to is made right", style="yellow"
        )
    for said in plan.said:
        yield Text(f"  {said}; it stands", style="dim")
    yield from _titled("The file", _changes(plan.changes))
    yield from _titled("Actors", (_act(act.sign, act.actor, act.node, act.why) for act in plan.acts))
    yield from _titled("To be made first", _builds(plan))
    yield from _titled("Copies and drops, in this order", _steps(plan.steps))
    if plan.changes_anything:
        yield from _titled("Room, as it will be", _room(plan))
    yield from _titled("What does not fit", _misfits(plan))
    yield from _titled("What would not serve", (_fault(str(one), one.hint, "yellow") for one in plan.absent))
    yield from _titled("What cannot be done", (_fault(str(one), one.hint, "red") for one in plan.troubles))
    yield ""
    yield _summary(plan)


def drift_lines(file: str, drift: Sequence[Drift]) -> Iterator[Line]:
    """Yield the lines of a diff: - what the file says, + what is."""
    if not drift:
        yield f"the lab is as {file} says"
        return
    yield Text(f"- {file}  + the lab", style="bold")
    for one in drift:
        yield Text(f"  {' '.join(part for part in (one.kind, one.name, one.field) if part)}", style="bold")
        if one.file:
            yield _coloured("-", f"    - {_short(one.file)}")
        if one.world:
            yield _coloured("+", f"    + {_short(one.world)}")
        if one.why:
            yield Text(f"      {one.why}", style="dim")
    yield ""
    yield f"{_some(len(drift), 'difference')}"


def _titled(title: str, lines: Iterable[Line]) -> Iterator[Line]:
    """Yield a title and its lines; nothing where there are none."""
    found = list(lines)
    if found:
        yield ""
        yield Text(title, style="bold")
        yield from found


def _coloured(sign: str, text: str) -> Text:
    return Text(plain(text), style=STYLES[sign])


def _changes(changes: Iterable[Change]) -> Iterator[Text]:
    for change in changes:
        yield _coloured(change.sign, f"  {change.sign} {change.kind} {change.name}".rstrip())
        width = max((len(field.name) for field in change.fields), default=0)
        for field in change.fields if change.sign != "-" else ():
            before, after = _short(field.before), _short(field.after)
            value = after if change.sign == "+" else f"{before or '(default)'} -> {after or '(default)'}"
            yield Text(plain(f"      {field.name:<{width}}  {value}"))


def _short(value: str) -> str:
    line = " ".join(value.split())
    if len(line) <= VALUE_CHARS:
        return line
    half = VALUE_CHARS // 2 - 1
    return f"{line[:half]}…{line[-half:]}"


def _act(sign: str, actor: str, node: str, why: str) -> Text:
    told = f", begins anew: {why}" if sign == "~" else ""
    return _coloured(sign, f"  {sign} {actor} on {node}{told}")


def _builds(plan: Plan) -> Iterator[Text]:
    for build in plan.builds:
        size = format_bytes(build.nbytes) if build.nbytes else "size not known yet"
        about = "" if build.exact or not build.nbytes else "about "
        yield _coloured("+", f"  + {build.item} at {build.place}, {about}{size}, from {build.source}")


def _steps(steps: Sequence[Step]) -> Iterator[Line]:
    """Yield a line for each copy and drop: what, its bytes, from where to where, its seconds, why."""
    rows = []
    for step in steps:
        command = step.command
        if isinstance(command, Copy):
            way = f"{command.source} -> {command.target}"
            rows.append(("+", "copy", command.item, format_bytes(command.nbytes), way, _about(step.took_s)))
        else:
            rows.append(("-", "drop", command.item, "", str(command.place), ""))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(6)]
    for row, step in zip(rows, steps, strict=True):
        sign, verb, item, size, way, took = row
        text = (
            f"  {sign} {verb} {item:<{widths[2]}}  {size:>{widths[3]}}  {way:<{widths[4]}}  "
            f"{took:>{widths[5]}}  {step.command.reason}"
        )
        yield _coloured(sign, text.rstrip())
    for item, places in routes(tuple(steps)).items():
        if len(places) > 2:
            legs = [
                step.took_s for step in steps if isinstance(step.command, Copy) and step.command.item == item
            ]
            whole = " -> ".join(map(str, places))
            yield Text(f"    route of {item}: {whole}, {_about(sum(legs))} in all", style="dim")


def _about(seconds: float) -> str:
    return f"~{format_seconds(seconds)}"


def _room(plan: Plan) -> Iterator[Line]:
    """Yield a bar for each place, with its parts in numbers, and how it was where that is another."""
    width = max((len(str(fill.place)) for _, fill in plan.room), default=0)
    for before, fill in plan.room:
        yield Text.assemble(f"  {fill.place!s:<{width}}  ", _bar(fill), f"  {_parts(fill)}")
        if before is not None and before != fill:
            yield Text(f"  {'':<{width}}  now: {_parts(before)}", style="dim")
    yield Text("  # base  = KV cache  o adapters in slots  + items  . free", style="dim")


def _bar(fill: Fill) -> Text:
    parts = (
        ("#", fill.base, "magenta"),
        ("=", fill.kv, "blue"),
        ("o", fill.slots, "cyan"),
        ("+", fill.items, "green"),
    )
    bar, left = Text("["), BAR_CELLS
    for sign, nbytes, style in parts:
        share = min(left, max(1, round(BAR_CELLS * nbytes / max(fill.budget, 1)))) if nbytes else 0
        bar.append(sign * share, style=style)
        left -= share
    bar.append("." * left, style="dim")
    return bar.append("]")


def _parts(fill: Fill) -> str:
    named = (("base", fill.base), ("KV", fill.kv), ("slots", fill.slots), ("items", fill.items))
    told = [f"{name} {format_bytes(nbytes)}" for name, nbytes in named if nbytes]
    seats = "".join(f", {taken} of {of} slots of {base}" for base, taken, of in fill.seats)
    free = f"{format_bytes(fill.free)} free of {format_bytes(fill.budget)}"
    return f"{' + '.join([*told, free])}{seats}"


def _misfits(plan: Plan) -> Iterator[Line]:
    for misfit in plan.misfits:
        yield Text(f"  {misfit.headline}", style="yellow")
        width = max(len(name) for name in ("in all", *(share.name for share in misfit.shares)))
        for share in misfit.shares:
            yield f"      {share.name:<{width}}  {format_bytes(share.nbytes):>10}"
        if not misfit.seats_of:
            total = sum(share.nbytes for share in misfit.shares)
            over = format_bytes(total - misfit.budget)
            yield f"      {'in all':<{width}}  {format_bytes(total):>10}, {over} more than the budget"
        yield f"    without room: {', '.join(misfit.outside)}"
        if misfit.repairs:
            yield Text(f"    it fits with: {'   or   '.join(misfit.repairs)}", style="green")


def _fault(text: str, hint: str, style: str) -> Text:
    told = Text(plain(f"  {text}"), style=style)
    return told.append(f"\n    {plain(hint)}", style="dim") if hint else told


def _summary(plan: Plan) -> Text:
    if not plan.changes_anything:
        beside = " but for what was said since" if plan.said else ""
        return Text(f"Nothing to do: the lab is as its file says{beside}.", style="bold")
    signs = Counter(change.sign for change in plan.changes)
    acts = Counter(act.sign for act in plan.acts)
    copies = [step.command for step in plan.steps if isinstance(step.command, Copy)]
    drops = len(plan.steps) - len(copies)
    moved = sum(copy.nbytes for copy in copies)
    entries = f"{signs['+']} to add, {signs['~']} to change, {signs['-']} to remove"
    moves = f"{_some(len(copies), 'copy', 'copies')} ({format_bytes(moved)}, {_about(plan.foresight.took_s)})"
    actors = f"actors: {acts['+']} to start, {acts['-']} to stop, {acts['~']} to begin anew"
    return Text(f"Plan: {entries}; {moves}, {_some(drops, 'drop')}; {actors}.", style="bold")


def _some(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"
