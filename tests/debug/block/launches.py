"""Launches of the canonical kernel, right ones, as parameter blocks."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.abi import ArrayReference
from ferrum_numba.debug.block import propose

SIDECAR = kernels.W4A16_SIDECAR
SIGNATURE = SIDECAR.declare(fe.Signature.from_ptx(fe.W4A16_PTX))
SIZES = {"M": 10, "N": 2560, "K": 2048, "group_size": 128}


def launch(**sizes: int) -> tuple[dict[str, int], dict[str, ArrayReference]]:
    """The values of all parameters but scratch, and the arrays, for these sizes."""
    proposal = propose(SIGNATURE, SIDECAR, {n: str(v) for n, v in (SIZES | sizes).items()})
    return {p.name: proposal.values[p.name] for p in SIGNATURE.arguments}, dict(proposal.arrays)


def block(values: Mapping[str, int]) -> bytes:
    """The right bytes of these values."""
    return fe.ParameterBlock(SIGNATURE).set(**values).to_bytes()


def pack(values: Sequence[tuple[int, int]], *, align: bool = True) -> bytes:
    """(size, value) one after the other, filled up or cut to the length of the block."""
    data = b""
    for size, value in values:
        data += b"\0" * (-len(data) % size) if align else b""
        data += struct.pack("<Q" if size == 8 else "<i", value)
    return data.ljust(SIGNATURE.nbytes, b"\0")[: SIGNATURE.nbytes]
