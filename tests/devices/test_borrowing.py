"""Slots of arguments: what moves, what does not, and what an interruption leaves."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from ctypes import c_uint64
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.abi import Movable
from ferrum_numba.devices.borrowing import Borrowing
from ferrum_numba.devices.cache_keys import cache_key
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
