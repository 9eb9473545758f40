"""The arrays of one pass of a model's layers: its rows, where they belong, and what it writes."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..devices import Device
from ..dtypes import dtype_named
from ..gptq import ExpertSpace
from .config import ModelConfig
from .ids import Ids

Pages = tuple[Any, Any]
"""A layer's keys and values, T [count, kv_heads, page, head_dim]."""


@dataclass(frozen=True)
class Rows:
    """The rows of a pass, and where their keys and values go.

    sequences, positions: int32 [M].  pages: int32 [B, S].
    turns: cosines and sines, float32 [P, R / 2].
    """

    sequences: Any
    positions: Any
    pages: Any
    turns: tuple[Any, Any]


@dataclass(frozen=True)
class Segment:
    """Neighbouring rows of a pass, from row `first` on: new tokens of one sequence.

    ids: theirs, the first of which is at position `start`.  pages: int32 [S], the sequence's own.
    ends: whether the last of a prompt's tokens is among them.
    """

    sequence: int
    ids: Ids
    start: int
    first: int
    pages: Any
    ends: bool

    @property
    def last(self) -> int:
        """The row behind the last one."""
        return self.first + len(self.ids)


class Workspace:
    """The arrays [M, ...] that a pass of M rows writes; one pass at a time may use them.

    Those behind `gated`, and `space`, are there where the model has experts.
    """

    x: Any  # float32, the residual stream
    normed: Any
    qkv: Any  # float32
    q: Any
    attended: Any
    both: Any  # gate's columns, then up's
    gated: Any
    scores: Any  # float32 [M, experts]
    ids: Any  # int32 [M, top_k], the experts of each row
    counts: Any  # float32 [M, top_k], what each of them counts
    shared_both: Any  # as `both`, of the MLP that all tokens go to
    shared_gated: Any
    shared: Any  # what comes out of it
    shared_gate: Any  # float32 [M, 1]

    def __init__(self, config: ModelConfig, device: Device, m: int) -> None:
        self.m, self._arrays = m, _columns(config)
        for name, (columns, dtype) in self._arrays.items():
            setattr(self, name, device.empty((m, columns), dtype))
        self.space = None
        if spec := config.experts:
            sizes = (m * spec.top_k, spec.count, config.hidden, spec.width)
            self.space = ExpertSpace(device, *sizes, dtype_named(config.dtype))

    @staticmethod
    def nbytes(config: ModelConfig, m: int) -> int:
        """Bytes of a workspace for M rows."""
        total: int = sum(m * n * np.dtype(dtype).itemsize for n, dtype in _columns(config).values())
        if spec := config.experts:
            total += ExpertSpace.nbytes(m * spec.top_k, spec.count, config.hidden, spec.width)
        return total

    def rows(self, m: int) -> Workspace:
        """The same arrays, for M rows."""
        part = copy(self)
        part.m = m
        for name in self._arrays:
            setattr(part, name, getattr(self, name)[:m])
        return part


def _columns(config: ModelConfig) -> dict[str, tuple[int, Any]]:
    """Columns and dtype of each array."""
    T, wide, hidden, q = dtype_named(config.dtype), np.float32, config.hidden, config.q_width
    inner = 0 if all(config.sparse) else config.intermediate
    columns: dict[str, tuple[int, Any]] = {"x": (hidden, wide), "normed": (hidden, T)}
    columns |= {"qkv": (q + 2 * config.kv_width, wide), "q": (q, T), "attended": (q, T)}
    columns |= {"both": (2 * inner, T), "gated": (inner, T)}
    if spec := config.experts:
        columns |= {"scores": (spec.count, wide), "ids": (spec.top_k, np.int32)}
        columns |= {"counts": (spec.top_k, wide), "shared_both": (2 * spec.shared, T)}
        columns |= {"shared_gated": (spec.shared, T), "shared": (hidden, T)}
        columns |= {"shared_gate": (1, wide)}
    return columns
