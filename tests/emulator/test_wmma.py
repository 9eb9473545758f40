"""wmma: fragments of any layout in global and shared memory, beside NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ferrum_numba.errors import PtxError
from tests.emulator.harness import entry, run

DTYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32, "f32": np.float32}
DTYPES |= {"s8": np.int8, "u8": np.uint8, "s32": np.int32}
REGISTERS = {"f16": 8, "bf16": 4, "tf32": 4, "s8": 2, "u8": 2}


def group(first: int, count: int) -> str:
    return "{" + ", ".join(f"%t{i}" for i in range(first, first + count)) + "}"


def product(kind: str, sums: str, of_a: str, of_b: str, of_c: str, stride: int) -> str:
    """D = A B + C, all in global memory, rows or columns `stride` elements apart."""
    shape = "m16n16k8" if kind == "tf32" else "m16n16k16"
    n, m = REGISTERS[kind], 4 if sums == "f16" else 8
    a, b, c, d = group(10, n), group(18, n), group(26, m), group(34, m)
    types = f"{sums}.{sums}" if kind == "f16" else f"{sums}.{kind}.{kind}.{sums}"
    return f"""
    wmma.load.a.sync.aligned.{of_a}.{shape}.global.{kind} {a}, [%q0], {stride};
    wmma.load.b.sync.aligned.{of_b}.{shape}.global.{kind} {b}, [%q1], {stride};
    wmma.load.c.sync.aligned.{of_c}.{shape}.global.{sums} {c}, [%q2], {stride};
    wmma.mma.sync.aligned.{of_a}.{of_b}.{shape}.{types} {d}, {a}, {b}, {c};
    wmma.store.d.sync.aligned.{of_c}.{shape}.global.{sums} [%q3], {d}, {stride};
    """


SUMS = [("f16", "f32"), ("f16", "f16"), ("bf16", "f32"), ("tf32", "f32")]
SUMS += [("s8", "s32"), ("u8", "s32")]


@pytest.mark.parametrize("layouts", [("row", "col", "row"), ("col", "row", "col")])
@pytest.mark.parametrize(("kind", "sums"), SUMS)
def test_products(kind: str, sums: str, layouts: tuple[str, str, str]) -> None:
    random = np.random.default_rng(0)
    k, stride = (8 if kind == "tf32" else 16), 24
    shapes = ((16, k), (k, 16), (16, 16))
    matrices, memory = [], []
    for (rows, columns), layout, its in zip(shapes, layouts, (kind, kind, sums), strict=True):
        low = 0 if its == "u8" else -9
        values = random.integers(low, 10, (rows, columns)).astype(DTYPES[its])
        lying = values if layout == "row" else values.T
        room = np.zeros((lying.shape[0], stride), DTYPES[its])
        room[:, : lying.shape[1]] = lying
        matrices.append(values.astype(np.float64))
        memory.append(room)
    out = np.zeros((16, stride), DTYPES[sums])
    run(entry(4, product(kind, sums, *layouts, stride)), *memory, out)
    found = out[:, :16] if layouts[2] == "row" else out[:, :16].T
    a, b, c = matrices
    np.testing.assert_array_equal(found.astype(np.float64), a @ b + c)
    assert not out[:, 16:].any()


def test_elements_can_be_scaled_between() -> None:
    """A program may do the same to all elements of a fragment, whichever lane has them."""
    d = group(34, 8)
    scaled = "\n".join(f"mul.f32 %t{i}, %t{i}, 0f40000000;" for i in range(34, 42))
    body = product("f16", "f32", "row", "row", "row", 16)
    body = body.replace("wmma.store.d", f"{scaled}\nwmma.store.d", 1)
    assert d in body
    a, b = (np.eye(16, dtype=np.float16) * n for n in (2, 3))
    c, out = np.ones((16, 16), np.float32), np.zeros((16, 16), np.float32)
    run(entry(4, body), a, b, c, out)
    np.testing.assert_array_equal(out, 2 * (6 * np.eye(16) + 1))


def test_other_shapes_are_refused() -> None:
    body = product("f16", "f32", "row", "row", "row", 16).replace("m16n16k16", "m32n8k16")
    with pytest.raises(PtxError, match="m32n8k16"):
        run(entry(4, body), *[np.zeros(512, np.float32)] * 4)
