"""What a trace is played on: one node with one engine, as its header has it or as the file of a lab says."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from placement.config import Lab
from placement.config.problems import did_you_mean
from placement.config.schema import Base, Node, Role
from placement.errors import UserError
from placement.replay.trace import Cargo, Header, Trace
from placement.state import Item, Limits, Place, Room, Spec
from placement.tiers import Tier

NODE, BASE = "desk", "base"
#: as in the file's default
IDLE_S = 600.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One node, its engine with `slots` seats, and the specs of its items; the SSD holds them all."""

    slots: int
    rooms: Mapping[Place, Room]
    specs: tuple[Spec, ...]
    limits: Limits = field(default_factory=Limits)
    #: how long an ask waits for its item
    patience_s: float = 30.0

    def room(self, tier: Tier) -> Room:
        """Return the room of the one place of a tier."""
        return next(room for place, room in self.rooms.items() if place.tier is tier)


def plain(header: Header, slots: int, limits: Limits | None = None) -> Stage:
    """Return the stage that a trace's header describes: every item at home on the SSD, RAM for whom it helps.

    As on a GPU, most of the memory is base weights and KV cache, and seats are what is short.
    """
    sizes = [cargo.nbytes for cargo in header.items.values()]
    seats_nbytes = slots * max(sizes)
    vram, ram, ssd = _places(NODE, "cuda:0")
    rooms = {
        vram: Room(4 * seats_nbytes, 2 * seats_nbytes, {BASE: slots}),
        ram: Room(header.ram),
        ssd: Room(2 * sum(sizes)),
    }
    specs = tuple(
        Spec(item, cargo.role, "adapter", cargo.nbytes, ssd, (vram,), BASE, str(item), ssd, IDLE_S)
        for item, cargo in header.items.items()
    )
    return Stage(slots, rooms, specs, limits or Limits())


def of_lab(trace: Trace, lab: Lab, limits: Limits, slots: int | None = None) -> tuple[Trace, Stage]:
    """Return a trace with the roles of one base of a lab, and that base's engine as the file has it.

    Budgets, slots, homes, pins, warming and unloading are the file's; bytes and speeds are the trace's. What
    is at home on the network counts as fetched, and what rests on another node as resting on the engine's.
    Raises UserError TRC084 for roles that the file lacks, or that are of several bases.
    """
    header = trace.header
    asked = dict.fromkeys(ask.role for ask in trace.asks)
    for role in asked:
        if role not in lab.roles:
            known = did_you_mean(role, lab.roles)
            raise UserError("TRC084", f"the trace asks role {role!r}, which the file lacks{known}")
    bases = dict.fromkeys(lab.roles[role].base for role in asked)
    if len(bases) > 1:
        named = ", ".join(map(str, bases))
        raise UserError(
            "TRC084",
            f"the trace asks roles of several bases ({named}), and one engine is played",
            "keep the lines of one base's roles, and play each base for itself",
        )
    base = lab.bases.get(next(iter(bases)) or "") or Base(name=BASE, model="?")
    node = lab.nodes.get(next(iter((*base.on, *lab.nodes)), "")) or Node(name=NODE)
    items = {item: cargo for item, cargo in header.items.items() if cargo.role in lab.roles}
    asks = tuple(ask if ask.after in lab.roles else ask._replace(after=None) for ask in trace.asks)
    seats = base.slots if slots is None else slots
    rooms = _rooms(base, node, header, items, seats)
    specs = tuple(
        _spec(item, cargo, lab.roles[cargo.role], base, tuple(rooms)) for item, cargo in items.items()
    )
    stage = Stage(seats, rooms, specs, limits, lab.policy.want_deadline_s)
    return Trace(replace(header, items=items, ram=stage.room(Tier.RAM).capacity), asks), stage


def _places(node: str, device: str) -> tuple[Place, Place, Place]:
    return Place(node, Tier.VRAM, device), Place(node, Tier.RAM), Place(node, Tier.SSD)


def _rooms(
    base: Base, node: Node, header: Header, items: Mapping[Item, Cargo], slots: int
) -> dict[Place, Room]:
    sizes = [cargo.nbytes for cargo in items.values()]
    devices = node.vram if isinstance(node.vram, dict) else {}
    device = base.device if base.device in devices else next(iter(devices), "cuda:0")
    vram, ram, ssd = _places(node.name, device)
    budget = devices.get(device) or (node.vram if isinstance(node.vram, int) else None)
    fixed = header.fixed or base.kv_cache
    return {
        vram: Room(budget or fixed + 2 * slots * max(sizes), fixed, {base.name: slots}),
        ram: Room(node.ram or header.ram),
        ssd: Room((node.ssd.budget if node.ssd else None) or 2 * sum(sizes)),
    }


def _spec(item: Item, cargo: Cargo, role: Role, base: Base, places: tuple[Place, ...]) -> Spec:
    at = {place.tier: place for place in places}
    ssd, to = at[Tier.SSD], role.unload.to
    return Spec(
        item=item,
        name=role.name,
        kind="adapter",
        nbytes=cargo.nbytes,
        home=at.get(role.location, ssd),
        serves_at=(at[Tier.VRAM],),
        base=base.name,
        digest=str(item),
        durable=ssd,
        idle_s=role.unload.idle_s,
        unload_to=None if to is None else at.get(to, ssd),
        pinned=role.pin,
        after=role.warm.after,
        at_start=role.warm.at_start,
    )
