"""The memory that this package holds on a device, and a limit for it."""

from __future__ import annotations

import math
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..dtypes import dtype_named
from ..errors import DeviceError
from ..pickling import NotPickled


class DeviceMemory(NotPickled, ABC):
    """`device.memory`: bytes that this process holds on a device through this package.

    in_use: of arrays, workspaces and scratch that are alive.  peak: the most that was in use.
    reserved: what the device cannot give to others: in_use, and what is kept to be handed out
    again.  limit: `reserved` does not grow beyond it; None, as at first, for no limit.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._limit: int | None = None
        self._in_use = self._peak = 0
        # Reentrant: a finaliser that runs while it is held may ask for memory.
        self._lock = threading.RLock()

    @property
    def in_use(self) -> int:
        """Bytes of the arrays that are alive."""
        with self._lock:
            self._collect()
            return self._in_use

    @property
    def peak(self) -> int:
        """The most bytes that were in use at a time."""
        return self._peak

    @property
    @abstractmethod
    def reserved(self) -> int:
        """Bytes that this process holds there, in use or not."""

    @property
    def limit(self) -> int | None:
        """The most bytes that may be reserved, None for any.  Setting it below trims."""
        return self._limit

    @limit.setter
    def limit(self, nbytes: int | None) -> None:
        """Raises DeviceError for what is no number of bytes.  What is in use stays."""
        if nbytes is not None and (type(nbytes) is not int or nbytes < 0):
            raise DeviceError("limit", "a number of bytes, or None", f"{nbytes!r:.80}")
        self._limit = nbytes
        if nbytes is not None and self.reserved > nbytes:
            self.trim()

    @abstractmethod
    def trim(self) -> None:
        """Give back to the device what is not in use."""

    def require(self, nbytes: int, what: str = "") -> None:
        """Raise DeviceError, as allocating does, where there is no room for so many bytes more.

        what: " of scratch", say, for the error.
        """
        if nbytes > self._room():
            self.trim()
            if nbytes > (room := self._room()):
                raise self._refusal(nbytes, what, f"there is room for {room:.0f}")

    @abstractmethod
    def _room(self) -> float:
        """Bytes that may be allocated, as far as the device can tell."""

    @abstractmethod
    def _collect(self) -> None:
        """Take note of memory that is no longer in use."""

    def _refusal(self, nbytes: int, what: str, reason: str, help_: str = "") -> DeviceError:
        """The error for memory that there is none of."""
        limit = "none" if self._limit is None else f"{self._limit} bytes"
        return DeviceError(
            str(self._device),
            f"allocating {nbytes} bytes{what}: {reason}; this package has {self._in_use} bytes in "
            f"use and {self.reserved} reserved there, limit: {limit}",
            remedy=f"drop arrays and layers that are not needed{help_}, or raise "
            "device.memory.limit if it is set",
        )

    def __repr__(self) -> str:
        limit = "" if self._limit is None else f", limit {self._limit}"
        return (
            f"<{type(self).__name__} of {self._device}: {self.in_use} bytes in use (peak "
            f"{self._peak}), {self.reserved} reserved{limit}>"
        )


class HostMemory(DeviceMemory):
    """Arrays that the CPU device has made; those that it was given, files' too, do not count.

    NumPy gives memory back by itself, so that what is reserved is in use.
    """

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}  # by the id of the reference
        self._gone: deque[weakref.ref[Any]] = deque()

    def allocate(
        self, make: Callable[..., NDArray[Any]], shape: int | Sequence[int], dtype: DTypeLike
    ) -> NDArray[Any]:
        """An array by np.empty or np.zeros.  Raises DeviceError where there is no room for it."""
        dtype = dtype_named(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self._lock:
            self._collect()
            if self._limit is not None and self._in_use + nbytes > self._limit:
                raise self._refusal(nbytes, "", "the limit is reached")
            try:
                array = make(shape, dtype)
            except MemoryError as error:
                raise self._refusal(nbytes, "", str(error)) from None
            reference = weakref.ref(array, self._gone.append)
            self._alive[id(reference)] = reference, nbytes
            self._in_use += nbytes
            self._peak = max(self._peak, self._in_use)
        return array

    @property
    def reserved(self) -> int:
        return self.in_use

    def trim(self) -> None:
        """Return at once: there is nothing to give back."""

    def _room(self) -> float:
        return math.inf if self._limit is None else self._limit - self.in_use

    def _collect(self) -> None:
        with suppress(IndexError):
            while True:
                # None is there of an array that Ctrl-C took before it was noted.
                self._in_use -= self._alive.pop(id(self._gone.popleft()), (None, 0))[1]
