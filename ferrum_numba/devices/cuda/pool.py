"""The memory pool of a GPU: `device.memory`, and where arrays, workspaces and scratch come from.

A finaliser may run in any thread, in any context and amid another library's capture, where a call
of the driver may block, fail or invalidate the capture.  So it makes none: it notes the block, and
the next allocation takes the note.  A block is finalised when no array uses it and every launch of
this package with such an array is known to be done (`InFlight`), whichever streams they were on: it
can be handed out again at once.

Blocks come from a pool of the driver's of our own (cuMemAllocFromPoolAsync), on a stream that has
nothing else to do: no call waits for the device.  During these calls the thread is outside of
captures (`driver.outside_of_captures`), which would forbid them, in any mode and in any thread.

Work of other libraries is not known here.  When they let go of an array, it has to be done, or be
ordered before what is launched later: work on the default stream is, for what comes on that stream
and on those that wait for it, such as numba's.

Source: CUDA Driver API reference, "Stream Ordered Memory Allocator", CUmemPoolProps.
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ctypes import c_int, c_size_t, c_uint8, c_uint64, c_ushort, c_void_p

from ..memory import DeviceMemory
from . import driver
from .in_flight import InFlight
from .objects import Stream

_Current = Callable[[], AbstractContextManager[object]]

_POOLS_SUPPORTED = 115  # CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
_PINNED, _DEVICE = 1, 1  # CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_LOCATION_TYPE_DEVICE
_RELEASE_THRESHOLD, _RESERVED = 4, 5  # CU_MEMPOOL_ATTR_...

# Blocks are multiples of these, so that arrays of about the same size can take the same block.
_FINE, _COARSE, _LARGE = 512, 1 << 16, 1 << 20
_SPARE = 256 << 20  # bytes of spare blocks; the driver keeps the rest
_HELP = ", free what other libraries cache (torch.cuda.empty_cache())"


class _Props(ctypes.Structure):
    """CUmemPoolProps; 88 bytes in every version."""

    _fields_ = (
        ("allocation_type", c_int),
        ("handle_types", c_int),
        ("location_type", c_int),
        ("ordinal", c_int),
        ("security", c_void_p),
        ("max_size", c_size_t),
        ("usage", c_ushort),
        ("reserved", c_uint8 * 54),
    )


class Block:
    """Memory at an address, noted as unused once this object is gone."""

    __slots__ = ("_dropped", "_size", "address")

    def __init__(self, address: int, size: int, dropped: deque[tuple[int, int]]) -> None:
        self.address, self._size, self._dropped = address, size, dropped

    def __del__(self) -> None:
        self._dropped.append((self.address, self._size))


class Pool(DeviceMemory):
    """The memory of one GPU.  Safe from any thread.

    blocks: the addresses of all blocks, in use or spare.
    """

    def __init__(self, device: str, ordinal: int, gpu: InFlight, current: _Current) -> None:
        """gpu: what is under way there.  current: makes the GPU's context current in a block."""
        super().__init__(device)
        self._in_flight, self._current = gpu, current
        self._dropped: deque[tuple[int, int]] = deque()
        self._spare: dict[int, list[int]] = {}  # addresses by size
        self._spare_bytes = 0
        self.blocks: set[int] = set()
        self._held = 0  # bytes of blocks in use, and of spare ones
        with self._calling():
            self._stream = Stream()
            self._handle = _create(ordinal)

    def allocate(self, nbytes: int, what: str = "") -> Block:
        """A block of at least so many bytes, its contents undefined.

        what: " of scratch", say, for the error.  Raises DeviceError where there is not so much.
        """
        step = _FINE if nbytes < _LARGE else _COARSE
        size = -(-nbytes // step) * step
        with self._lock:
            dropped = self._dropped
            if dropped:
                if dropped[0][1] == size:  # as where each result takes the place of an earlier one
                    return Block(dropped.popleft()[0], size, dropped)
                self._collect()
            spare = self._spare.get(size)
            block = self._take(spare, size) if spare else self._grow(size, nbytes, what)
            self._in_use += size
            if self._in_use > self._peak:
                self._peak = self._in_use
            return block

    def zero(self, block: Block, nbytes: int) -> None:
        """Fill a block's first bytes with zeros, before this returns."""
        with self._lock, self._calling():
            code = driver.library().cuMemsetD8Async(block.address, 0, nbytes, self._stream.handle)
            driver.check(code, "cuMemsetD8Async")
            self._stream.synchronize()

    @property
    def reserved(self) -> int:
        value = c_uint64(self._held)
        if self._handle:  # the driver takes more at a time than it is asked for
            place = ctypes.byref(value)
            driver.library().cuMemPoolGetAttribute(self._handle, _RESERVED, place)
        return value.value

    def trim(self) -> None:
        with self._lock, self._calling():
            self._in_flight.reclaim(everything=True)
            self._collect()
            self._trim()

    def _room(self) -> float:
        with self._lock, self._calling():
            self._collect()
            limit = math.inf if self._limit is None else self._limit - self._held
            return min(driver.free_bytes(), limit) + self._spare_bytes

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Block in which the driver may be called, whoever captures."""
        with self._current(), driver.outside_of_captures():
            yield

    def _collect(self) -> None:
        while self._dropped:
            address, size = self._dropped.popleft()
            self._spare.setdefault(size, []).append(address)
            self._spare_bytes += size
            self._in_use -= size

    def _take(self, spare: list[int], size: int) -> Block:
        self._spare_bytes -= size
        return Block(spare.pop(), size, self._dropped)

    def _grow(self, size: int, nbytes: int, what: str) -> Block:
        """A block from the driver, or one that has become spare in the meantime."""
        with self._calling():
            for everything in (False, True):
                self._in_flight.reclaim(everything=everything)
                self._collect()
                if spare := self._spare.get(size):
                    return self._take(spare, size)
                if everything:
                    self._trim()
                elif self._spare_bytes > _SPARE:
                    self._give_back(_SPARE // 2)
                address, reason = self._ask(size)
                if address:
                    return Block(address, size, self._dropped)
        raise self._refusal(nbytes, what, reason, _HELP)

    def _ask(self, size: int) -> tuple[int, str]:
        """An address from the driver; 0, and why, where there is none."""
        if self._limit is not None and self._held + size > self._limit:
            return 0, "the limit is reached"
        address, library = c_uint64(), driver.library()
        if self._handle:
            code = library.cuMemAllocFromPoolAsync(
                ctypes.byref(address), size, self._handle, self._stream.handle
            )
            # Usable on every stream once this one has come to it, which it nearly always has.
            if not code and library.cuStreamQuery(self._stream.handle):
                self._stream.synchronize()
        else:
            code = library.cuMemAlloc_v2(ctypes.byref(address), size)
        if code and driver.cause_of_death() is None:
            return 0, driver.error_name(code)
        driver.check(code, "cuMemAlloc")
        self._held += size
        self.blocks.add(address.value)
        return address.value, ""

    def _trim(self) -> None:
        self._give_back(0)
        if self._handle:
            self._stream.synchronize()
            driver.check(driver.library().cuMemPoolTrimTo(self._handle, 0), "cuMemPoolTrimTo")

    def _give_back(self, keep: int) -> None:
        """Give spare blocks to the driver, the largest first, until so many bytes are left."""
        library = driver.library()
        for size in sorted(self._spare, reverse=True):
            while self._spare_bytes > keep and (block := self._spare[size]):
                address = block.pop()
                self._spare_bytes -= size
                self._held -= size
                self.blocks.discard(address)
                if self._handle:
                    code = library.cuMemFreeAsync(address, self._stream.handle)
                else:
                    code = library.cuMemFree_v2(address)
                driver.check(code, "cuMemFree")
            if not self._spare[size]:
                del self._spare[size]


def _create(ordinal: int) -> int:
    """A memory pool of the driver's that keeps its memory; 0 where the driver makes none."""
    library, supported = driver.library(), c_int()
    code = library.cuDeviceGetAttribute(ctypes.byref(supported), _POOLS_SUPPORTED, ordinal)
    if code or not supported.value:
        return 0
    pool = c_void_p()
    props = _Props(allocation_type=_PINNED, location_type=_DEVICE, ordinal=ordinal)
    if library.cuMemPoolCreate(ctypes.byref(pool), ctypes.addressof(props)):
        return 0
    forever = c_uint64(2**64 - 1)
    code = library.cuMemPoolSetAttribute(pool, _RELEASE_THRESHOLD, ctypes.byref(forever))
    driver.check(code, "cuMemPoolSetAttribute")
    return pool.value or 0
