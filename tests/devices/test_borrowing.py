"""Slots of arguments: what moves, what does not, and what an interruption leaves."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator
from ctypes import c_uint64
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.abi import Movable
from ferrum_numba.devices.borrowing import Borrowing
from ferrum_numba.devices.cache_keys import cache_key
from ferrum_numba.devices.cuda import native
from ferrum_numba.devices.dlpack import Likeness
from tests.devices import canonical

NBYTES = 4096


def arrays(count: int) -> list[np.ndarray]:
    """Alike, next to each other."""
    whole = np.zeros((count, NBYTES // 4), np.float32)
    return list(whole)


def holds_all(address: int) -> bool:
    return True


def borrowing(
    x: np.ndarray,
    out: np.ndarray,
    weight: int = 0,
    holds: Callable[[int], bool] = holds_all,
) -> tuple[Borrowing, dict[str, Any]]:
    """Of an input and an output, which also keeps apart from a weight."""
    keys = {"x": cache_key(x), "out": cache_key(out), "n": 3}
    movable = {
        "x": Movable(16, NBYTES, (("out", NBYTES),)),
        "out": Movable(16, NBYTES, (("x", NBYTES), ("w", NBYTES))),
    }
    places = {"x": x.ctypes.data, "out": out.ctypes.data, "w": weight}
    pointers = {name: c_uint64(place) for name, place in places.items()}
    names = ("x", "out", "n")
    return Borrowing(names, (x, out, 3), keys, movable, places, pointers, holds), pointers


def test_arrays_that_move() -> None:
    a, b, c, d = arrays(4)
    own, pointers = borrowing(a, b)
    assert own.take((a, b, 3)) is False
    assert own.take((c, b, 3)) is True
    assert own.take((c, d, 3)) is True
    assert own.take((a, b, 3)) is True
    assert own.take((b, a, 3)) is True  # they change places
    found = [pointers[name].value for name in ("x", "out")]
    assert found == [b.ctypes.data, a.ctypes.data] == list(own.places().values())


def test_what_changes_nothing() -> None:
    a, b, c, _ = arrays(4)
    own, pointers = borrowing(a, b, c.ctypes.data)
    before = {name: pointer.value for name, pointer in pointers.items()}
    other = a.astype(np.float16)
    for values in (
        (c, b, 4),  # another number
        (c, b, True),
        (other, b, 3),
        (a[:-1], b, 3),
        (c, c, 3),  # the output in the input
        (a, c, 3),  # in the weight
        (None, b, 3),
    ):
        assert own.take(values) is None
        assert {name: pointer.value for name, pointer in pointers.items()} == before
        assert not own.moving
    assert own.take((a, b, 3)) is False
    own, _ = borrowing(a, b, holds=lambda address: False)
    assert own.take((c, b, 3)) is None
    assert own.take((a, b, 3)) is False


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 4),
        ("extents", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class Tensor:
    """An array of a library that fills DLPack's tensors in C."""

    def __init__(
        self, data: int, extents: tuple[int, ...], strides: tuple[int, ...], bits: int = 16
    ) -> None:
        self.data, self.bits, self.ordinal, self.rank = data, bits, 0, len(extents)
        self.extents = (ctypes.c_int64 * 8)(*extents)
        self.strides = (ctypes.c_int64 * 8)(*strides)


@ctypes.PYFUNCTYPE(ctypes.c_int32, ctypes.py_object, ctypes.c_void_p)
def fill(array: Any, place: int) -> int:
    if not array.data:  # without memory
        return -1
    tensor = _Tensor.from_address(place)
    tensor.data, tensor.offset, tensor.rank = array.data, 16, array.rank
    tensor.device[:], tensor.dtype[:] = (2, array.ordinal), (2, array.bits, 1, 0)
    tensor.extents = ctypes.cast(array.extents, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(array.strides, ctypes.POINTER(ctypes.c_int64))
    return 0


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    table = (ctypes.c_uint64 * 7)(1 | 3 << 32, 0, 0, 0, 0, ctypes.cast(fill, ctypes.c_void_p).value)
    new = ctypes.pythonapi.PyCapsule_New
    new.argtypes, new.restype = (
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
        ctypes.py_object,
    )
    capsule = new(ctypes.addressof(table), b"dlpack_exchange_api", None)
    monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", capsule, raising=False)
    yield
    del table


def test_tensors_that_native_code_reads(exchange: None) -> None:
    first = Tensor(0x1000, (1, 64, 3), (192, 3, 1))
    like = Likeness.of(first)
    assert like is not None
    place_of = native.place_of()

    def place(tensor: Tensor) -> int:
        return place_of(tensor, like.function, like.place)

    assert place(first) == 0x1010
    assert place(Tensor(0x7FFF_0000_1230, (1, 64, 3), (192, 3, 1))) == 0x7FFF_0000_1240
    assert place(Tensor(0x1000, (1, 64, 3), (7, 3, 1))) == 0x1010, "a stride that says nothing"
    for other in (
        Tensor(0x1000, (1, 64, 2), (192, 3, 1)),
        Tensor(0x1000, (1, 64, 3), (192, 4, 1)),
        Tensor(0x1000, (1, 64, 3), (192, 3, 2)),
        Tensor(0x1000, (2, 64, 3), (192, 3, 1)),
        Tensor(0x1000, (1, 64), (64, 1)),
        Tensor(0x1000, (1, 64, 3, 1), (192, 3, 1, 1)),
        Tensor(0x1000, (1, 64, 3), (192, 3, 1), bits=32),
        Tensor(0, (1, 64, 3), (192, 3, 1)),
    ):
        assert place(other) == -1
    elsewhere = Tensor(0x1000, (1, 64, 3), (192, 3, 1))
    elsewhere.ordinal = 1
    assert place(elsewhere) == -1
    scalar = Likeness.of(Tensor(0x1000, (), ()))
    assert scalar is not None
    assert place_of(Tensor(0x2000, (), ()), scalar.function, scalar.place) == 0x2010


def test_tuples_of_the_same_objects() -> None:
    identical, big = native.identical(), 10**20
    assert identical((), ())
    assert identical((1, big, None), (1, big, None))
    for other in (
        (1, big),
        (1, big, None, 1),
        (1, int("1" + "0" * 20), None),
        (True, big, None),
        (),
    ):
        assert not identical((1, big, None), other)


def test_tensors_that_native_code_cannot_read(exchange: None) -> None:
    assert Likeness.of(Tensor(0, (1,), (1,))) is None
    assert Likeness.of(np.zeros(3)) is None


def test_one_that_is_broken_off() -> None:
    """A launch after it looks at everything."""

    class BrokenOffError(Exception):
        pass

    class Unwritable:
        def __setattr__(self, name: str, value: int) -> None:
            raise BrokenOffError

    cpu = fe.open_device("cpu")
    kernel, arguments = canonical.kernel(cpu), canonical.arguments(cpu)
    call = kernel.prepare(canonical.CONFIG, **arguments)
    xs = [canonical.A.copy() for _ in range(3)]
    for x in xs[:2]:
        call.launch(a=x)
    own = call._borrowing
    assert own is not None
    pointers, own._pointers = own._pointers, [(0, Unwritable())]  # type: ignore[list-item]
    with pytest.raises(BrokenOffError):
        call.launch(a=xs[2])
    assert own.moving
    own._pointers = pointers
    for x in (xs[1], xs[2], xs[0]):
        x[...] = np.roll(canonical.A, 1, axis=0)
        call.launch(a=x)
        found = cpu.to_host(arguments["c"]).astype(np.float64)
        expected = np.roll(canonical.EXPECTED, 1, axis=0)
        assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)
        assert call.invocation.bound.arrays["a"].address == x.ctypes.data


def test_nothing_is_held() -> None:
    a, b = (np.zeros(NBYTES // 4, np.float32) for _ in range(2))
    own, _ = borrowing(a, b)
    c = np.zeros(NBYTES // 4, np.float32)
    alive = weakref.ref(c)
    assert own.take((c, b, 3)) is True
    del c
    gc.collect()
    assert alive() is None
