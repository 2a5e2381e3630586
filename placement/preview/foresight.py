"""What a Machine would do if the lab were as a file says: its commands, the room of each place, misfits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from placement.errors import TierceError
from placement.machine import Machine
from placement.messages import MoveOrdered
from placement.preview.ahead import Ahead, Step, run_ahead
from placement.preview.fit import End, Misfit, misfits
from placement.preview.intent import intent
from placement.preview.room import Fill, fills
from placement.state import Item, Place, Room, Spec

Rooms = Mapping[str, Mapping[Place, Room]]


@dataclass(frozen=True, slots=True)
class Foresight:
    """The commands in their order, over `took_s` seconds; the room before and after; what does not fit.

    `refused` are the errors of what the file wants and the Machine would not take.
    """

    steps: tuple[Step, ...] = ()
    took_s: float = 0.0
    before: tuple[Fill, ...] = ()
    after: tuple[Fill, ...] = ()
    misfits: tuple[Misfit, ...] = ()
    refused: tuple[TierceError, ...] = ()


def foresee(
    machine: Machine,
    desired: Iterable[Spec],
    rooms: Rooms,
    now_s: float,
    kv: Mapping[Place, int],
    *,
    advise: bool = True,
) -> Foresight:
    """Return what `machine`, which is left alone, would do for the lab of `desired` items and `rooms`.

    `kv` is the KV cache in the fixed bytes of a VRAM place. Misfits are in it only to `advise` somebody: each
    repair of one is tried by a run of its own.
    """
    specs = tuple(desired)

    def run(homes: Mapping[Item, Place], other: Mapping[Place, Room]) -> Ahead:
        rehomed = [replace(spec, home=homes.get(spec.item, spec.home)) for spec in specs]
        offered = {
            node: {place: other.get(place, room) for place, room in own.items()}
            for node, own in rooms.items()
        }
        return run_ahead(machine, lambda state: intent(state, rehomed, offered), now_s)

    def tried(homes: Mapping[Item, Place], other: Mapping[Place, Room]) -> End:
        return _end(run(homes, other), now_s)

    ahead = run({}, {})
    return Foresight(
        steps=tuple(ahead.steps),
        took_s=ahead.took_s,
        before=fills(machine.state, kv),
        after=fills(ahead.state, kv),
        misfits=misfits(_end(ahead, now_s), kv, tried) if advise else (),
        refused=tuple(refused.error for refused in ahead.refused),
    )


def _end(ahead: Ahead, now_s: float) -> End:
    moves = [refused.event for refused in ahead.refused if refused.error.code == "TRC022"]
    barred = {move.item: move.to for move in moves if isinstance(move, MoveOrdered)}
    return End(ahead.state, now_s + ahead.took_s, barred)
