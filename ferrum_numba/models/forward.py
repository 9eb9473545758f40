"""One pass of a model's layers over rows of tokens, as launches on one stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .config import ModelConfig
from .operations import Operations
from .weights import DTYPES, Weights


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

    def __init__(self, operations: Operations, m: int) -> None:
        config, empty = operations.config, operations.device.empty
        dtype = DTYPES[config.dtype]
        self.m = m
        self.x = empty((m, config.hidden), np.float32)
        self.normed = empty((m, config.hidden), dtype)
        self.qkv = empty((m, config.q_width + 2 * config.kv_width), np.float32)
        self.q = empty((m, config.q_width), dtype)
        self.attended = empty((m, config.q_width), dtype)
        self.both = empty((m, 2 * config.intermediate), dtype)
        self.gated = empty((m, config.intermediate), dtype)

    @staticmethod
    def nbytes(config: ModelConfig, m: int) -> int:
        """What a workspace for M rows takes."""
        wide = config.hidden + config.q_width + 2 * config.kv_width
        return m * (4 * wide + 2 * (config.hidden + 2 * config.q_width + 3 * config.intermediate))

    def rows(self, first: int, last: int) -> Workspace:
        """The same arrays, of these rows alone."""
        part = object.__new__(Workspace)
        part.__dict__ = {
            name: array[first:last] for name, array in self.__dict__.items() if name != "m"
        }
        part.m = last - first
        return part


class Forward:
    """A model's layers."""

    def __init__(self, operations: Operations, weights: Weights) -> None:
        self.operations, self.weights = operations, weights

    def __call__(
        self,
        ids: Any,
        rows: Rows,
        cache: Sequence[tuple[Any, Any]],
        work: Workspace,
        stream: Any,
        segments: Sequence[Segment] | None = None,
    ) -> None:
        """Embed ids int32 [M], and pass the layers; work.x is what comes out.

        segments: of rows that are not one token of each sequence.
        """
        does, weights, m = self.operations, self.weights, work.m
        does.embed(ids, weights.embedding, work.x, m, stream)
        for layer, kept, window in zip(weights.layers, cache, does.config.windows, strict=True):
            does.norm(work.x, layer.input_norm, work.normed, m, stream)
            layer.qkv.into(work.qkv, work.normed, adds=False, stream=stream)
            where = (rows.sequences, rows.positions)
            does.rotate(
                *(work.qkv, layer.head_norms, rows.turns, where, rows.pages, work.q, kept, m),
                stream,
            )
            if segments is None:
                does.attend_one(
                    work.q, kept, rows.pages, rows.positions, work.attended, window, stream
                )
            for part in segments or ():
                own = slice(part.first, part.last)
                does.attend_many(
                    *(work.q[own], kept, part.pages, part.start, work.attended[own]),
                    *(part.last - part.first, window, stream),
                )
            layer.o.into(work.x, work.attended, adds=True, stream=stream)
            does.norm(work.x, layer.post_norm, work.normed, m, stream)
            layer.gate_up(work.normed, out=work.both, stream=stream)
            does.gate(work.both, work.gated, m, stream)
            layer.down.into(work.x, work.gated, adds=True, stream=stream)

    def finish(self, work: Workspace, normed: Any, stream: Any) -> None:
        """The last norm of what a pass left: T [M, hidden]."""
        self.operations.norm(work.x, self.weights.norm, normed, work.m, stream)

    def head(self, normed: Any, logits: Any, stream: Any) -> None:
        """logits float32 [M, vocab] of normed T [M, hidden]."""
        self.weights.head.into(logits, normed, adds=False, stream=stream)
