"""One injected fault, and the sound launches that faults are put into.

The launches are spelt out by hand, with `struct` and NumPy: nothing here knows what the explainer
looks at, and the two have only the names of causes in common.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.debug.case import Case, CaseArray

ROOT = Path(__file__).resolve().parents[3]
STRANGERS = ROOT / "tests" / "emulator" / "data" / "kernels"
# (M, K, N, group size): none of the tiles divides them all, and no two integers of a launch agree.
SHAPES = ((5, 256, 136, 64), (3, 384, 72, 128), (21, 192, 200, 32))
_FIRST_ADDRESS = 0x7F3A_5400_0000
_NAMES = ("a", "qweight", "scales", "qzeros", "c")
_SIZES = ("M", "N", "K", "group_size")
_STRIDES = tuple(f"stride_{n}" for n in ("am", "ak", "qwk", "qwn", "sk", "sn", "qzk", "qzn"))
INTEGERS = (*_SIZES, *_STRIDES, "stride_cm", "stride_cn")


@dataclass(frozen=True)
class Fault:
    """what is wrong, in a line; cause: the name that is right; make(shape) -> the case."""

    name: str
    cause: str
    what: str
    make: Callable[[int], Case]


def w4a16(
    shape: int,
    *,
    zeros: str = "v1",
    symmetric: bool = False,
    kernel: str = "v1",
    between: tuple[int, int] = (1, 15),
) -> Launch:
    """A sound launch of the canonical GEMM; zeros, kernel: whose zero convention.

    between: the least and the largest zero.  zeros "gptqmodel": v1 as GPTQModel writes it, which
    takes 1 from every nibble of a word at once, so that a zero of 0 borrows from its neighbour.
    """
    M, K, N, G = SHAPES[shape % len(SHAPES)]
    rng = np.random.default_rng(shape)
    levels = rng.integers(0, 16, (K, N))
    zero = (
        np.full((K // G, N), 8)
        if symmetric
        else rng.integers(between[0], between[1] + 1, (K // G, N))
    )
    scales = (rng.uniform(0.5, 1.5, (K // G, N)) / (6 * np.sqrt(K))).astype(np.float16)
    a = rng.standard_normal((M, K)).astype(np.float16)
    groups = np.arange(K) // G
    weight = scales.astype(np.float64)[groups] * (levels - zero[groups])
    words = pack((zero - (zeros == "v1")).reshape(K // G, N // 8, 8))
    if zeros == "gptqmodel":
        words = (words.view(np.uint32) - np.uint32(0x11111111)).view(np.int32)
    arrays = {
        "a": a,
        "qweight": pack(levels.reshape(K // 8, 8, N).transpose(0, 2, 1)),
        "scales": scales,
        "qzeros": words,
        "c": np.full((M, N), np.nan, np.float16),
    }
    values = dict(zip(INTEGERS, (M, N, K, G, K, 1, N, 1, N, 1, N // 8, 1, N, 1), strict=True))
    shipped = kernels.canonical(1 if kernel == "v1" else 0)
    return Launch(
        ptx=shipped.text,
        sidecar=shipped.declared,
        arrays=arrays,
        values=values,
        grid=(-(-M // 64), -(-N // 64), 1),
        expected=(a.astype(np.float64) @ weight).astype(np.float16),
    )


@dataclass(frozen=True)
class Launch:
    """The parts of a launch, each to be spoilt by itself."""

    ptx: str
    sidecar: Any
    arrays: Mapping[str, np.ndarray]
    values: Mapping[str, int]
    grid: tuple[int, int, int]
    expected: np.ndarray
    block: tuple[int, int, int] = (128, 1, 1)
    shared_bytes: int = 8192

    def case(self, **changes: Any) -> Case:
        """The case: addresses, block, configuration; `changes` are put over it."""
        places = addresses(self.arrays)
        block = struct.pack(
            "<5Q14i2Q", *(places[n] for n in _NAMES), *(self.values[n] for n in INTEGERS), 0, 0
        )
        case = Case(
            ptx=self.ptx,
            block=block,
            config=fe.LaunchConfig(self.grid, self.block, self.shared_bytes),
            arrays={n: CaseArray(a, places[n]) for n, a in self.arrays.items()},
            entry=None,
            sidecar=self.sidecar,
            expected={"c": self.expected},
            device="cuda:0",
            capability=(9, 0),
            driver=(12, 8),
        )
        return replace(case, **changes)

    def but(self, **changes: Any) -> Launch:
        """Copy with parts replaced."""
        return replace(self, **changes)

    def with_values(self, **values: int) -> Launch:
        """Copy with integers replaced, the grid as it was."""
        return replace(self, values={**self.values, **values})

    def with_array(self, name: str, array: np.ndarray) -> Launch:
        """Copy with an array replaced."""
        return replace(self, arrays={**self.arrays, name: array})


def addresses(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Addresses that a driver would choose: one after the other, 512 bytes aligned."""
    found, at = {}, _FIRST_ADDRESS
    for name, array in arrays.items():
        found[name] = at
        at += -(-array.nbytes // 512) * 512 + 512
    return found


def stranger(
    name: str,
    layout: str,
    names: str,
    values: tuple[Any, ...],
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    grid: tuple[int, int, int],
) -> Case:
    """A launch of somebody else's kernel, with no sidecar.

    layout: of the block, as `struct` has it; names: of the parameters, blanks between them; values:
    those that are no arrays, in order.
    """
    known = json.loads((STRANGERS / "index.json").read_text())[name]
    places, rest, block = addresses(arrays), iter(values), []
    parameter = {n: f"{known['entry']}_param_{i}" for i, n in enumerate(names.split())}
    for n in names.split():
        block.append(places[n] if n in places else next(rest))
    return Case(
        ptx=(STRANGERS / f"{name}.ptx").read_text(),
        block=struct.pack(layout, *block),
        config=fe.LaunchConfig(grid, known["warps"] * 32, known["shared"]),
        arrays={parameter[n]: CaseArray(a, places[n]) for n, a in arrays.items()},
        expected={parameter[n]: e for n, e in expected.items()},
        device="cuda:0",
    )


def pack(nibbles: np.ndarray) -> np.ndarray:
    """[..., 8] values of 4 bits, low first, as int32 [...]."""
    words = np.zeros(nibbles.shape[:-1], np.uint32)
    for i in range(8):
        words |= nibbles[..., i].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def unpack(words: np.ndarray) -> np.ndarray:
    """int32 [...] as [..., 8] values of 4 bits, low first."""
    bits = words.view(np.uint32)[..., None]
    return (bits >> (np.arange(8, dtype=np.uint32) * 4)) & 15
