from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ferrum_numba.emulator.host import Host
from tests.campaigns.operands import words

from .harness import PLAIN, assert_same, entry, run

HOSTS = pytest.mark.parametrize("host", [None, PLAIN], ids=["this", "plain"])
G, T = np.arange(32) // 4, np.arange(32) % 4


def copy_to_shared(nbytes: int) -> str:
    """All of array 0 to shared memory; each lane's address, array 1, in %t1; %q2 is for results."""
    steps = "\n".join(
        f"ld.global.b32 %t9, [%q20+{i}]; st.shared.b32 [%t8+{i}], %t9;"
        for i in range(0, nbytes // 32, 4)
    )
    return f"""mul.lo.u32 %t8, %t0, {nbytes // 32}; cvt.u64.u32 %q20, %t8;
    add.s64 %q20, %q20, %q0; {steps} mul.wide.u32 %q21, %t0, 4; add.s64 %q22, %q21, %q1;
    ld.global.b32 %t1, [%q22]; add.s64 %q23, %q21, %q2; bar.sync 0;"""


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", [False, True])
def test_ldmatrix(count: int, trans: bool) -> None:
    registers = [f"%t{10 + i}" for i in range(count)]
    stores = "".join(f"st.global.b32 [%q23+{128 * i}], {r};" for i, r in enumerate(registers))
    form = f"x{count}{'.trans' if trans else ''}"
    body = f"""{copy_to_shared(1024)}
    ldmatrix.sync.aligned.m8n8.{form}.shared.b16 {{{", ".join(registers)}}}, [%t1];{stores}"""
    data, out = words(16, 512), np.zeros((count, 32, 2), np.uint16)
    rows = np.random.default_rng(0).permutation(64)[:32].astype(np.uint32)
    run(entry(3, body), data, rows * 16, out, shared_bytes=1024)
    matrices = data.reshape(64, 8)[rows].reshape(4, 8, 8)[:count]
    if trans:
        matrices = matrices.transpose(0, 2, 1)
    expected = np.stack([matrices[:, G, 2 * T], matrices[:, G, 2 * T + 1]], axis=-1)
    assert_same(out, np.ascontiguousarray(expected))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", [False, True])
def test_stmatrix_is_the_inverse(count: int, trans: bool) -> None:
    registers = ", ".join(f"%t{10 + i}" for i in range(count))
    form = f"x{count}{'.trans' if trans else ''}"
    body = f"""{copy_to_shared(1024)}
    ldmatrix.sync.aligned.m8n8.{form}.shared.b16 {{{registers}}}, [%t1];
    add.u32 %t2, %t1, 1024;
    stmatrix.sync.aligned.m8n8.{form}.shared.b16 [%t2], {{{registers}}}; bar.sync 0;
    mul.lo.u32 %t3, %t0, 32; cvt.u64.u32 %q24, %t3; add.s64 %q24, %q24, %q2;""" + "".join(
        f"ld.shared.b32 %t4, [%t3+{1024 + 4 * i}]; st.global.b32 [%q24+{4 * i}], %t4;"
        for i in range(8)
    )
    data, out = words(16, 512), np.zeros((64, 8), np.uint16)
    rows = np.random.default_rng(0).permutation(64)[:32].astype(np.uint32)
    run(entry(3, body), data, rows * 16, out, shared_bytes=4096)
    written = rows[: 8 * count]
    assert (out[written] == data.reshape(64, 8)[written]).all()


def fragments(matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A matrix (rows of 8, columns of 8) as registers: [register][lane][half], rows first."""
    parts = []
    for j in range(columns // 8):
        for i in range(rows // 8):
            parts.append(np.stack([matrix[8 * i + G, 8 * j + 2 * T + h] for h in (0, 1)], axis=-1))
    return np.stack(parts)


CASES = [
    ("m16n8k16", "f32", "f16", np.float16),
    ("m16n8k8", "f32", "f16", np.float16),
    ("m16n8k16", "f32", "bf16", ml_dtypes.bfloat16),
    ("m16n8k16", "f16", "f16", np.float16),
]


def mma_kernel(shape: str, to: str, kind: str, products: int) -> str:
    k = int(shape[6:])
    na, nb, nc = k // 4, k // 8, 4 if to == "f32" else 2
    lines = ["mul.wide.u32 %q20, %t0, 4;"]
    lines += [f"add.s64 %q{21 + i}, %q20, %q{i};" for i in range(3)]
    a = [f"%t{10 + i}" for i in range(na)]
    lines += [f"ld.global.b32 {r}, [%q21+{128 * i}];" for i, r in enumerate(a)]
    for p in range(products):
        b = [f"%t{20 + 2 * p + i}" for i in range(nb)]
        c = [f"%t{30 + 4 * p + i}" for i in range(nc)]
        lines += [f"ld.global.b32 {r}, [%q22+{128 * (p * nb + i)}];" for i, r in enumerate(b)]
        lines += [f"ld.global.b32 {r}, [%q23+{128 * (p * nc + i)}];" for i, r in enumerate(c)]
    for p in range(products):
        b = [f"%t{20 + 2 * p + i}" for i in range(nb)]
        c = ", ".join(f"%t{30 + 4 * p + i}" for i in range(nc))
        lines.append(
            f"mma.sync.aligned.{shape}.row.col.{to}.{kind}.{kind}.{to} {{{c}}},"
            f" {{{', '.join(a)}}}, {{{', '.join(b)}}}, {{{c}}};"
        )
    for p in range(products):
        lines += [
            f"st.global.b32 [%q23+{128 * (p * nc + i)}], %t{30 + 4 * p + i};" for i in range(nc)
        ]
    return entry(3, "\n".join(lines))


@pytest.mark.parametrize(("shape", "to", "kind", "dtype"), CASES)
@pytest.mark.parametrize("products", [1, 2, 3])
@HOSTS
def test_mma(shape: str, to: str, kind: str, dtype: type, products: int, host: Host | None) -> None:
    k, random = int(shape[6:]), np.random.default_rng(0)
    a = random.standard_normal((16, k)).astype(dtype)
    b = random.standard_normal((products, k, 8)).astype(dtype)
    c = random.standard_normal((products, 16, 8)).astype(np.float32)
    for zero_rows in (0, 16):
        a[:zero_rows] = 0
        a[:zero_rows:2] *= -1
        inputs_b = np.concatenate([fragments(m.T, 8, k) for m in b])
        if to == "f32":
            state = np.concatenate(
                [np.moveaxis(fragments(m, 16, 8), 2, 1).reshape(4, 32) for m in c]
            )
        else:
            state = np.concatenate([fragments(m, 16, 8).astype(np.float16) for m in c])
        run(mma_kernel(shape, to, kind, products), fragments(a, 16, k), inputs_b, state, host=host)
        exact = a.astype(np.float64) @ b.astype(np.float64) + c
        for p in range(products):
            found = state.reshape(products, -1)[p]
            expected = fragments(exact[p], 16, 8)
            if to == "f32":
                found = np.moveaxis(found.reshape(2, 2, 32), 1, 2)
            tolerance = 1e-5 if to == "f32" else 4e-3
            np.testing.assert_allclose(
                found.reshape(expected.shape), expected, tolerance, tolerance
            )


@HOSTS
def test_columns_that_are_alike(host: Host | None) -> None:
    """A single row of activations stands in all columns: their sums are those of any columns."""
    random, text = np.random.default_rng(0), mma_kernel("m16n8k16", "f32", "f16", 1)
    a = fragments(random.standard_normal((16, 16)).astype(np.float16), 16, 16)
    b = np.repeat(random.standard_normal((16, 1)), 8, 1).astype(np.float16)
    c = np.repeat(random.standard_normal((16, 1)), 8, 1).astype(np.float32)

    def product(b: np.ndarray, c: np.ndarray) -> np.ndarray:
        state = registers_of(c)
        run(text, a, fragments(b.T, 8, 16), state, host=host)
        return matrix_of(state)

    alike = product(b, c)
    b[:, 7] += 1
    assert (alike == product(b, c)[:, :1]).all()
    b[:, 7], c[:, 3] = b[:, 0], c[:, 3] + 1
    found = product(b, c)
    assert (found[:, [0, 1, 2, 4, 5, 6, 7]] == alike[:, :7]).all()
    assert (found[:, 3] > alike[:, 3]).all()


@HOSTS
def test_sums_that_go_from_product_to_product(host: Host | None) -> None:
    """Over barriers and a loop; to other registers, and to those that the product before reads."""
    p, q = "{%t30, %t31, %t32, %t33}", "{%t34, %t35, %t36, %t37}"
    r, s = "{%t38, %t39, %t40, %t41}", "{%t42, %t43, %t44, %t45}"

    def product(d: str, b: int, c: str) -> str:
        a = "{%t10, %t11, %t12, %t13}"
        form = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
        return f"{form} {d}, {a}, {{%t{20 + 2 * b}, %t{21 + 2 * b}}}, {c};"

    lines = ["mul.wide.u32 %q20, %t0, 4; mov.u32 %t2, 0;"]
    lines += [f"add.s64 %q{21 + i}, %q20, %q{i};" for i in range(3)]
    lines += [f"ld.global.b32 %t{10 + i}, [%q21+{128 * i}];" for i in range(4)]
    lines += [f"ld.global.b32 %t{20 + i}, [%q22+{128 * i}];" for i in range(4)]
    lines += [f"ld.global.b32 %t{30 + i}, [%q23+{128 * i}];" for i in range(8)]
    lines += ["AGAIN:", product(p, 0, p), product(q, 1, q), "bar.sync 0;"]
    lines += [product(r, 0, p), product(p, 1, q)]  # p is read by the one before
    lines += ["add.f32 %t30, %t30, %t30; mov.b32 %t34, %t39;", product(s, 1, p)]
    lines += ["bar.sync 0;", product(p, 0, s), "add.u32 %t2, %t2, 1; setp.lt.u32 %p1, %t2, 2;"]
    lines += ["@%p1 bra AGAIN;"]
    lines += [f"st.global.b32 [%q23+{128 * i}], %t{30 + i};" for i in range(16)]
    random = np.random.default_rng(0)
    a, b = random.integers(-2, 3, (16, 16)), random.integers(-2, 3, (2, 16, 8))
    sums = random.integers(-2, 3, (2, 16, 8))
    inputs_b = np.concatenate([fragments(m.T.astype(np.float16), 8, 16) for m in b])
    state = np.zeros((16, 32), np.float32)
    state[:8] = np.concatenate([registers_of(m) for m in sums])
    run(
        entry(3, "\n".join(lines)),
        fragments(a.astype(np.float16), 16, 16),
        inputs_b,
        state,
        host=host,
    )

    first, second = (a @ m for m in b)
    p_, q_ = sums
    for _ in range(2):
        p_, q_ = p_ + first, q_ + second
        r_, p_ = p_ + first, q_ + second
        parts, others = registers_of(p_), registers_of(r_)
        parts[0] *= 2
        p_ = matrix_of(parts)
        q_ = matrix_of(np.concatenate([others[1:2], registers_of(q_)[1:]]))
        s_ = p_ + second
        p_ = s_ + first
    expected = np.concatenate([registers_of(m) for m in (p_, q_, r_, s_)])
    assert (state == expected).all()


def registers_of(c: np.ndarray) -> np.ndarray:
    """The four registers of C: [register][lane]."""
    return np.stack([c[G + 8 * i, 2 * T + h] for i in (0, 1) for h in (0, 1)])


def matrix_of(registers: np.ndarray) -> np.ndarray:
    """The inverse of `registers_of`."""
    c = np.zeros((16, 8), registers.dtype)
    for n, its in enumerate(registers):
        c[G + 8 * (n // 2), 2 * T + n % 2] = its
    return c


@pytest.mark.parametrize("special", [np.inf, np.nan, 65504])
def test_zero_rows_times_infinity(special: float) -> None:
    a = np.zeros((16, 16), np.float16)
    b = np.full((16, 8), special, np.float16)
    state = np.full((4, 32), -0.0, np.float32)
    run(mma_kernel("m16n8k16", "f32", "f16", 1), fragments(a, 16, 16), fragments(b.T, 8, 16), state)
    if np.isfinite(special):
        assert (state == 0).all()
        assert not np.signbit(state).any()
    else:
        assert np.isnan(state).all()


@pytest.mark.parametrize(("kind_a", "kind_b"), [("e4m3", "e5m2"), ("e5m2", "e4m3"), ("s8", "u8")])
def test_mma_of_two_types(kind_a: str, kind_b: str) -> None:
    """Small whole numbers, whose sums are exact."""
    types = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
    types |= {"s8": np.int8, "u8": np.uint8}
    random = np.random.default_rng(0)
    a = random.integers(-4 if kind_a != "u8" else 0, 5, (16, 32)).astype(types[kind_a])
    b = random.integers(-4 if kind_b != "u8" else 0, 5, (32, 8)).astype(types[kind_b])
    if kind_b == "u8":
        b[3] = 255
    to = "s32" if kind_a == "s8" else "f32"
    state = np.zeros((4, 32), np.int32 if to == "s32" else np.float32)
    # Four bytes to a register, as two halves of two bytes each elsewhere.
    halves = [np.ascontiguousarray(m).view(np.uint16) for m in (a, np.ascontiguousarray(b.T))]
    text = mma_kernel("m16n8k16", "f32", "f16", 1)
    text = text.replace("m16n8k16.row.col.f32.f16.f16.f32", f"m16n8k32.row.col.{to}.X.Y.{to}")
    text = text.replace("X", kind_a).replace("Y", kind_b)
    run(text, fragments(halves[0], 16, 16), fragments(halves[1], 8, 16), state)
    expected = fragments(a.astype(np.int64) @ b.astype(np.int64), 16, 8)
    found = np.moveaxis(state.reshape(2, 2, 32), 1, 2).reshape(expected.shape)
    assert (found == expected).all()
