"""Rows of a layer's weight, taken apart, so that wrong ways to read them can be tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..gptq import GptqTensors
from ..gptq.packing import NIBBLES, unpack_rows
from .reference import groups_of_rows
from .tolerance import Float32Array


@dataclass(frozen=True, eq=False)
class Sample:
    """Some rows of a weight [K, N]: scale * (level - zero), G the group size.

    rows    integers [R], ascending; whole words, so R is a multiple of 8
    levels  float32 [R, N], 0..15
    zeros   float32 [groups, N], the true zeros
    scales  float32 [groups, N]
    groups  integers [R], of each row
    """

    tensors: GptqTensors
    rows: npt.NDArray[Any]
    levels: Float32Array
    zeros: Float32Array
    scales: Float32Array
    groups: npt.NDArray[Any]

    @classmethod
    def take(cls, tensors: GptqTensors, words: npt.NDArray[Any]) -> Sample:
        """The rows of these words: integers, ascending, below K/8."""
        rows = (words[:, None] * NIBBLES + np.arange(NIBBLES)).ravel()
        return cls(
            tensors,
            rows,
            unpack_rows(tensors.qweight[words]).astype(np.float32),
            tensors.zeros().astype(np.float32),
            tensors.scales.astype(np.float32),
            groups_of_rows(tensors)[rows],
        )

    def weight(
        self,
        *,
        levels: Float32Array | None = None,
        zeros: Float32Array | None = None,
        scales: Float32Array | None = None,
        groups: npt.NDArray[Any] | None = None,
    ) -> Float32Array:
        """The rows' weight [R, N], with some of its parts replaced."""
        levels = self.levels if levels is None else levels
        zeros = self.zeros if zeros is None else zeros
        scales = self.scales if scales is None else scales
        groups = self.groups if groups is None else groups
        weight: Float32Array = scales[groups] * (levels - zeros[groups])
        return weight
