"""A cache that loads on demand: slots over RAM over the disk, as serving engines do it today."""

from collections import deque
from collections.abc import Iterator

from placement.replay.desk import Desk, Seat
from placement.replay.links import Trip
from placement.replay.rivals import Order
from placement.replay.stage import Stage
from placement.replay.trace import Ask, Trace
from placement.state import Item
from placement.tiers import Tier


class Demand(Desk):
    """Evicts by an order for each tier, never what is leased or on its way; a miss that finds no seat waits.

    Bytes from the disk pass through RAM, and stay there if the order of that tier lets them.
    """

    def __init__(self, trace: Trace, stage: Stage, seats: Order, ram: Order) -> None:
        super().__init__(trace, stage)
        self.orders = {Tier.VRAM: seats, Tier.RAM: ram}
        self._seats_nbytes = stage.room(Tier.VRAM).capacity
        self._free_nbytes = stage.room(Tier.RAM).capacity
        self._waiting: dict[Item, list[Ask]] = {}
        #: misses that wait for a seat, in the order of their first asks
        self._queue: deque[Item] = deque()
        self._coming: set[Item] = set()
        #: what is being read into RAM to stay there
        self._staying: set[Item] = set()

    def ask(self, ask: Ask, item: Item) -> None:
        for order in self.orders.values():
            order.asked(item, ask.t)
        super().ask(ask, item)

    def waits(self) -> bool:
        return bool(self._waiting)

    def missed(self, ask: Ask, item: Item) -> None:
        waiting = self._waiting.setdefault(item, [])
        waiting.append(ask)
        if len(waiting) == 1:
            self._queue.append(item)
            self._load()

    def freed(self, item: Item, seat: Seat) -> None:  # noqa: ARG002 -- whoever it is, a seat may be free now
        if self._queue:
            self._load()

    def arrived(self, trip: Trip) -> None:
        item = trip.item
        if trip.target is Tier.RAM:
            if item in self._staying:
                self._staying.remove(item)
                self.ram[item] = trip.nbytes
            self.links.send(item, trip.nbytes, Tier.RAM, Tier.VRAM, self.now_s)
            return
        self._coming.remove(item)
        self.seats[item] = Seat(self.now_s)
        for ask in self._waiting.pop(item):
            self.serve(ask, item)

    def _load(self) -> None:
        """Bring the misses that wait, as far as there are seats for them."""
        while self._queue and self._has_seat(nbytes := self.cargo[self._queue[0]].nbytes):
            item = self._queue.popleft()
            self._seats_nbytes -= nbytes
            self._coming.add(item)
            self.orders[Tier.VRAM].came(item, nbytes, self.now_s)
            if item in self.ram:
                self.links.send(item, nbytes, Tier.RAM, Tier.VRAM, self.now_s)
            else:
                if self._admits(item, nbytes):
                    self._staying.add(item)
                self.links.send(item, nbytes, Tier.SSD, Tier.RAM, self.now_s)

    def _has_seat(self, nbytes: int) -> bool:
        """Make room for `nbytes` in VRAM; tell whether there is a seat and the bytes for it."""
        while len(self.seats) + len(self._coming) >= self.stage.slots or self._seats_nbytes < nbytes:
            idle = [item for item, seat in self.seats.items() if not seat.leases]
            if not idle:
                return False
            victim = self.orders[Tier.VRAM].worst(idle, self.now_s)
            del self.seats[victim]
            self._seats_nbytes += self.cargo[victim].nbytes
            self._evicted(victim, Tier.VRAM)
        return True

    def _admits(self, item: Item, nbytes: int) -> bool:
        """Make room for an item in RAM; tell whether it may stay there."""
        order = self.orders[Tier.RAM]
        if nbytes > self._free_nbytes:
            victims = list(self._victims(item, nbytes))
            if item in victims or self._free_nbytes + sum(self.ram[each] for each in victims) < nbytes:
                return False
            for victim in victims:
                self._free_nbytes += self.ram.pop(victim)
                self._evicted(victim, Tier.RAM)
        self._free_nbytes -= nbytes
        order.came(item, nbytes, self.now_s)
        return True

    def _victims(self, item: Item, nbytes: int) -> Iterator[Item]:
        """Yield who leaves RAM so that `nbytes` fit, the newcomer itself if a choosy order prefers that."""
        order, free_nbytes = self.orders[Tier.RAM], self._free_nbytes
        left = [each for each in self.ram if each not in self._coming]
        if order.choosy:
            left.append(item)
        while left and free_nbytes < nbytes:
            victim = order.worst(left, self.now_s)
            left.remove(victim)
            yield victim
            if victim == item:
                return
            free_nbytes += self.ram[victim]

    def _evicted(self, item: Item, tier: Tier) -> None:
        self.orders[tier].went(item)
        self.tally.evicted[tier] += 1
