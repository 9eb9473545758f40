"""Parameters that a launch hands over elsewhere than the PTX has them."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.abi import ParameterBlock, Signature

WIDE = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry wide(.param .u64 out, .param .align 64 .b8 many[128], .param .u64 last)
{
  .reg .b64 %r<4>;
  ld.param.u64 %r1, [out];
  ld.param.u64 %r2, [many];
  st.global.u64 [%r1], %r2;
  ld.param.u64 %r2, [many+120];
  st.global.u64 [%r1+8], %r2;
  ld.param.u64 %r3, [last];
  st.global.u64 [%r1+16], %r3;
  ret;
}
"""
PLACES = (0, 48, 176)  # as sm_90 has them
MANY = np.arange(100, 116, dtype=np.uint64)


def test_the_block() -> None:
    """In memory as it is handed over; its bytes as the PTX has them."""
    plain = Signature.from_ptx(WIDE)
    moved = replace(plain, places=PLACES)
    blocks = [ParameterBlock(s).set(out=7, many=MANY, last=9) for s in (plain, moved)]
    assert [block.nbytes for block in blocks] == [200, 184]
    assert blocks[0].to_bytes() == blocks[1].to_bytes()
    assert blocks[0].values() == blocks[1].values()
    memory = ctypes.string_at(blocks[1].address, 184)
    assert memory[48:176] == MANY.tobytes()
    assert int.from_bytes(memory[176:], "little") == 9
    again = ParameterBlock.from_bytes(moved, blocks[0].to_bytes())
    assert ctypes.string_at(again.address, 184) == memory
    assert again.copy().to_bytes() == blocks[0].to_bytes()
    again.pointer("last").value = 11
    assert again.values()["last"] == 11
    starts = [address - again.address for address in again.kernel_params()]
    assert starts == list(PLACES)


def test_a_launch(device: fe.Device) -> None:
    if getattr(device, "capability", (9, 0)) < (9, 0):
        pytest.skip("its PTX is for Hopper")
    out: Any = device.empty(3, np.uint64)
    kernel = device.load_module(WIDE).get_kernel()
    kernel.launch(fe.LaunchConfig(1, 1), out, MANY, 2**40)
    device.synchronize()
    assert list(device.to_host(out)) == [100, 115, 2**40]


def test_a_block_that_follows_another() -> None:
    """In all but the scratch pointers, wherever these lie."""
    plain = Signature.from_ptx(WIDE)
    first, many, last = plain.params
    for places in (None, PLACES):
        for params, kept in (
            ((replace(first, role="workspace"), many, last), {"out"}),
            ((first, many, replace(last, role="counters")), {"last"}),
            ((first, many, last), set()),
        ):
            signature = replace(plain, params=params, places=places)
            one, other = (ParameterBlock(signature) for _ in range(2))
            one.set(out=1, many=bytes(128), last=2)
            other.set(out=3, many=MANY, last=4)
            before, found = one.values(), other.values()
            one.follow(other)
            assert one.values() == found | {name: before[name] for name in kept}
