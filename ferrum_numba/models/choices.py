"""The arrays of a mixture of experts in one pass: who goes where, and what comes of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..devices import Device
from ..gptq import ExpertRoom, Routing
from ..kernels import MOST_ROWS, ExpertTiles
from .experts import ExpertsConfig


class Choices:
    """Of up to M rows: `top_k` choices each, C = M * top_k in all.

    logits       float32 [M, experts]
    ids          int32 [C]: the expert of each choice; weights: float32 [C], what it counts
    shared       T [M, 2 shared] and T [M, shared] inside, T [M, hidden] out of the MLP of all
    shared_gate  float32 [M, 1]
    """

    def __init__(
        self, spec: ExpertsConfig, hidden: int, dtype: np.dtype[Any], device: Device, m: int
    ) -> None:
        self._spec = spec
        count, rows = m * spec.top_k, _rows(spec, m)
        empty = device.empty
        self.logits = empty((m, spec.count), np.float32)
        self.ids, self.weights = empty(count, np.int32), empty(count, np.float32)
        self.shared = [empty((m, n), dtype) for n in (2 * spec.shared, spec.shared, hidden)]
        self.shared_gate = empty((m, 1), np.float32)
        self._hidden = hidden
        self._rows, self._gated = (empty(rows * (n + 31), dtype) for n in (hidden, spec.width))
        self._parts = empty(count * hidden, np.float32)
        self._numbers = [empty(n, np.int32) for n in (rows, count + 1, 1, count + 2)]
        self._room: dict[ExpertTiles, tuple[Routing, ExpertRoom]] = {}

    @staticmethod
    def nbytes(spec: ExpertsConfig, hidden: int, m: int) -> int:
        """About what the arrays of M rows take."""
        inside = 4 * spec.top_k * hidden + 6 * spec.shared + 2 * hidden
        return m * (inside + 4 * spec.count) + 2 * _rows(spec, m) * (spec.width + hidden)

    def rows(self, m: int) -> Choices:
        """The same arrays, for M rows."""
        part = object.__new__(Choices)
        part.__dict__ = dict(self.__dict__)
        count = m * self._spec.top_k
        part.logits, part.shared_gate = self.logits[:m], self.shared_gate[:m]
        part.ids, part.weights = self.ids[:count], self.weights[:count]
        part.shared = [array[:m] for array in self.shared]
        part._room = {}
        return part

    def room(self, tiles: ExpertTiles) -> tuple[Routing, ExpertRoom]:
        """Arrays of a launch with these builds: the routing, and the room for results."""
        if tiles not in self._room:
            count = self.ids.shape[0]
            blocks = tiles.blocks(count, self._spec.count)
            sizes = (blocks * tiles.block, blocks, 1, blocks + 1)
            routing = Routing(*(a[:n] for a, n in zip(self._numbers, sizes, strict=True)))
            spec, flat = self._spec, (self._rows, self._gated, self._parts)
            shapes = ExpertRoom.shapes(tiles, count, spec.count, self._hidden, spec.width)
            arrays = [
                shape and array[: shape[0] * shape[1]].reshape(shape)
                for array, shape in zip(flat, shapes, strict=True)
            ]
            self._room[tiles] = routing, ExpertRoom(*arrays)
        return self._room[tiles]


def _rows(spec: ExpertsConfig, m: int) -> int:
    """The most rows of blocks that the choices of M rows fill."""
    count = m * spec.top_k
    return count + min(count, spec.count) * (MOST_ROWS - 1)
