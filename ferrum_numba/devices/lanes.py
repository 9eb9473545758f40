"""Launches spelt out for the streams that they are issued on: a lane for each stream."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from ctypes import c_uint64
from typing import TYPE_CHECKING, Any, Protocol

from .ledger import FULL, KEPT, NO_TICKET
from .packet import Packet
from .streams import is_fleeting, order_of

if TYPE_CHECKING:
    from .base import Invocation
    from .cuda import CudaDevice
    from .cuda_kernel import CudaKernel
    from .observer import Observer

_LANES = 8  # streams for which packets are kept; the one first used goes first


class Spelt(Protocol):
    """A launch that packets are made of."""

    kernel: CudaKernel

    @property
    def invocation(self) -> Invocation: ...


class Lane:
    """Packets of some launches, one after the other, for one stream.

    table: the packets' rows, three words each; its address is what the compiled loop takes.
    ticket: the observer's, for the launches as they are.
    """

    def __init__(
        self, launches: Sequence[Spelt], stream: Any, handle: int, packets: Sequence[Packet]
    ) -> None:
        self.launches = launches
        self.stream = stream  # keeps the handle valid
        self.handle = handle
        self.fleeting = is_fleeting(stream, handle)
        self.packets = packets
        self.ticket = NO_TICKET
        words = [word for packet in packets for word in packet.row]
        self._table = (c_uint64 * len(words))(*words)
        self.table = ctypes.addressof(self._table)

    def issue(self, watching: Observer) -> int:
        """Launch all while somebody looks on; of a graph, only have it seen.

        Returns what compiled code did; KEPT where the observer has to launch them.
        """
        ticket = self.ticket
        if ticket.owner is not watching:
            ticket = self.ticket = watching.ticket(self) or NO_TICKET
        while (found := ticket.issue(ticket.address)) < 0:
            if found == FULL:
                admitted = watching.make_room(ticket.rows)
            else:
                admitted = watching.lets_pass(self)
            if not admitted:
                return KEPT
        return found


class Lanes:
    """The lanes of one plan, of one graph or of one prepared launch, and what is under way there.

    The launches hold their arrays.  What they stop to hold stays alive here until everything that
    was issued before is done.
    """

    def __init__(self, device: CudaDevice, launches: Sequence[Spelt], spell: bool = True) -> None:
        """spell: whether a lane gets packets; a graph has them itself."""
        self._device = device
        self._launches = launches
        self._spell = spell
        self._streams = device.in_flight.streams
        self._lanes: dict[tuple[int, int], Lane] = {}  # by order_of their streams
        self._lock = threading.Lock()

    def on(self, stream: Any, handle: int) -> Lane:
        """The lane of a stream; the context is current."""
        key = order_of(handle)
        with self._lock:
            if key not in self._lanes:
                while len(self._lanes) >= _LANES:
                    oldest = self._lanes.pop(next(iter(self._lanes)))
                    self._retire(oldest, self._used())
                    self._streams.pop(id(oldest), None)
                lane = self._lanes[key] = Lane(
                    self._launches, stream, handle, self._packets(handle)
                )
                self._streams[id(lane)] = stream
            lane = self._lanes[key]
            if lane.fleeting and not is_fleeting(stream, handle):
                lane.stream, lane.fleeting = stream, False
                self._streams[id(lane)] = stream
            return lane

    def _packets(self, handle: int) -> list[Packet]:
        if not self._spell:
            return []
        return [launch.kernel.packet(launch.invocation, handle) for launch in self._launches]

    def __contains__(self, lane: Lane | None) -> bool:
        return lane is not None and self._lanes.get(order_of(lane.handle)) is lane

    def changed(self, number: int, before: Invocation, changes: Mapping[str, object]) -> None:
        """A launch has other arguments now.  Packets stay where they are and say the new ones."""
        held, arrays = before.arguments, before.bound.arrays
        replaced = [held[name] for name in changes if name in held and name in arrays]
        for key, lane in list(self._lanes.items()):
            if key != order_of(lane.handle):  # another thread's, whose scratch is out of reach
                self._streams.pop(id(self._lanes.pop(key)), None)
                continue
            if replaced:
                self._retire(lane, replaced)
            lane.ticket = NO_TICKET
            if self._spell:
                self._refill(lane, number, before, changes)

    def _refill(
        self, lane: Lane, number: int, before: Invocation, changes: Mapping[str, object]
    ) -> None:
        launch, packet = self._launches[number], lane.packets[number]
        now = launch.invocation
        if now.config is not before.config:
            packet.configure(now.config)
        if packet.block is not now.block:  # it has scratch, and a block for each stream
            packet.block.write({name: now.bound.values[name] for name in changes})
            if now.bound.scratch is not before.bound.scratch:
                with self._device.current():
                    arena = self._device.scratch.arena(lane.handle)
                    launch.kernel.provide(packet.block, now, arena)

    def discard(self) -> None:
        """Spell the launches out anew wherever they are issued next."""
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            self._streams.pop(id(lane), None)
            self._retire(lane, self._used())

    def abandon(self) -> None:
        """Nobody uses the launches any more; for finalisers."""
        used = self._used()
        for lane in self._lanes.values():
            if not lane.fleeting:
                self._device.in_flight.drop(lane.stream, lane.handle, self._describe, used)
            self._streams.pop(id(lane), None)

    def keep(self, lane: Lane) -> None:
        """Hold what was just issued on a fleeting stream, which cannot be asked for it later."""
        self._device.in_flight.keep(lane.stream, lane.handle, self._describe, self._used(), 0)

    def _retire(self, lane: Lane, objects: object) -> None:
        if lane.fleeting:
            return
        self._device.in_flight.keep(lane.stream, lane.handle, self._describe, objects, 0)

    def _used(self) -> list[object]:
        return [launch.invocation.arguments for launch in self._launches]

    def _describe(self) -> str:
        launches = [launch.kernel.describe(launch.invocation) for launch in self._launches[:1]]
        more = f" and {len(self._launches) - 1} more" if len(self._launches) > 1 else ""
        return "; ".join(launches) + more
