"""A kernel that owns buffers: two CTAs share a tile, and the last to arrive sums their parts."""

from __future__ import annotations

from typing import Any

from tests.ptx import ptx

# out[t] = a[2 t] + a[2 t + 1] + (bias is NULL ? 0 : bias[t]), for tile t of tiles; grid (2, tiles).
# Each CTA leaves its part in the workspace; the counter of the tile says who is last.
TEXT = ptx(
    [
        ".param .u64 .ptr .global .align 4 a",
        ".param .u64 .ptr .global .align 4 out",
        ".param .u32 tiles",
        ".param .u64 .ptr .global .align 4 bias",
        ".param .u64 .ptr .global .align 16 workspace",
        ".param .u64 .ptr .global .align 4 counters",
        ".param .u64 .ptr .global .align 1 global_scratch",
        ".param .u64 .ptr .global .align 1 profile_scratch",
    ],
    """
    mov.u32 %r1, %tid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra DONE;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [out];
    ld.param.u64 %rd3, [bias];
    ld.param.u64 %rd4, [workspace];
    ld.param.u64 %rd5, [counters];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ctaid.y;
    mad.lo.u32 %r3, %r2, 2, %r1;
    mul.wide.u32 %rd6, %r3, 4;
    add.s64 %rd7, %rd1, %rd6;
    ld.global.u32 %r4, [%rd7];
    add.s64 %rd7, %rd4, %rd6;
    st.global.u32 [%rd7], %r4;
    membar.gl;
    mul.wide.u32 %rd6, %r2, 4;
    add.s64 %rd5, %rd5, %rd6;
    atom.global.add.u32 %r5, [%rd5], 1;
    setp.ne.u32 %p1, %r5, 1;
    @%p1 bra DONE;
    membar.gl;
    mul.wide.u32 %rd7, %r2, 8;
    add.s64 %rd7, %rd4, %rd7;
    ld.volatile.global.u32 %r4, [%rd7];
    ld.volatile.global.u32 %r5, [%rd7+4];
    add.u32 %r4, %r4, %r5;
    setp.eq.u64 %p2, %rd3, 0;
    @%p2 bra STORE;
    add.s64 %rd7, %rd3, %rd6;
    ld.global.u32 %r5, [%rd7];
    add.u32 %r4, %r4, %r5;
    STORE:
    add.s64 %rd7, %rd2, %rd6;
    st.global.u32 [%rd7], %r4;
    st.global.u32 [%rd5], 0;
    DONE:
    ret;
    """,
    tail=".reqntid 32",
)
SIDECAR: dict[str, Any] = {
    "name": "k",
    "num_warps": 1,
    "shared": 0,
    "global_scratch_size": 0,
    "profile_scratch_size": 0,
    "grid": ["2", "tiles", "1"],
    "constraints": ["tiles >= 1"],
    "params": [
        {"name": "a", "type": "*i32", "role": "input", "shape": ["2 * tiles"], "strides": ["1"]},
        {"name": "out", "type": "*i32", "role": "output", "shape": ["tiles"], "strides": ["1"]},
        {"name": "tiles", "type": "i32", "role": "size"},
        {"name": "bias", "type": "*i32", "role": "input", "shape": ["tiles"], "strides": ["1"],
         "align": 8, "nullable": True},
        {"name": "workspace", "type": "*i32", "role": "workspace", "nbytes": "8 * tiles"},
        {"name": "counters", "type": "*i32", "role": "counters", "nbytes": "4 * tiles"},
        {"name": "global_scratch", "type": "*i8", "role": "global_scratch"},
        {"name": "profile_scratch", "type": "*i8", "role": "profile_scratch"},
    ],
}  # fmt: skip
