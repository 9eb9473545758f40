"""Layers, cache and the reading of prompts: all that the sessions of a model share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .cache import PagePool
from .forward import Forward
from .ids import Ids
from .workspace import Rows, Segment, Workspace

CHUNK = 2048  # rows of prompts at once
_POOL = 8192  # tokens that the cache has room for, at the least

Seat = tuple[Any, npt.NDArray[np.int64]]
"""A stream, and memory for the tokens of a batch."""


class Shared:
    """A model's layers, and what sessions on any threads use of them by turns."""

    def __init__(self, forward: Forward, cache_tokens: int | None) -> None:
        """cache_tokens: that the cache has room for; None: as many as the first session wants."""
        self.forward = forward
        self._cache_tokens = cache_tokens
        self._pool: PagePool | None = None
        self._seats: dict[int, list[Seat]] = {}
        self._opening = threading.Lock()
        self._work: Workspace | None = None
        self._stream: Any = None
        self._reading = threading.RLock()

    def pool(self, batch: int, length: int) -> PagePool:
        """The cache; where nobody uses it yet, with room for `batch` sequences of `length`."""
        does = self.forward.operations
        with self._opening:
            count = batch * -(-length // does.page)
            least = -(-(self._cache_tokens or _POOL) // does.page)
            count = least if self._cache_tokens else max(count, least)
            if self._pool is None or (self._pool.idle and self._pool.count < count):
                self._pool = None  # before the larger one is allocated
                self._pool = PagePool(does.config, does.device, does.page, count)
            return self._pool

    def lend_seat(self, batch: int) -> Seat:
        """A stream, and memory in which the host sees `batch` tokens as soon as they are drawn.

        Both are kept and lent again: giving host memory back waits for the device, and what a
        stream's launches need stays the stream's.
        """
        with self._opening:
            kept = self._seats.setdefault(batch, [])
            if kept:
                return kept.pop()
        device = self.forward.operations.device
        return device.create_stream(), device.mapped(batch, np.int64)

    def take_seat(self, seat: Seat) -> None:
        """Take back what was lent."""
        self._seats[len(seat[1])].append(seat)

    def read(
        self,
        prompts: Sequence[tuple[int, Ids]],
        pages: Any,
        turns: tuple[Any, Any],
        pool: PagePool,
        stream: Any,
    ) -> Iterator[tuple[Workspace, list[Segment]]]:
        """Pass prompts through the layers in chunks; after each its workspace and its segments.

        prompts: (row of the page table, all ids) of each.  pages: the table, int32 [B, S] on the
        device.  One session reads at a time; what it launches on `stream` between two chunks finds
        the workspace as the first of them left it.
        """
        device = self.forward.operations.device
        with self._reading:
            if self._stream is not None and self._stream is not stream:
                device.order(before=self._stream, after=stream)
            self._stream = stream
            for segments in _split(prompts, pages):
                work = self._workspace(segments[-1].last)
                ids = np.concatenate([segment.ids for segment in segments])
                places = [np.arange(len(s.ids), dtype=np.int32) + s.start for s in segments]
                owners = [np.full(len(s.ids), s.sequence, np.int32) for s in segments]
                sequences, positions = map(device.to_device, map(np.concatenate, (owners, places)))
                rows = Rows(sequences, positions, pages, turns)
                self.forward(device.to_device(ids), rows, pool.layers, work, stream, segments)
                yield work, segments

    def _workspace(self, m: int) -> Workspace:
        if self._work is None or self._work.m < m:
            self._work = None  # before the larger one is allocated
            operations = self.forward.operations
            self._work = Workspace(operations.config, operations.device, m)
        return self._work.rows(m)


def _split(prompts: Sequence[tuple[int, Ids]], pages: Any) -> Iterator[list[Segment]]:
    """The prompts' tokens in chunks of at most CHUNK rows, several prompts side by side."""
    segments: list[Segment] = []
    used = 0
    for sequence, ids in prompts:
        start = 0
        while start < len(ids):
            own = ids[start : start + CHUNK - used]
            ends = start + len(own) == len(ids)
            segments.append(Segment(sequence, own, start, used, pages[sequence], ends))
            start, used = start + len(own), used + len(own)
            if used == CHUNK:
                yield segments
                segments, used = [], 0
    if segments:
        yield segments
