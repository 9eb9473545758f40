"""The arrays of a mixture of experts in one pass: who goes where, and what comes of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..devices import Device
from ..gptq import Routing
from ..kernels import ExpertTiles
from .experts import ExpertsConfig

_BLOCK = 64  # rows of a block, at the most


class Choices:
    """Of up to M rows: `top_k` choices each, C = M * top_k in all.

    logits       float32 [M, experts]
    ids          int32 [C]: the expert of each choice; weights: float32 [C], what it counts
    gated        T [C, width];  parts: float32 [C, hidden]
    shared       T [M, 2 shared] and T [M, shared] inside, T [M, hidden] out of the MLP of all
    shared_gate  float32 [M, 1]
    """

    def __init__(
        self, spec: ExpertsConfig, hidden: int, dtype: np.dtype[Any], device: Device, m: int
    ) -> None:
        self._spec = spec
        count = m * spec.top_k
        blocks = count + min(count, spec.count)
        empty = device.empty
        self.logits = empty((m, spec.count), np.float32)
        self.ids, self.weights = empty(count, np.int32), empty(count, np.float32)
        self.gated = empty((count, spec.width), dtype)
        self.parts = empty((count, hidden), np.float32)
        self.shared = [empty((m, n), dtype) for n in (2 * spec.shared, spec.shared, hidden)]
        self.shared_gate = empty((m, 1), np.float32)
        rows = count + min(count, spec.count) * (_BLOCK - 1)
        self._sorted = empty(rows, np.int32)
        self._experts, self._tiles = empty(blocks, np.int32), empty(blocks + 1, np.int32)
        self._count = empty(1, np.int32)

    @staticmethod
    def nbytes(spec: ExpertsConfig, hidden: int, m: int) -> int:
        """About what the arrays of M rows take."""
        inside = spec.top_k * (2 * spec.width + 4 * hidden) + 6 * spec.shared
        return m * (inside + 4 * spec.count)

    def rows(self, m: int) -> Choices:
        """The same arrays, for M rows."""
        part = object.__new__(Choices)
        part.__dict__ = dict(self.__dict__)
        count = m * self._spec.top_k
        for name in ("logits", "shared_gate"):
            part.__dict__[name] = getattr(self, name)[:m]
        for name in ("ids", "weights", "gated", "parts"):
            part.__dict__[name] = getattr(self, name)[:count]
        part.shared = [array[:m] for array in self.shared]
        return part

    def routing(self, tiles: ExpertTiles) -> Routing:
        """Room for the choices in the blocks that these builds want."""
        blocks = tiles.blocks(self.ids.shape[0], self._spec.count)
        return Routing(
            self._sorted[: blocks * tiles.block],
            self._experts[:blocks],
            self._count,
            self._tiles[: blocks + 1],
        )
