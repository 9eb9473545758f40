"""Instructions of sm_100 and newer: three operands, two floats a register, reductions of floats."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.errors import PtxError
from tests.campaigns.operands import floats
from tests.emulator.harness import assert_same, elementwise, entry, run

A, B, C = (floats(np.float32, 256, seed) for seed in range(3))


def _least(x: np.ndarray, y: np.ndarray, name: str, nan: bool) -> np.ndarray:
    spread = {("min", True): np.minimum, ("max", True): np.maximum}
    spread |= {("min", False): np.fmin, ("max", False): np.fmax}
    return spread[name, nan](x, y)


@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize("modifiers", ["", ".NaN", ".abs", ".NaN.abs"])
def test_the_extreme_of_three(name: str, modifiers: str) -> None:
    found = elementwise(f"{name}{modifiers}.f32 %r, %a, %b, %c;", A, B, C, result=np.float32)
    x, y, z = (np.abs(v) if ".abs" in modifiers else v for v in (A, B, C))
    nan = ".NaN" in modifiers
    expected = _least(_least(x, y, name, nan), z, name, nan)
    # NumPy leaves open which zero is less.
    np.testing.assert_array_equal(found, expected)
    if nan:
        words = found[np.isnan(found)].view(np.uint32)
        assert (words == 0x7FFFFFFF).all()


PAIRS = [np.stack([x, np.roll(x, 1)], 1).reshape(-1).view(np.uint64) for x in (A, B, C)]


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("add.rn.f32x2 %r, %a, %b;", lambda x, y, z: x + y),
        ("sub.f32x2 %r, %a, %b;", lambda x, y, z: x - y),
        ("mul.f32x2 %r, %a, %b;", lambda x, y, z: x * y),
    ],
)
def test_two_floats_a_register(text: str, operation: object) -> None:
    found = elementwise(text, *PAIRS, result=np.uint64, view=np.float32)
    with np.errstate(all="ignore"):
        expected = operation(*(p.view(np.float32) for p in PAIRS))
    assert_same(found, expected)


def test_two_fused_multiply_adds_a_register() -> None:
    small = [np.random.default_rng(i).standard_normal(128).astype(np.float32) for i in range(3)]
    packed = [x.view(np.uint64) for x in small]
    text = "fma.rn.ftz.f32x2 %r, %a, %b, %c;"
    found = elementwise(text, *packed, result=np.uint64, view=np.float32)
    x, y, z = (v.astype(np.float64) for v in small)
    np.testing.assert_allclose(found, (x * y + z).astype(np.float32), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize("modifiers", ["", ".abs", ".NaN", ".abs.NaN"])
@pytest.mark.parametrize("some", [False, True])
def test_reductions_of_floats(name: str, modifiers: str, some: bool) -> None:
    body = f"""mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q8, %q0; ld.global.b32 %t1, [%q9];
    redux.sync.{name}{modifiers}.f32 %t2, %t1, -1; add.s64 %q9, %q8, %q1;
    st.global.b32 [%q9], %t2;"""
    random = np.random.default_rng(5)
    for kind in range(3):
        x = random.standard_normal(32).astype(np.float32)
        if some:
            x[random.integers(0, 32, 4)] = np.nan
        x = np.full(32, np.nan, np.float32) if kind == 2 and some else x
        out = np.zeros(32, np.float32)
        run(entry(2, body), x, out)
        values = np.abs(x) if ".abs" in modifiers else x
        reduce = {"min": np.fmin, "max": np.fmax}[name].reduce
        expected = np.nan if ".NaN" in modifiers and np.isnan(x).any() else reduce(values)
        np.testing.assert_array_equal(out, np.float32(expected))


def test_loads_and_stores_of_256_bits() -> None:
    body = """mul.wide.u32 %q8, %t0, 32; add.s64 %q9, %q8, %q0; add.s64 %q10, %q8, %q1;
    ld.global.v8.b32 {%t1, %t2, %t3, %t4, %t5, %t6, %t7, %t8}, [%q9];
    st.global.v8.b32 [%q10], {%t8, %t7, %t6, %t5, %t4, %t3, %t2, %t1};
    ld.global.v4.b64 {%q11, %q12, %q13, %q14}, [%q9]; add.s64 %q10, %q8, %q2;
    st.global.v4.b64 [%q10], {%q11, %q12, %q13, %q14};"""
    x = np.arange(256, dtype=np.uint32)
    turned, same = np.zeros_like(x), np.zeros_like(x)
    run(entry(3, body), x, turned, same)
    np.testing.assert_array_equal(turned, x.reshape(-1, 8)[:, ::-1].ravel())
    np.testing.assert_array_equal(same, x)


@pytest.mark.parametrize("kind", ["add.f32", "add.noftz.f16", "max.s32", "inc.u32"])
def test_bulk_reductions(kind: str) -> None:
    dtype = {"f32": np.float32, "f16": np.float16, "s32": np.int32, "u32": np.uint32}[kind[-3:]]
    x = np.random.default_rng(0).integers(0, 50, 40).astype(dtype)
    out = np.full(40, 20, dtype)
    copy = f"""setp.ne.u32 %p1, %t0, 0; @%p1 bra END; mov.u32 %t2, tile; mov.u32 %t3, 0;
    mov.u64 %q8, %q0;
    NEXT: ld.global.b16 %h1, [%q8]; st.shared.b16 [%t2], %h1; add.u32 %t2, %t2, 2;
    add.s64 %q8, %q8, 2; add.u32 %t3, %t3, 2; setp.lt.u32 %p2, %t3, {x.nbytes}; @%p2 bra NEXT;
    mov.u32 %t2, tile; fence.proxy.async;
    cp.reduce.async.bulk.global.shared::cta.bulk_group.{kind} [%q1], [%t2], {x.nbytes};
    cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
    END:"""
    run(entry(2, copy), x, out, shared_bytes=256)
    expected = {
        "add.f32": x + dtype(20),
        "add.noftz.f16": x + dtype(20),
        "max.s32": np.maximum(x, 20),
        "inc.u32": np.where(x <= 20, 0, 21),
    }[kind]
    np.testing.assert_array_equal(out, expected.astype(dtype))


def test_tensor_memory_is_refused_by_its_name() -> None:
    body = "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [tile], 64;"
    with pytest.raises(PtxError, match=r"no tensor memory and none of the tcgen05 instructions"):
        run(entry(1, body), np.zeros(1), shared_bytes=64)
