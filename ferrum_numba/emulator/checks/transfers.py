"""What the checks look at in bulk copies, of runs of bytes and of boxes of tensors."""

from __future__ import annotations

from ..builder import Builder
from ..hooks import Box
from ..ptx import Instruction
from ..values import Value
from .ordering import Ordering


class Transfers:
    """Hooks of the bulk copies. Each takes the lanes that want to copy, and returns those that may.

    Shared memory comes first: it counts as written even where the copy may not read what it would,
    for that is found already.
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
        """A run of bytes, or none."""
        some = b.mask(b.compare("icmp ne", sizes, b.constant("i32", 0)))
        mask = b.op("and", mask, some)
        mask = self._near(b, ins, near, sizes, mask, inward)
        mask = self._far(b, ins, far, sizes, mask, inward)
        suffix, place = self.marks(ins, inward)
        if suffix:
            b.call(f"bulk{suffix}", "void", far, sizes, mask, *place)
        return mask

    def tensor_map(self, b: Builder, ins: Instruction, address: Value, mask: Value) -> Value:
        """A tensor map that is read."""
        return self._far(b, ins, address, b.vector(b.constant("i32", 128)), mask, inward=True)

    def tensor(
        self,
        b: Builder,
        ins: Instruction,
        name: str,
        box: Box,
        sizes: Value,
        mask: Value,
    ) -> Value:
        """A box, row after row; name: the copy's way and rank."""
        mask = self._near(b, ins, box[0], sizes, mask, name.startswith("in"))
        return Value(b.call(f"boxruns_{name}", "i32", *box, mask, *_place(ins)), "i32")

    def marks(self, ins: Instruction, inward: bool) -> tuple[str, tuple[str, ...]]:
        """What marks the elements that a copy writes: the end of a helper's name and arguments."""
        if inward or not self._tagged:
            return "", ()
        return f"marks{'_talks' if self._ordering.talks else ''}", _place(ins)

    def _far(
        self, b: Builder, ins: Instruction, far: Value, sizes: Value, mask: Value, inward: bool
    ) -> Value:
        """The global memory's side: how its first 16 bytes are aligned, and all of it."""
        access = "load" if inward else "store"
        mask = Value(b.call(f"bounds_global_{access}_16", "i32", far, mask, *_place(ins)), "i32")
        return Value(b.call(f"runs_{access}", "i32", far, sizes, mask, *_place(ins)), "i32")

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
