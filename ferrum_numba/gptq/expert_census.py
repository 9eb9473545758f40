"""Experts that a checkpoint has otherwise than the others, or not at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from .checkpoint import Checkpoint
from .plausibility import implausible

_EXPERT = re.compile(r"(?P<whole>.+\.experts)\.(?P<number>\d+)\.(?P<part>[^.]+)")
_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


def expert_problems(checkpoint: Checkpoint, *, values: bool = False) -> dict[str, str]:
    """Name of a layer -> what is wrong: missing, not quantised, of other bits than most, or zero.

    values: whether scales are read, to find the experts that are all zero since calibration never
    reached them; those of experts that look so are read whole.  Layers that `checkpoint.problems`
    has are not repeated.
    """
    return dict(_problems(checkpoint, values))


def _problems(checkpoint: Checkpoint, values: bool) -> Iterator[tuple[str, str]]:
    layers, tensors = checkpoint.layers, checkpoint.tensors
    owners = {tensor.rpartition(".")[0] for tensor in tensors} | checkpoint.problems.keys()
    found = [match for owner in sorted(owners) if (match := _EXPERT.fullmatch(owner))]
    stated = [checkpoint.config.get(key) for key in _COUNTS]
    counts: dict[str, int] = {}
    for match in found:
        count = max([int(match["number"]) + 1, *(n for n in stated if type(n) is int)])
        counts[match["whole"]] = max(count, counts.get(match["whole"], 0))
    parts = sorted({(match["whole"], match["part"]) for match in found})
    bits = Counter(layers[m[0]].bits for m in found if m[0] in layers)
    common = bits.most_common(1)[0][0] if bits else 4
    for whole, part in parts:
        for number in range(counts[whole]):
            name = f"{whole}.{number}.{part}"
            if name in checkpoint.problems:
                continue
            if name not in layers:
                dense = f"{name}.weight" in tensors
                yield name, "not quantised" if dense else "missing"
            elif layers[name].bits != common:
                yield name, f"{layers[name].bits} bits, where most experts have {common}"
            elif values and common == 4:
                scales = checkpoint.array(f"{name}.scales")
                if np.ptp(scales.astype(np.float32)) == 0:
                    signs = implausible(checkpoint.load(name), layers[name].symmetric)
                    if "all-zero" in signs:
                        yield name, "all zero, as an expert that calibration never reached"
