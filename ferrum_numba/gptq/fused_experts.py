"""Experts that a file has as one layer: each tensor has another dimension ahead, the expert."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CheckpointError
from .checkpoint import Checkpoint
from .tensors import GptqTensors
from .zeros import plain_format

_PARTS = ("qweight", "scales", "qzeros")


def check_fused(checkpoint: Checkpoint, name: str, experts: int, K: int, N: int) -> None:
    """Raise CheckpointError unless `name` is so many experts' layer [K, N] of 4 bits.

    qweight int32 [E, K/8, N], scales [E, groups, N], qzeros int32 [E, groups, N/8] and, if there is
    one, g_idx int32 [E, K].
    """
    tensors = checkpoint.tensors
    scales = tensors.get(f"{name}.scales")
    groups = scales.shape[1] if scales is not None and len(scales.shape) == 3 else 1
    expected = ((experts, K // 8, N), (experts, groups, N), (experts, groups, N // 8))
    for part, shape in zip(_PARTS, expected, strict=True):
        stored = tensors.get(f"{name}.{part}")
        if stored is None or stored.shape != shape:
            found = "nothing" if stored is None else list(stored.shape)
            raise CheckpointError(f"{name}.{part}", f"shape {list(shape)}", found)
    rows = tensors.get(f"{name}.g_idx")
    if rows is not None and rows.shape != (experts, K):
        raise CheckpointError(f"{name}.g_idx", f"shape {[experts, K]}", list(rows.shape))


def fused_experts(
    checkpoint: Checkpoint, name: str, first: int = 0, last: int | None = None
) -> Iterator[GptqTensors]:
    """Columns first to last - 1 of each expert's layer, expert by expert."""
    words, scales, zeros = (checkpoint.array(f"{name}.{part}") for part in _PARTS)
    order = f"{name}.g_idx"
    rows = checkpoint.array(order) if order in checkpoint.tensors else [None] * len(words)
    last = words.shape[2] if last is None else last
    for number in range(len(words)):
        own = zeros[number, :, first // 8 : last // 8].copy()
        yield GptqTensors(
            qweight=words[number, :, first:last].copy(),
            scales=scales[number, :, first:last].copy(),
            qzeros=own,
            group_size=-(-words.shape[1] * 8 // scales.shape[1]),
            zero_format=plain_format(own, checkpoint.quantization.zero_format),
            g_idx=rows[number],
        )
