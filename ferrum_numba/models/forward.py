"""One pass of a model's layers over rows of tokens, as launches on one stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .operations import Operations
from .weights import Weights
from .workspace import Pages, Rows, Segment, Workspace


class Forward:
    """A model's layers."""

    def __init__(self, operations: Operations, weights: Weights) -> None:
        self.operations, self.weights = operations, weights

    def __call__(
        self,
        ids: Any,
        rows: Rows,
        cache: Sequence[Pages],
        work: Workspace,
        stream: Any,
        segments: Sequence[Segment] | None = None,
    ) -> None:
        """Embed ids int32 [M], and pass the layers; work.x is what comes out.

        segments: of rows that are not one token of each sequence.
        """
        does, weights = self.operations, self.weights
        does.embed(ids, weights.embedding, work.x, stream)
        for layer, kept, window in zip(weights.layers, cache, does.config.windows, strict=True):
            does.norm(work.x, layer.input_norm, work.normed, stream)
            layer.qkv.into(work.qkv, work.normed, adds=False, stream=stream)
            if segments is None:
                does.attend_one(work, layer.head_norms, rows, kept, window, stream)
            else:
                does.rotate(work, layer.head_norms, rows, kept, stream)
                for part in segments:
                    does.attend_many(work, part, kept, window, stream)
            layer.o.into(work.x, work.attended, adds=True, stream=stream)
            does.norm(work.x, layer.post_norm, work.normed, stream)
            layer.mlp(does, work, stream)

    def finish(self, x: Any, normed: Any, stream: Any) -> None:
        """The last norm of rows that passed: normed T [M, hidden]."""
        self.operations.norm(x, self.weights.norm, normed, stream)

    def head(self, normed: Any, logits: Any, stream: Any) -> None:
        """logits float32 [M, vocab] of normed T [M, hidden]."""
        self.weights.head.into(logits, normed, adds=False, stream=stream)
