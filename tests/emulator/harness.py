"""Small PTX kernels around one or more instructions, for comparison with NumPy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ferrum_numba.emulator import Job, Program
from ferrum_numba.emulator.host import Host

_NEWEST = "sm_120a"
HEADER = f""".version 8.0
.target {_NEWEST}
.address_size 64
.extern .shared .align 16 .b8 tile[];
"""
# What any SSE2 machine has: no F16C, no FMA, no gathers.
THIS = Host.this()
PLAIN = Host.of("x86-64", {}, THIS.triple) if THIS.triple.startswith("x86_64") else THIS


def entry(parameters: int, body: str, head: str = "", target: str = _NEWEST) -> str:
    """An entry `k` with pointers p0, p1, … that are in %q0, %q1, …; %t0 is %tid.x."""
    declared = ",\n".join(f".param .u64 p{i}" for i in range(parameters))
    loads = "\n".join(f"ld.param.u64 %q{i}, [p{i}];" for i in range(parameters))
    return f"""{HEADER.replace(_NEWEST, target)}{head}
.visible .entry k({declared})
{{
.reg .pred %p<16>;
.reg .b16 %h<32>;
.reg .b32 %t<64>;
.reg .b64 %q<32>;
{loads}
mov.u32 %t0, %tid.x;
{body}
ret;
}}
"""


@lru_cache(maxsize=256)
def compiled(text: str, host: Host | None = None) -> Program:
    return Program.compile(text, "k", host)


def run(
    text: str,
    *arrays: np.ndarray,
    grid: int = 1,
    block: int | tuple[int, int, int] = 32,
    shared_bytes: int = 0,
    host: Host | None = None,
    threads: int = 1,
) -> None:
    """Run the entry `k` on arrays, which it takes as its parameters in order."""
    size = (block, 1, 1) if isinstance(block, int) else block
    job = Job(
        grid=(grid, 1, 1),
        block=size,
        shared_bytes=shared_bytes,
        parameter_block=np.array([a.ctypes.data for a in arrays], np.uint64).tobytes(),
        threads=threads,
    )
    compiled(text, host).run(job)


def elementwise(
    instructions: str,
    *inputs: np.ndarray,
    result: type | str,
    view: type | None = None,
    host: Host | None = None,
) -> np.ndarray:
    """Apply instructions to %a, %b, %c, %d (the elements of the inputs); they leave it in %r.

    Runs them twice, with a lane for each element and with a warp for each, where all registers
    are the same in all lanes; both must agree.  view: the type of several results in one register.
    """
    n = len(inputs[0])
    results = []
    for lanes in (32, 1):
        padded = [np.append(x, np.repeat(x[-1:], -n % lanes)) for x in inputs]
        out = np.zeros(len(padded[0]), result)
        text = _elementwise(instructions, tuple(x.itemsize for x in inputs), out.itemsize, lanes)
        run(text, *padded, out, grid=len(out) // lanes, host=host)
        results.append(out[:n].view(view or out.dtype))
    assert_same(*results)
    return results[0]


@lru_cache(maxsize=512)
def _elementwise(instructions: str, sizes: tuple[int, ...], result: int, lanes: int) -> str:
    lines = [
        "mov.u32 %t1, %ctaid.x;",
        "mad.lo.s32 %t1, %t1, 32, %t0;" if lanes == 32 else "",
        f".reg .b{8 * max(result, 2)} %r;",
    ]
    for i, (name, size) in enumerate(zip("abcd", sizes, strict=False)):
        lines += [
            f".reg .b{8 * max(size, 2)} %{name};",
            f"mul.wide.u32 %q20, %t1, {size};",
            f"add.s64 %q20, %q20, %q{i};",
            f"ld.global.b{8 * size} %{name}, [%q20];",
        ]
    lines += [
        instructions,
        f"mul.wide.u32 %q20, %t1, {result};",
        f"add.s64 %q20, %q20, %q{len(sizes)};",
        f"st.global.b{8 * result} [%q20], %r;",
    ]
    return entry(len(sizes) + 1, "\n".join(lines))


def assert_same(found: np.ndarray, expected: np.ndarray, *context: np.ndarray) -> None:
    """Bit for bit, where any NaN equals any other."""
    assert found.dtype == expected.dtype
    kind = f"u{found.itemsize}"
    same = found.view(kind) == expected.view(kind)
    if found.dtype.kind == "f":
        same |= np.isnan(found) & np.isnan(expected)
    wrong = np.flatnonzero(~same)[:8]
    inputs = [c[wrong] for c in context]
    assert same.all(), f"found {found[wrong]}, expected {expected[wrong]} for {inputs}"
