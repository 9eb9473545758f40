from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator import Job
from ferrum_numba.emulator.host import Host
from ferrum_numba.errors import LaunchError
from tests.campaigns.operands import words

from .harness import PLAIN, entry, run

HOSTS = pytest.mark.parametrize("host", [None, PLAIN], ids=["this", "plain"])
FORMS = [(bits, n) for bits in (8, 16, 32, 64) for n in (1, 2, 4) if bits * n <= 128]
LANES = np.arange(32)
PATTERNS = {
    "in a row": LANES,
    "the same": np.full(32, 5),
    "backwards": 31 - LANES,
    "rows of eight": (LANES // 8 ^ 2) * 8 + LANES % 8,
    "rows of four": (LANES // 4 ^ 5) * 4 + LANES % 4,
    "apart": LANES * 7 % 64,
}


def group(registers: list[str]) -> str:
    return registers[0] if len(registers) == 1 else "{" + ", ".join(registers) + "}"


def kernel(bits: int, n: int, space: str, guarded: bool) -> str:
    """Lane: out[to[lane]] = in[from[lane]] where the mask says so; elements of n times bits."""
    kind, size = {8: "h", 16: "h", 32: "t", 64: "q"}[bits], bits * n // 8
    registers = [f"%{kind}{10 + i}" for i in range(n)]
    form = f"v{n}.b{bits}" if n > 1 else f"b{bits}"
    zero = "\n".join(f"mov.b{max(bits, 16)} {r}, 7;" for r in registers)
    guard = "@%p1 " if guarded else ""
    index = "\n".join(f"add.s64 %q25, %q{i}, %q24; ld.global.u32 %t{i}, [%q25];" for i in (2, 3, 4))
    if space == "global":
        load = f"mad.wide.u32 %q20, %t2, {size}, %q0;\n{guard}ld.global.{form} {group(registers)}, [%q20+0];"  # noqa: E501
        store = f"mad.wide.u32 %q21, %t3, {size}, %q1;\n{guard}st.global.{form} [%q21], {group(registers)};"  # noqa: E501
    else:  # through shared memory, element by element, there and back
        steps = 64 * size // 32
        copy_in = "\n".join(
            f"mad.lo.u32 %t5, %t0, {steps}, {i}; cvt.u64.u32 %q20, %t5; add.s64 %q20, %q20, %q0;"
            f"ld.global.u8 %h1, [%q20]; st.shared.u8 [%t5], %h1; add.s64 %q20, %q20, %q1;"
            f"sub.s64 %q20, %q20, %q0; ld.global.u8 %h1, [%q20]; st.shared.u8 [%t5+4096], %h1;"
            for i in range(steps)
        )
        copy_out = "\n".join(
            f"mad.lo.u32 %t5, %t0, {steps}, {i}; cvt.u64.u32 %q20, %t5; add.s64 %q20, %q20, %q1;"
            f"ld.shared.u8 %h1, [%t5+4096]; st.global.u8 [%q20], %h1;"
            for i in range(steps)
        )
        load = f"{copy_in}\nbar.sync 0;\nmul.lo.u32 %t6, %t2, {size};\n{guard}ld.shared.{form} {group(registers)}, [%t6];"  # noqa: E501
        store = f"mul.lo.u32 %t7, %t3, {size};\n{guard}st.shared.{form} [%t7+4096], {group(registers)};\nbar.sync 0;\n{copy_out}"  # noqa: E501
    return entry(
        5,
        f"""mul.wide.u32 %q24, %t0, 4;
{index}
setp.ne.u32 %p1, %t4, 0;
{zero}
{load}
{store}""",
    )


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(
    ("bits", "n", "host"),
    [(*form, None) for form in FORMS] + [(16, 1, PLAIN), (32, 2, PLAIN), (64, 2, PLAIN)],
)
def test_loads_and_stores(bits: int, n: int, space: str, host: Host | None) -> None:
    item = np.dtype((np.void, bits * n // 8))
    source = words(8, 64 * item.itemsize).view(item)
    for guarded in (False, True):
        text = kernel(bits, n, space, guarded)
        for pattern in PATTERNS.values():
            for mask in ([1] * 32, [0] * 32, [1, 0, 0, 1] * 8, [0] * 31 + [1]):
                out = np.zeros(64 * item.itemsize, np.uint8).view(item)
                reads, writes = pattern.astype(np.uint32), LANES.astype(np.uint32)
                if pattern is not PATTERNS["the same"]:
                    reads, writes = writes, reads
                masks = np.array(mask, np.uint32)
                run(text, source, out, reads, writes, masks, shared_bytes=8192, host=host)
                expected = np.zeros_like(out)
                active = masks.astype(bool) if guarded else np.ones(32, bool)
                expected[writes[active]] = source[reads[active]]
                assert out.tobytes() == expected.tobytes()
                # And the other way round: gathered loads.
                out[:] = np.zeros_like(out)
                run(text, source, out, writes, reads, masks, shared_bytes=8192, host=host)
                expected = np.zeros_like(out)
                for lane in np.flatnonzero(active):
                    expected[reads[lane]] = source[writes[lane]]
                assert out.tobytes() == expected.tobytes()


def test_a_guarded_load_keeps_the_register() -> None:
    body = """setp.lt.u32 %p1, %t0, 9; mul.wide.u32 %q20, %t0, 4; add.s64 %q21, %q0, %q20;
    add.u32 %t5, %t0, 100; mov.u64 %q22, 16; selp.b64 %q21, %q21, %q22, %p1;
    @%p1 ld.global.b32 %t5, [%q21]; add.s64 %q21, %q1, %q20; st.global.b32 [%q21], %t5;"""
    x, out = words(32, 32), np.zeros(32, np.uint32)
    run(entry(2, body), x, out)
    assert out.tolist() == x[:9].tolist() + list(range(109, 132))


def test_sign_extension_and_generic_addresses() -> None:
    body = """.reg .b64 %g; mov.u32 %t3, tile; add.u32 %t3, %t3, %t0; ld.global.s8 %t4, [%q0];
    st.shared.u8 [%t3], %t4; cvt.u64.u32 %g, %t3; cvta.shared.u64 %g, %g; ld.s8 %t5, [%g];
    cvta.to.shared.u64 %g, %g; ld.shared.s8 %h3, [%g]; cvt.s32.s16 %t6, %h3;
    sub.s32 %t6, %t6, %t5; add.s32 %t5, %t5, %t6;
    mul.wide.u32 %q20, %t0, 4; add.s64 %q20, %q20, %q1; st.global.b32 [%q20], %t5;"""
    out = np.zeros(32, np.int32)
    run(entry(2, body), np.array([-5], np.int8), out, shared_bytes=64)
    assert out.tolist() == [-5] * 32


def test_static_shared_memory_comes_before_dynamic() -> None:
    body = """.shared .align 8 .b8 fixed[48]; mov.u32 %t3, fixed; mov.u32 %t4, tile;
    st.shared.b32 [fixed+4], %t0; ld.shared.b32 %t5, [%t3+4]; sub.u32 %t6, %t4, %t3;
    st.global.b32 [%q0], %t5; st.global.b32 [%q0+4], %t6;"""
    out = np.zeros(2, np.uint32)
    run(entry(1, body), out, shared_bytes=16)
    assert out[0] == 31
    assert out[1] >= 48


@pytest.mark.parametrize("size", [4, 8, 16])
@HOSTS
def test_cp_async(size: int, host: Host | None) -> None:
    cache = "cg" if size == 16 else "ca"
    body = f"""mul.lo.u32 %t1, %t0, {size}; cvt.u64.u32 %q20, %t1; add.s64 %q21, %q0, %q20;
    mul.wide.u32 %q22, %t0, 4; add.s64 %q22, %q22, %q2; ld.global.u32 %t2, [%q22];
    setp.ne.u32 %p1, %t0, 3;
    mov.b32 %t4, -1; st.shared.v4.b32 [tile+48], {{%t4, %t4, %t4, %t4}};
    @%p1 cp.async.{cache}.shared.global [%t1], [%q21], {size}, %t2;
    cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
    add.s64 %q23, %q1, %q20;""" + "".join(
        f"ld.shared.b32 %t5, [%t1+{i}]; st.global.b32 [%q23+{i}], %t5;" for i in range(0, size, 4)
    )
    x = words(8, 32 * size)
    for sizes in ([size] * 32, [0, size] * 16, list(range(size)) * 8):
        out = np.zeros(32 * size, np.uint8)
        run(entry(3, body), x, out, np.array(sizes, np.uint32), shared_bytes=1024, host=host)
        rows = x.reshape(32, size).copy()
        for lane, row in enumerate(rows):
            row[sizes[lane] :] = 0
        found = out.reshape(32, size)
        others = [i for i in range(32) if i != 3 and not (size == 4 and 12 <= i < 16)]
        assert (found[others] == rows[others]).all()
        if size == 16:
            assert (found[3] == 255).all()


def test_parameters_of_all_sizes() -> None:
    from .harness import HEADER, compiled

    text = f"""{HEADER}
.visible .entry k(.param .u64 .ptr .global .align 4 p0, .param .u32 n, .param .f32 x,
    .param .u16 h, .param .align 8 .b8 block[16])
{{ .reg .b64 %q<4>; .reg .b32 %t<9>; .reg .b16 %h<3>;
ld.param.u64 %q0, [p0]; ld.param.u32 %t0, [n]; ld.param.f32 %t1, [x]; ld.param.u16 %h0, [h];
ld.param.v2.b32 {{%t2, %t3}}, [block+8]; cvt.u32.u16 %t4, %h0;
st.global.v4.b32 [%q0], {{%t0, %t1, %t2, %t3}}; st.global.b32 [%q0+16], %t4; ret; }}"""
    program = compiled(text)
    out = np.zeros(5, np.uint32)
    block = bytearray(program.signature.nbytes)
    values = [np.uint64(out.ctypes.data), np.uint32(7), np.float32(1.5), np.uint16(65535)]
    for parameter, value in zip(program.signature.params, values, strict=False):
        block[parameter.offset : parameter.offset + parameter.size] = value.tobytes()
    last = program.signature.params[-1]
    block[last.offset : last.offset + 16] = bytes(range(16))
    one = (1, 1, 1)
    program.run(Job(grid=one, block=one, shared_bytes=0, parameter_block=bytes(block)))
    assert out.tolist() == [7, 0x3FC00000, 0x0B0A0908, 0x0F0E0D0C, 65535]


@pytest.mark.parametrize("threads", [1, 2])
def test_stores_behind_shared_memory_hit_nothing_else(threads: int) -> None:
    """Without checks too, a launch that asks for too little shared memory is an error."""
    body = "mul.lo.u32 %t1, %t0, 4096; mov.u32 %t2, tile; add.u32 %t2, %t2, %t1;"
    text = entry(1, body + "st.shared.b32 [%t2], 7; ld.shared.b32 %t3, [%t2]; st.b32 [%q0], %t3;")
    out = np.zeros(1, np.int32)
    run(text, out, shared_bytes=31 * 4096 + 4, grid=4, threads=threads)
    assert out[0] == 7
    with pytest.raises(LaunchError, match=r"shared_bytes: the kernel stores 3968 to 126848 bytes"):
        run(text, out, shared_bytes=128, grid=4, threads=threads)
    with pytest.raises(LaunchError, match=r"stores 0 to 0 bytes behind the 126979 bytes"):
        run(text.replace(", 7;", ", -1;"), out, shared_bytes=31 * 4096 + 3, grid=4, threads=threads)
