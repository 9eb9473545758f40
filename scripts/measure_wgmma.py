"""Measure how many clocks products by wgmma take on Hopper, and dequantising beside them.

    python scripts/measure_wgmma.py

One SM runs 1 to 4 warpgroups.  Each multiplies 64 columns of weights in registers by N rows of
activations in shared memory, 16 k's a product, as w4a16_gptq_gemm_wgmma.py does: 16 products one
after the other, or four behind what it takes to dequantise their weights.  Prints the clocks of a
product, over all warpgroups; the tensor cores take N / 2.
"""

from __future__ import annotations

import numpy as np

import ferrum_numba as fe

ROWS = (64, 96, 128, 192)
WARPGROUP = 128  # threads
LOOPS = 64
SHARED_BYTES = 32768
_DESCRIPTOR = 0x4000004000000000  # 128-byte swizzle, rows of 64 k's; the address comes to it
_SETS = 8  # of registers that hold the weights of a product


def _dequantise() -> str:
    """Words of 64 k's, of two columns a lane, to the weights of four products."""
    loads = [
        f"ld.volatile.shared.v2.b32 {{%d{i}, %d{i + 1}}}, [%lane+{512 * i}];"
        for i in range(0, 16, 2)
    ]
    weights = [
        "{ .reg .b32 both, factor; mov.b32 factor, 0x2c003c00;"
        f" prmt.b32 both, %d{i}, 0, %byte; lop3.b32 both, both, 0x00f0000f, 0x64006400, 0xea;"
        f" fma.rn.f16x2 both, both, factor, %zero; mul.f16x2 %a{i}, both, %scale; }}"
        for i in range(16)
    ]
    return "\n".join([*loads, *weights])


def kernel_text(rows: int, groups: int, products: int, dequantising: bool) -> str:
    """PTX that writes the clocks of its loop for each thread."""
    sums = [f"%f{i}" for i in range(rows // 2)]
    multiply = [
        f"wgmma.mma_async.sync.aligned.m64n{rows}k16.f32.f16.f16 {{{', '.join(sums)}}}, "
        f"{{{', '.join(f'%a{4 * (i % _SETS) + j}' for j in range(4))}}}, %rows, 1, 1, 1, 0;"
        for i in range(products)
    ]
    cleared = [
        *(f"mov.f32 {name}, 0f00000000;" for name in sums),
        *(f"mov.b32 %a{i}, 0;" for i in range(4 * _SETS)),
    ]
    nl = "\n"
    return f""".version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 tile[];
.visible .entry k(.param .u64 clocks, .param .u32 loops)
.reqntid {WARPGROUP * groups}
{{
.reg .pred %p<2>; .reg .f32 %f<{rows // 2}>; .reg .b32 %a<{4 * _SETS}>; .reg .b32 %d<16>;
.reg .b32 %t, %n, %lane, %byte, %zero, %scale, %place; .reg .b64 %rows, %out, %at, %c<2>;
ld.param.u64 %out, [clocks]; ld.param.u32 %n, [loops];
mov.u32 %t, %tid.x; mov.u32 %place, tile;
and.b32 %lane, %t, 124; shl.b32 %lane, %lane, 1; add.u32 %lane, %lane, %place;
and.b32 %byte, %t, 3; mad.lo.u32 %byte, %byte, 257, 16448;
mov.b32 %zero, 0xd448e408; mov.b32 %scale, 0x3c003c00;
shr.u32 %place, %place, 4; cvt.u64.u32 %rows, %place; or.b64 %rows, %rows, {_DESCRIPTOR};
{nl.join(cleared)}
bar.sync 0;
mov.u64 %c0, %clock64;
LOOP:
{_dequantise() if dequantising else ""}
wgmma.fence.sync.aligned;
{nl.join(multiply)}
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
sub.u32 %n, %n, 1; setp.ne.u32 %p0, %n, 0; @%p0 bra LOOP;
mov.u64 %c1, %clock64; sub.u64 %c1, %c1, %c0;
setp.eq.f32 %p1, %f0, 0f7F800000; @%p1 add.u64 %c1, %c1, 1;
mul.wide.u32 %at, %t, 8; add.u64 %at, %at, %out; st.global.u64 [%at], %c1;
ret;
}}
"""


def clocks(device: fe.Device, rows: int, groups: int, dequantising: bool) -> float:
    """Clocks of a product.  groups: warpgroups."""
    products = 4 if dequantising else 16
    text = kernel_text(rows, groups, products, dequantising)
    kernel = device.load_module(text).get_kernel()
    taken = device.to_device(np.zeros(WARPGROUP * groups, np.uint64))
    config = fe.LaunchConfig(grid=1, block=WARPGROUP * groups, shared_bytes=SHARED_BYTES)
    for _ in range(2):  # the first one fetches its instructions
        kernel.launch(config, taken, LOOPS)
    device.synchronize()
    return float(device.to_host(taken).max()) / LOOPS / products / groups


def main() -> None:
    device = fe.open_device("cuda")
    print("rows  alone: 1, 2 warpgroups  dequantising: 2, 3, 4")
    for rows in ROWS:
        alone = [clocks(device, rows, groups, dequantising=False) for groups in (1, 2)]
        # Of four warpgroups a thread has 128 registers.
        several = (2, 3, 4) if rows <= 128 else (2, 3)
        beside = [clocks(device, rows, groups, dequantising=True) for groups in several]
        print(f"{rows:4}  {'  '.join(f'{x:5.1f}' for x in [*alone, *beside])}", flush=True)


if __name__ == "__main__":
    main()
