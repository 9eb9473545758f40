"""Small PTX texts to test with."""

from __future__ import annotations

from collections.abc import Sequence


def ptx(
    params: Sequence[str],
    body: str = "ret;",
    *,
    entry: str = "k",
    tail: str = ".reqntid 128",
    target: str = "sm_80",
    version: str = "7.0",
    shared: bool = False,
) -> str:
    """A complete PTX text with one entry of these parameter declarations.

    shared: declare dynamic shared memory as `global_smem`, as Triton does.
    """
    declaration = ".extern .shared .align 16 .b8 global_smem[];\n" if shared else ""
    return (
        f".version {version}\n.target {target}\n.address_size 64\n\n{declaration}"
        f".visible .entry {entry}(\n\t" + ",\n\t".join(params) + f"\n)\n{tail}\n"
        "{\n\t.reg .pred %p<9>;\n\t.reg .b32 %r<9>;\n\t.reg .b64 %rd<9>;\n\t"
        + "\n\t".join(line.strip() for line in body.strip().splitlines())
        + "\n}\n"
    )


# out[cta] = the scratch address that the CTA is given.
SCRATCH = ptx(
    [".param .u64 out", ".param .u64 global_scratch", ".param .u64 profile_scratch"],
    """
    mov.u32 %r1, %tid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra DONE;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [global_scratch];
    mov.u32 %r2, %ctaid.x;
    mul.wide.u32 %rd3, %r2, 8;
    add.s64 %rd4, %rd1, %rd3;
    st.global.u64 [%rd4], %rd2;
    mul.wide.u32 %rd5, %r2, 64;
    add.s64 %rd6, %rd2, %rd5;
    st.global.u64 [%rd6+56], %rd5;
    DONE:
    ret;
    """,
    tail=".reqntid 32",
)

# Lane i stores i + n at byte n + 4 i of shared memory, and reads it back into out[i].
SHARED = ptx(
    [".param .u64 out", ".param .u32 n"],
    """
    mov.u32 %r1, %tid.x;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r2, [n];
    add.u32 %r3, %r1, %r2;
    shl.b32 %r4, %r1, 2;
    mov.u32 %r5, global_smem;
    add.u32 %r5, %r5, %r2;
    add.u32 %r5, %r5, %r4;
    st.shared.u32 [%r5], %r3;
    bar.sync 0;
    ld.shared.u32 %r6, [%r5];
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r6;
    ret;
    """,
    tail=".reqntid 32",
    shared=True,
)

# out[i] = i, as far as i < n.
IOTA = ptx(
    [".param .u64 .ptr .global .align 4 out", ".param .u32 n"],
    """
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mad.lo.u32 %r5, %r3, %r4, %r2;
    setp.lt.u32 %p1, %r5, %r1;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    @%p1 st.global.u32 [%rd3], %r5;
    ret;
    """,
    tail=".maxntid 128, 1, 1",
)

# Wait for ns nanoseconds, then out[i] = value for i < n.
DELAY = ptx(
    [".param .u64 out", ".param .u64 ns", ".param .u32 value", ".param .u32 n"],
    """
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [ns];
    ld.param.u32 %r1, [value];
    ld.param.u32 %r2, [n];
    mov.u64 %rd3, %globaltimer;
    add.u64 %rd3, %rd3, %rd2;
    AGAIN:
    mov.u64 %rd4, %globaltimer;
    setp.lt.u64 %p1, %rd4, %rd3;
    @%p1 bra AGAIN;
    mov.u32 %r3, %tid.x;
    setp.lt.u32 %p2, %r3, %r2;
    mul.wide.u32 %rd5, %r3, 4;
    add.s64 %rd6, %rd1, %rd5;
    @%p2 st.global.u32 [%rd6], %r1;
    ret;
    """,
    tail=".maxntid 128, 1, 1",
)
