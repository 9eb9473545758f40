"""The arrays of one pass of a model's layers: its rows, where they belong, and what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ..devices import Device
from .choices import Choices
from .config import ModelConfig

Pages = tuple[Any, Any]
"""A layer's keys and values, T [count, kv_heads, page, head_dim]."""

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


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
    """Neighbouring rows first to last - 1: new tokens of one sequence, from position `start` on.

    pages: int32 [S], the sequence's own.
    """

    first: int
    last: int
    start: int
    pages: Any


class Workspace:
    """The arrays that a pass of up to M rows writes; one pass at a time may use them."""

    def __init__(self, config: ModelConfig, device: Device, m: int) -> None:
        empty = device.empty
        dtype = DTYPES[config.dtype]
        self.m = m
        self.x = empty((m, config.hidden), np.float32)
        self.normed = empty((m, config.hidden), dtype)
        self.qkv = empty((m, config.q_width + 2 * config.kv_width), np.float32)
        self.q = empty((m, config.q_width), dtype)
        self.attended = empty((m, config.q_width), dtype)
        inner = 0 if all(config.sparse) else config.intermediate
        self.both = empty((m, 2 * inner), dtype)
        self.gated = empty((m, inner), dtype)
        spec = config.experts
        self.choices = None if spec is None else Choices(spec, config.hidden, dtype, device, m)

    @staticmethod
    def nbytes(config: ModelConfig, m: int) -> int:
        """Bytes of a workspace for M rows."""
        wide = config.hidden + config.q_width + 2 * config.kv_width
        inner, spec = 0 if all(config.sparse) else config.intermediate, config.experts
        mixed = Choices.nbytes(spec, config.hidden, m) if spec else 0
        return m * (4 * wide + 2 * (config.hidden + 2 * config.q_width + 3 * inner)) + mixed

    def rows(self, first: int, last: int) -> Workspace:
        """The same arrays, of these rows alone."""
        part = object.__new__(Workspace)
        part.__dict__ = {
            name: array[first:last]
            for name, array in self.__dict__.items()
            if name not in ("m", "choices")
        }
        part.m = last - first
        part.choices = None if self.choices is None else self.choices.rows(part.m)
        return part
