"""The weight that a device computes with, read back through the kernel itself.

Input rows with few elements that are not 0 tell which part of the weight is wrong: row k of the
identity gives row k of the weight, exactly, since its products are weights times a power of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..gptq import GptqLinear
from ..gptq.packing import NIBBLES
from .tolerance import Float32Array

_BLOCKS = 64  # of K at most: rows of a heat map
_LAUNCHES = 32  # for the blocks, and twice that for rows: a probe of one row a launch stays short
_ELEMENTS = 1 << 20  # of the weight that are read back
_MOST_ROWS = 256
_LARGEST = 4096.0  # outputs that are expected: a weight that is wrong 16-fold still fits float16


@dataclass(frozen=True, eq=False)
class Probe:
    """A layer on its device, asked with m rows a launch, as the kernel differs by m.

    weight  [K, N] of float16 or bfloat16, what is expected
    bias    float32 [N], the output for x = 0
    """

    layer: GptqLinear
    m: int
    weight: npt.NDArray[Any]
    bias: Float32Array

    @classmethod
    def start(cls, layer: GptqLinear, m: int, weight: npt.NDArray[Any]) -> Probe:
        """A probe with the output for x = 0."""
        bias = outputs(layer, np.zeros((1, layer.K), layer.dtype), m)[0]
        return cls(layer, m, weight, bias)

    def block_errors(self, seed: int = 0) -> tuple[Float32Array, int]:
        """Error of each block of rows in each column: float32 [blocks, N], rows in a block.

        The error of a sum of the block's rows with random signs, over the root of their number: of
        the size of one weight's error, and 0 only by chance where a weight is wrong.
        """
        K, N = self.weight.shape
        most = min(_BLOCKS, _LAUNCHES * self.m)
        rows = -(-K // (most * NIBBLES)) * NIBBLES
        blocks = -(-K // rows)
        signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), K)
        scale = self._scale(rows)
        x = np.zeros((blocks, K), self.layer.dtype)
        expected = np.empty((blocks, N), np.float32)
        for block in range(blocks):
            part = slice(block * rows, (block + 1) * rows)
            x[block, part] = signs[part] * scale
            expected[block] = signs[part] @ self.weight[part].astype(np.float32)
        found = (outputs(self.layer, x, self.m) - self.bias) / scale
        errors = (found - expected) / math.sqrt(rows)
        return errors.astype(np.float32), rows

    def words(self, near: int) -> npt.NDArray[Any]:
        """Words of rows to read back: a run from row `near`, the last ones, and a spread."""
        K, N = self.weight.shape
        count = K // NIBBLES
        most = min(_MOST_ROWS, 2 * _LAUNCHES * self.m, _ELEMENTS // N) // NIBBLES
        most = max(4, most)
        if count <= most:
            return np.arange(count)
        first = min(near // NIBBLES, count - 1)
        run = np.arange(first, min(first + most // 2, count))
        tail = np.arange(count - most // 4, count)
        spread = np.linspace(0, count - 1, most - len(run) - len(tail)).astype(int)
        return np.unique(np.concatenate([run, tail, spread]))

    def rows(self, rows: npt.NDArray[Any]) -> Float32Array:
        """These rows of the device's weight, float32 [R, N]."""
        scale = self._scale(1)
        x = np.zeros((len(rows), self.layer.K), self.layer.dtype)
        x[np.arange(len(rows)), rows] = scale
        weight: Float32Array = (outputs(self.layer, x, self.m) - self.bias) / scale
        return weight

    def _scale(self, summands: int) -> float:
        """The power of two that brings outputs near `_LARGEST`, within float16."""
        largest = float(np.abs(self.weight.astype(np.float32)).max()) * summands or 1.0
        return math.ldexp(1.0, max(-14, min(15, math.floor(math.log2(_LARGEST / largest)))))


def outputs(layer: GptqLinear, x: npt.NDArray[Any], m: int) -> Float32Array:
    """y = layer(x) for x (R, K), m rows a launch, NaN where nothing was written; float32 (R, N)."""
    device, found = layer.device, []
    for start in range(0, len(x), m):
        rows = np.zeros((m, layer.K), layer.dtype)
        part = x[start : start + m]
        rows[: len(part)] = part
        out = device.to_device(np.full((m, layer.N), np.nan, layer.dtype))
        layer(device.to_device(rows), out=out)
        device.synchronize()
        found.append(device.to_host(out)[: len(part)].astype(np.float32))
    return np.concatenate(found)
