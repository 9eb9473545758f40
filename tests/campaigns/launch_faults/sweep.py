"""Every parameter left out, every two exchanged, every integer off: faults nobody chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

from . import blocks, strangers
from .fault import INTEGERS, Fault, w4a16

NAMES = ("a", "qweight", "scales", "qzeros", "c", *INTEGERS)
_STEPS = {"N": 8, "K": 8, "group_size": 8}  # of which the kernel takes multiples


def sweep(shape: int) -> Iterator[Fault]:
    """The faults that change a launch of this shape at all.

    One integer more or less is left out where that is its size in bytes: a stride of 2 float16
    elements is a stride of 1 in bytes, and nothing tells which was meant.
    """
    sound = w4a16(shape).case().block
    for fault in _all():
        if fault.make(shape).block != sound:
            yield fault
    yield from _of_strangers()


def _of_strangers() -> Iterator[Fault]:
    """The same for a GEMM of somebody else, with no sidecar."""
    names = ("a", "b", "c", "M", "N", "K")
    for index, name in enumerate(names):
        make = strangers.gemm_without(index)
        yield Fault(f"gemm-missing-{name}", "parameter-missing", f"{name} is left out", make)
    for order in ("b a c", "a c b", "c b a"):
        make = strangers.gemm(order=order)
        yield Fault(f"gemm-{order}", "pointers-swapped", f"in the order {order}", make)
    for one, two in combinations(range(3), 2):
        make = strangers.gemm(_exchanged(one, two))
        what = f"{names[3 + one]} and {names[3 + two]}"
        yield Fault(f"gemm-{what}", "sizes-swapped", f"{what} exchanged", make)
    for index in range(3):
        for step in (16, -16):
            make = strangers.gemm(_moved(index, step))
            name = f"gemm-{names[3 + index]}{step:+d}"
            yield Fault(name, "size-wrong", f"{names[3 + index]} is {abs(step)} off", make)


def _exchanged(one: int, two: int) -> Callable[[int, int, int], tuple[int, ...]]:
    def change(*sizes: int) -> tuple[int, ...]:
        changed = list(sizes)
        changed[one], changed[two] = sizes[two], sizes[one]
        return tuple(changed)

    return change


def _moved(index: int, step: int) -> Callable[[int, int, int], tuple[int, ...]]:
    return lambda *sizes: tuple(n + step * (i == index) for i, n in enumerate(sizes))


def _all() -> Iterator[Fault]:
    for index, name in enumerate(NAMES):
        make = blocks.without(index, pad=True)
        if index < len(NAMES) - 1:  # the last one leaves a 0 in its place, and nothing moves
            yield Fault(f"missing-{name}", "parameter-missing", f"{name} is left out", make)
    for one, two in combinations(INTEGERS, 2):
        strides = one.startswith("stride") and two.startswith("stride")
        cause = "strides-swapped" if strides else "sizes-swapped"
        make = blocks.values(blocks.swap(one, two))
        yield Fault(f"{one}-{two}", cause, f"{one} and {two} exchanged", make)
    for one, two in combinations(range(5), 2):
        name = f"{NAMES[one]}-{NAMES[two]}"
        make = blocks.pointers(blocks.exchange(one, two))
        yield Fault(name, "pointers-swapped", f"{name.replace('-', ' and ')} exchanged", make)
    for name in INTEGERS:
        for sign in (1, -1):
            yield _off(name, sign * _STEPS.get(name, 1))


def _off(name: str, step: int) -> Fault:
    cause = "stride-wrong" if name.startswith("stride") else "size-wrong"
    if name == "group_size":
        cause = "group-size-wrong"
    if step == 1 and name in ("stride_ak", "stride_sn", "stride_cn"):
        step = 2  # see `sweep`
    make = blocks.values(lambda values: {name: values[name] + step})
    return Fault(f"{name}{step:+d}", cause, f"{name} is {abs(step)} off", make)
