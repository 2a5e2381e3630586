"""What the brain hears (events) and what it asks for (commands): plain values, one class each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.state import Gauge, Item, Place, Room, Spec
from placement.units import format_bytes, format_seconds


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node offers exactly these places; nothing is copied to one before a Beat has listed it.

    Sent again for a living node, it replaces its rooms: a place that is missing is no longer there.
    """

    node: str
    rooms: Mapping[Place, Room]


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node is gone with its RAM and VRAM; its SSD is remembered and unreachable. A Beat brings it back."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Registered:
    """An item belongs to the lab and is ready at `at`, which includes `spec.durable`.

    Sent again, it replaces the spec and lifts all setbacks; a changed home or pin in the file beats an older
    order.
    """

    spec: Spec
    at: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """An item leaves the lab: all its replicas are dropped (a shard's log stays), then it is forgotten."""

    item: Item


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request needs the item where it serves by `deadline_s` (absolute): one Grant or Refuse follows.

    `cause` says whose request it is, for the stories of what moves for it.
    """

    want: str
    item: Item
    deadline_s: float
    cause: str = ""


@dataclass(frozen=True, slots=True)
class WantEnded:
    """The caller gave up: no Grant and no Refuse follows."""

    want: str


@dataclass(frozen=True, slots=True)
class Copied:
    """A Copy is done and verified: the target holds the item."""

    op: str
    nbytes: int
    took_s: float


@dataclass(frozen=True, slots=True)
class CopyFailed:
    """A Copy left nothing at the target; `permanent` means that trying again unchanged cannot help."""

    op: str
    code: str
    reason: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """A Drop is done: the place does not hold the item."""

    op: str


@dataclass(frozen=True, slots=True)
class DropRefused:
    """A Drop was refused because the replica is in use: it stays."""

    op: str
    leases: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One item in a beat: leases now, seconds since its last use, uses since it came there.

    `nbytes` is what it takes at the place: it counts for an item that nobody registered.
    """

    leases: int = 0
    idle_s: float = 0.0
    hits: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Beat:
    """All that a node holds at the listed places (an empty mapping for an empty place), complete items only.

    `asked_s` is the coordinator's clock when it asked, so that an old answer is told from a new one. `gauges`
    measure the memory behind the listed places; one that has none is judged by its budget.
    """

    node: str
    asked_s: float
    places: Mapping[Place, Mapping[Item, Seen]]
    gauges: Mapping[Place, tuple[Gauge, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MoveOrdered:
    """`to` becomes the item's home; the other replicas leave once it is ready there, if it `clears` them."""

    item: Item
    to: Place
    cause: str
    clears: bool = True


@dataclass(frozen=True, slots=True)
class PinSet:
    """The item must stay at its home, or no longer must."""

    item: Item
    pinned: bool
    cause: str


@dataclass(frozen=True, slots=True)
class WarmOrdered:
    """The item is brought up where it serves, ahead of need: it takes only room that nobody needs.

    Nothing is granted. It ends when the item is ready there, or after `within_s`.
    """

    item: Item
    cause: str
    within_s: float = 30.0


@dataclass(frozen=True, slots=True)
class WarmCancelled:
    """An order to warm is taken back: a copy in flight still arrives, and nothing keeps the item there."""

    item: Item
    cause: str


@dataclass(frozen=True, slots=True)
class UnloadOrdered:
    """The item goes where it rests when idle, as soon as nobody holds it, until its next use."""

    item: Item
    cause: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: deadlines are looked at."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Bring the item from `source` to `target` and verify it. Answer: Copied or CopyFailed of this op."""

    op: str
    item: Item
    source: Place
    target: Place
    nbytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Free the replica at `place` unless it is in use. Answer: Dropped or DropRefused with the same op.

    One that `drains` may be in use: it takes no new request, and is free when those in flight have ended.
    """

    op: str
    item: Item
    place: Place
    reason: str
    drains: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """The want is met: the item is ready at `place`."""

    want: str
    item: Item
    place: Place


@dataclass(frozen=True, slots=True)
class Refuse:
    """The want cannot be met; `code` and `reason` go to the caller."""

    want: str
    item: Item
    code: str
    reason: str


Answer = Copied | CopyFailed | Dropped | DropRefused
Event = (
    NodeJoined
    | NodeLost
    | Registered
    | Removed
    | Wanted
    | WantEnded
    | Answer
    | Beat
    | MoveOrdered
    | PinSet
    | WarmOrdered
    | WarmCancelled
    | UnloadOrdered
    | Tick
)
Command = Copy | Drop | Grant | Refuse


def describe(message: Event | Command) -> str:
    """Return one plain sentence for an item's story."""
    match message:
        case Copy(op, _, source, target, nbytes, reason):
            return f"copy {format_bytes(nbytes)} from {source} to {target}: {reason} (op {op})"
        case Drop(op, _, place, reason):
            return f"drop from {place}: {reason} (op {op})"
        case Grant(want, _, place):
            return f"ready for want {want} at {place}"
        case Refuse(want, _, code, reason):
            return f"want {want} refused: {reason} [{code}]"
        case Copied(op, nbytes, took_s):
            return f"copied {format_bytes(nbytes)} in {format_seconds(took_s)} (op {op})"
        case CopyFailed(op, code, reason, permanent):
            return f"copy failed{' for good' if permanent else ''}: {reason} [{code}] (op {op})"
        case Dropped(op):
            return f"dropped (op {op})"
        case DropRefused(op, leases):
            return f"not dropped: {leases} in use (op {op})"
        case WarmCancelled(_, cause):
            return f"need not be warm: {cause}"
        case _:
            return _describe_news(message)


def _describe_news(event: Event) -> str:
    match event:
        case NodeJoined(node, rooms):
            return f"node {node} joined with {', '.join(sorted(map(str, rooms))) or 'no places'}"
        case NodeLost(node, reason):
            return f"node {node} is lost: {reason}"
        case Registered(spec, at):
            return f"registered with home {spec.home}, held at {', '.join(map(str, at))}"
        case Removed():
            return "removed from the lab"
        case Wanted(want, _, deadline_s):
            return f"wanted by {want} until {deadline_s:.1f} s"
        case WantEnded(want):
            return f"want {want} gave up"
        case Beat(node):
            return f"beat of {node}"
        case MoveOrdered(_, to, cause):
            return f"move to {to} ordered by {cause}"
        case PinSet(_, pinned, cause):
            return f"{'pinned' if pinned else 'unpinned'} by {cause}"
        case WarmOrdered(_, cause, within_s):
            return f"to be warm within {format_seconds(within_s)}: {cause}"
        case UnloadOrdered(_, cause):
            return f"unload ordered by {cause}"
        case _:
            return "tick"
