"""Measure what accesses to shared memory cost on a GPU, and hold it against the trace's figures.

    python scripts/measure_banks.py [--out tests/emulator/trace/data/banks_h200.npz]

One SM runs 32 warps that do nothing but one access over and over: cycles / accesses is the number
of passes.  Each pattern of addresses (rows, strides, broadcasts, permutations, random places) is
measured for loads and stores of 2 to 16 bytes, with several sets of lanes, and for ldmatrix and
stmatrix.  Prints how many patterns take another number of passes than `Access.cost` says.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ferrum_numba as fe
from ferrum_numba.emulator.trace import Access

LANE = np.arange(32)
LOOPS, UNROLL, WARPS = 32, 16, 32
STEP = 1024  # bytes from one access of the loop to the next: the same banks
SHARED_BYTES = 8192 + UNROLL * STEP
MASKS = (0xFFFFFFFF, 0xFFFF, 0xFFFF0000, 0xFF00FF, 0x55555555, 0x33333333, 0x11111111, 0xFF)
FORMS = {  # name: (kind, bytes of a lane, instruction)
    "ld.b16": ("load", 2, "ld.volatile.shared.b16 %h1, [{}];"),
    "ld.b32": ("load", 4, "ld.volatile.shared.b32 %r10, [{}];"),
    "ld.v2.b32": ("load", 8, "ld.volatile.shared.v2.b32 {{%r10, %r11}}, [{}];"),
    "ld.v4.b32": ("load", 16, "ld.volatile.shared.v4.b32 {{%r10, %r11, %r12, %r13}}, [{}];"),
    "st.b16": ("store", 2, "st.volatile.shared.b16 [{}], %h2;"),
    "st.b32": ("store", 4, "st.volatile.shared.b32 [{}], %r2;"),
    "st.v2.b32": ("store", 8, "st.volatile.shared.v2.b32 [{}], {{%r2, %r2}};"),
    "st.v4.b32": ("store", 16, "st.volatile.shared.v4.b32 [{}], {{%r2, %r2, %r2, %r2}};"),
    "ldmatrix.x4": (
        "ldmatrix",
        16,
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [{}];"
        " xor.b32 %r2, %r2, %r10; xor.b32 %r2, %r2, %r11; xor.b32 %r2, %r2, %r12;"
        " xor.b32 %r2, %r2, %r13;",
    ),
    "stmatrix.x4": (
        "stmatrix",
        16,
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [{}], {{%r2, %r2, %r2, %r2}};",
    ),
}


def kernel_text(instruction: str, guarded: bool) -> str:
    """PTX that writes the cycles of its loop for each thread."""
    guard = "@%p0 " if guarded else ""
    body = "\n".join(guard + instruction.format(f"%r1+{STEP * i}") for i in range(UNROLL))
    return f""".version 8.0
.target sm_90
.address_size 64
.extern .shared .align 128 .b8 tile[];
.visible .entry k(.param .u64 offsets, .param .u64 cycles, .param .u32 mask, .param .u32 zero)
.reqntid {32 * WARPS}
{{
.reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<20>; .reg .b64 %d<20>;
ld.param.u64 %d1, [offsets]; ld.param.u64 %d2, [cycles];
ld.param.u32 %r6, [mask]; ld.param.u32 %r7, [zero];
mov.u32 %r0, %tid.x; and.b32 %r3, %r0, 31;
mul.wide.u32 %d3, %r3, 4; add.u64 %d3, %d3, %d1; ld.global.u32 %r1, [%d3];
mov.u32 %r4, tile; add.u32 %r1, %r1, %r4; mov.u32 %r2, 0; mov.b16 %h2, 0;
shr.u32 %r5, %r6, %r3; and.b32 %r5, %r5, 1; setp.ne.u32 %p0, %r5, 0;
mov.u32 %r5, 0;
bar.sync 0;
mov.u64 %d4, %clock64;
LOOP:
{body}
add.u32 %r1, %r1, %r7;
add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, {LOOPS}; @%p1 bra LOOP;
bar.sync 0;
mov.u64 %d5, %clock64; sub.u64 %d6, %d5, %d4;
setp.eq.u32 %p2, %r2, 12345; @%p2 add.u64 %d6, %d6, 1;
mul.wide.u32 %d7, %r0, 8; add.u64 %d7, %d7, %d2; st.global.u64 [%d7], %d6;
ret;
}}
"""


def patterns(nbytes: int) -> Iterator[np.ndarray]:
    """Offsets of the 32 lanes, below 8192."""
    random = np.random.default_rng(1)
    yield from (LANE * nbytes, LANE * 0)
    yield from (LANE * 4 * words for words in (2, 4, 8, 16, 32, 33, 36))
    sharing = (1, 2, 4, 8, 16, 3, 5, 6, 7, 9, 12, 15, 17, 18, 20, 24, 28, 30)
    yield from ((LANE & ~lanes) * nbytes for lanes in sharing)
    yield LANE % 8 * 128 + (LANE // 8 ^ LANE % 8) * 16
    yield LANE % 8 * 64 + LANE // 8 * 16
    yield (LANE // 2 + 16 * (LANE % 2)) * nbytes
    yield (LANE // 4 + 8 * (LANE % 4)) * nbytes
    for i in range(12):
        yield random.integers(0, 8192 // nbytes, 32) * nbytes
        yield random.integers(0, 512, 32)[LANE & ~(1 << i % 5)] * nbytes
    for _ in range(8):
        yield random.permutation(32) * nbytes
        yield random.integers(0, 6, 32) * nbytes * 16
        yield random.integers(0, 40, 32) * nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="an .npz file for what was measured")
    out = parser.parse_args().out
    device = fe.open_device("cuda")
    cycles = device.to_device(np.zeros(32 * WARPS, np.uint64))
    config = fe.LaunchConfig(grid=1, block=32 * WARPS, shared_bytes=SHARED_BYTES)
    random = np.random.default_rng(2)
    rows = []
    for name, (kind, nbytes, instruction) in FORMS.items():
        guarded = "matrix" not in kind
        kernel = device.load_module(kernel_text(instruction, guarded)).get_kernel()
        wrong = count = 0
        for offsets in patterns(nbytes):
            places = (offsets // nbytes * nbytes).astype(np.uint64)
            on_device = device.to_device(places.astype(np.uint32))
            others = (int(random.integers(1, 1 << 32)), 0x80000001)
            for mask in (*MASKS, *others) if guarded else MASKS[:1]:
                for _ in range(2):  # the first one also fetches the code
                    kernel.launch(config, on_device, cycles, mask, 0)
                accesses = LOOPS * UNROLL * WARPS
                passes = float(device.to_host(cycles).max()) / accesses
                cost = Access("shared", kind, nbytes, mask, places, places).cost
                wrong += round(passes) != cost
                count += 1
                rows.append((kind, nbytes, places, mask, round(passes)))
        print(f"{name}: {wrong} of {count} patterns take other than the trace's passes")
    if out is not None:
        save(out, rows)


def save(path: Path, rows: list[tuple[str, int, np.ndarray, int, int]]) -> None:
    """Columns; each pattern of offsets once."""
    kinds, nbytes, places, masks, passes = zip(*rows, strict=True)
    offsets, pattern = np.unique(np.array(places).astype(np.uint16), axis=0, return_inverse=True)
    np.savez_compressed(
        path,
        kind=np.array(kinds),
        nbytes=np.array(nbytes, np.uint8),
        offsets=offsets,
        pattern=pattern.reshape(-1).astype(np.uint16),
        mask=np.array(masks, np.uint32),
        passes=np.array(passes, np.uint8),
    )


if __name__ == "__main__":
    main()
