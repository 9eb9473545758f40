"""What the checks look at in bulk copies, of rows of bytes and of boxes of tensors."""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Instruction
from ..values import Value
from .ordering import Ordering

Ends = tuple[Value, Value]


class Transfers:
    """Hooks of the bulk copies. Each takes the lanes that want to copy, and returns those that may.

    tagged: whether shared memory has tags and global memory marks; granule: of shared memory.
    """

    def __init__(self, tagged: bool, granule: int, ordering: Ordering) -> None:
        self._tagged, self._granule, self._ordering = tagged, granule, ordering

    def bulk(
        self,
        b: Builder,
        ins: Instruction,
        near: Value,
        far: Value,
        sizes: Value,
        mask: Value,
        inward: bool,
    ) -> Value:
        """A row of bytes: its first and its last 16 are tested."""
        behind = b.op("sub", sizes, b.constant("i32", 16))
        last = b.op("add", far, b.cast("zext", behind, "i64"))
        mask = self._within(b, ins, (far, last), 16, mask, inward)
        mask = self._near(b, ins, near, sizes, mask, inward)
        suffix, place = self.marks(ins, inward)
        if suffix:
            b.call(f"bulk{suffix}", "void", far, sizes, mask, *place)
        return mask

    def tensor_map(self, b: Builder, ins: Instruction, address: Value, mask: Value) -> Value:
        """A tensor map that is read: its first and its last 16 bytes are tested."""
        last = b.op("add", address, b.constant("i64", 112))
        return self._within(b, ins, (address, last), 16, mask, inward=True)

    def tensor(
        self,
        b: Builder,
        ins: Instruction,
        near: Value,
        sizes: Value,
        ends: Ends,
        mask: Value,
        inward: bool,
    ) -> Value:
        """A box; ends: its first and its last byte in the tensor, 0 where all of it is outside."""
        inside = b.mask(b.compare("icmp ne", ends[1], b.constant("i64", 0)))
        some = self._within(b, ins, ends, 1, b.op("and", mask, inside), inward)
        outside = b.op("xor", mask, b.op("and", mask, inside))
        return self._near(b, ins, near, sizes, b.op("or", some, outside), inward)

    def marks(self, ins: Instruction, inward: bool) -> tuple[str, tuple[str, ...]]:
        """What marks the elements that a copy writes: the end of a helper's name and arguments."""
        if inward or not self._tagged:
            return "", ()
        return f"marks{'_talks' if self._ordering.talks else ''}", _place(ins)

    def _within(
        self, b: Builder, ins: Instruction, ends: Ends, nbytes: int, mask: Value, inward: bool
    ) -> Value:
        name = f"bounds_global_{'load' if inward else 'store'}_{nbytes}"
        for end in ends:
            mask = Value(b.call(name, "i32", end, mask, *_place(ins)), "i32")
        return mask

    def _near(
        self, b: Builder, ins: Instruction, near: Value, sizes: Value, mask: Value, inward: bool
    ) -> Value:
        """The shared memory's side."""
        behind = b.op("sub", sizes, b.constant("i32", 16))
        name = f"bounds_shared_{'store' if inward else 'load'}_16"
        for address in (near, b.op("add", near, behind)):
            mask = Value(b.call(name, "i32", address, mask, *_place(ins)), "i32")
        if self._tagged:
            way = "in" if inward else "out"
            name = f"bulktags_{way}_{self._granule}_{self._ordering.mode}"
            b.call(name, "void", near, sizes, mask, *_place(ins))
        return mask


def _place(ins: Instruction) -> tuple[str, str, str]:
    return "ptr %checks", "ptr %ctx", f"i32 {ins.index}"
