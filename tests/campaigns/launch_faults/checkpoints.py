"""Faults of checkpoints: those of ferrum_numba.gptq.faults, one or more of each kind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ferrum_numba.gptq import Recipe, make_checkpoint
from ferrum_numba.gptq.faults import apply_fault

CAUSES = {
    "empty-file": "checkpoint-unreadable",
    "lfs-pointer": "checkpoint-unreadable",
    "header-of-nothing": "checkpoint-unreadable",
    "truncated": "checkpoint-cut-short",
    "offset-outside": "checkpoint-cut-short",
    "overlap": "checkpoint-header-wrong",
    "size-against-shape": "checkpoint-header-wrong",
    "duplicate-tensor": "checkpoint-header-wrong",
    "no-safetensors": "checkpoint-file-missing",
    "missing-shard": "checkpoint-file-missing",
    "index-unreadable": "checkpoint-index-wrong",
    "index-path-up": "checkpoint-index-wrong",
    "configuration-missing": "configuration-missing",
    "group-size-missing": "configuration-missing",
    "bits-wrong": "configuration-wrong",
    "group-size-wrong": "configuration-wrong",
    "method-awq": "configuration-wrong",
    "missing-qzeros": "tensor-missing",
    "qweight-int64": "tensor-type",
    "scales-row-less": "tensor-shape",
    "qzeros-row-less": "tensor-shape",
    "scales-nan": "tensor-values",
    "g-idx-beyond": "tensor-values",
    "qzeros-mislabelled": "zero-convention",
}
"""Right causes, by the fault's name."""


@contextmanager
def damaged(fault: str) -> Iterator[Path]:
    """A small checkpoint with a fault, as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        make_checkpoint(path, Recipe(shards=2, layers=1))
        apply_fault(path, fault)
        yield path
