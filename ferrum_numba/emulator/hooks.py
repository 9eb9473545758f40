"""Hooks by which instrumentation adds to the code of an entry; by default they add nothing.

The lowering calls a hook at each place of interest.  A hook that returns a value returns what the
code goes on with, such as the lanes that may access memory.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from .ptx import Instruction, Operand
from .values import Text, Value

B = TypeVar("B", bound=Text)
Box = tuple[Value, Value, str]  # of each lane: its place in shared memory, its map, coordinates


class Access(NamedTuple):
    """An access to memory, of `nbytes` a lane.

    kind: "load", "store" or "atomic"; of an mbarrier "renew", "publish", "copies" or "wait".
    """

    ins: Instruction
    space: str
    address: Value
    nbytes: int
    kind: str


class Copy(NamedTuple):
    """An asynchronous copy to shared memory, of `nbytes` a lane; zeros follow `sizes` of them."""

    ins: Instruction
    to: Value
    source: Value
    nbytes: int
    sizes: Value


class Run(NamedTuple):
    """One end of a bulk copy, of `sizes` bytes a lane. kind: "load", "store" or "atomic"."""

    ins: Instruction
    address: Value
    sizes: Value
    kind: str


class Hooks(Generic[B]):
    """Hooks of one entry. stepwise: whether every instruction has to be lowered by itself."""

    stepwise = False

    # -- the frame ------------------------------------------------------------------------------

    def prepare(self, b: B) -> None:
        """Called before the first block."""

    def preamble(self) -> list[str]:
        """Lines at the start of the function of a warp."""
        return []

    def begin(self, b: B) -> None:
        """Called where a warp begins a CTA."""

    def begins_block(self) -> None:
        """Called where a block begins, which other values do not reach."""

    def round(self, b: Text, state: Value, fresh: Value, passed: Value) -> None:
        """Called where a round begins: of a new CTA, or where all warps have passed a barrier."""

    def turn(self, b: Text, warp: Value, warps: Value) -> Value:
        """The warp whose turn it is."""
        return warp

    # -- instructions ---------------------------------------------------------------------------

    def reads(self, b: B, ins: Instruction) -> None:
        """Called before an instruction."""

    def writes(self, b: B, ins: Instruction) -> None:
        """Called after an instruction."""

    def decides(self, b: B, branch: Instruction) -> None:
        """Called before a branch, or a barrier."""

    def meet(self, b: B, ins: Instruction, elsewhere: Value) -> None:
        """Called at a barrier of all threads. elsewhere: lanes that wait at another one."""

    def exchanged(self, b: B, ins: Instruction, sources: Value, inside: Value) -> None:
        """Called where lanes take others' values. inside: whether of a lane of their segment."""

    # -- accesses -------------------------------------------------------------------------------

    def access(self, b: B, at: Access, condition: Value | None) -> Value | None:
        """Lanes of the condition (None: of all) that may access global or shared memory."""
        return condition

    def local(self, b: B, at: Access, condition: Value | None) -> Value | None:
        """Lanes of the condition that may access local memory, of which each has its own."""
        return condition

    def stored(
        self, b: B, at: Access, value: Value | None = None, condition: Value | None = None
    ) -> None:
        """Called after a store of one value of up to 64 bits a lane; None: of 16 bytes a lane."""

    def rows(self, b: B, ins: Instruction, address: Value, count: int, kind: str) -> Value:
        """Addresses of ldmatrix or stmatrix."""
        return address

    # -- orders ---------------------------------------------------------------------------------

    def releases(self, b: B, ins: Instruction) -> None:
        """Called before an instruction that may make known what the warp did."""

    def acquires(self, b: B, ins: Instruction) -> None:
        """Called after an instruction that may let the warp rely on what others did."""

    def fence(self, b: B, ins: Instruction) -> None:
        """Called at a fence of any kind."""

    def arrives(self, b: B, ins: Instruction, number: Operand, opens: Value) -> None:
        """Called where a warp comes to a named barrier, which opens or does not yet."""

    def opened(self, b: B, ins: Instruction, number: Operand, waits: Value) -> None:
        """Called where a warp has to wait at a named barrier, or may go on."""

    def mbarrier(self, b: B, at: Access, condition: Value | None) -> Value | None:
        """Lanes of the condition that may use an mbarrier."""
        return condition

    def changed(self, b: B, address: Value, mask: Value) -> None:
        """Called after arrivals at an mbarrier, whose phase may be over."""

    def tries(self, b: B, ins: Instruction, over: Value) -> Value:
        """Condition that a wait finds the phase of an mbarrier over, where it is."""
        return over

    def passes(self, b: B, address: Value, over: Value, acts: Value, passed: Value) -> Value:
        """Result of a wait at an mbarrier. acts, passed: lanes that look, and may go on."""
        return over

    # -- products of warp groups ----------------------------------------------------------------

    def product(self, b: B, ins: Instruction) -> None:
        """wgmma.mma_async, before it is done."""

    def orders_products(self, b: B, ins: Instruction) -> None:
        """wgmma.fence, .commit_group, .wait_group."""

    def descriptor(
        self, b: B, ins: Instruction, value: Value, form: str, rows: int, row: Value
    ) -> Value:
        """A descriptor of wgmma.

        form: "a" or "b", and how it lies; rows: of A or columns of B, from `row` on.
        """
        return value

    # -- asynchronous copies --------------------------------------------------------------------

    def copy(self, b: B, at: Copy, mask: Value) -> Value | None:
        """Lanes of the mask that may copy; None where the copy is done later."""
        return mask

    def commit(self, b: B) -> None:
        """Close a group of copies."""

    def wait(self, b: B, keep: int) -> None:
        """Let all but the last `keep` groups land; -1: the open one too."""

    def land(self, b: B) -> None:
        """Let all copies land, for which an mbarrier waits and this warp does not."""

    def near(self, b: B, run: Run, mask: Value) -> Value:
        """Lanes of the mask that may copy to or from shared memory."""
        return mask

    def far(self, b: B, run: Run, mask: Value) -> Value:
        """Lanes of the mask that may copy from or to global memory."""
        return mask

    def box(self, b: B, ins: Instruction, name: str, box: Box, mask: Value) -> Value:
        """Lanes of the mask that may copy a box of a tensor. name: the copy's way and rank."""
        return mask

    def bulk_commit(self, b: B, ins: Instruction) -> None:
        """Close a group of bulk copies to global memory."""

    def bulk_wait(self, b: B, ins: Instruction, keep: int) -> None:
        """Wait for all but the last `keep` groups of them."""

    def marks(self, ins: Instruction, inward: bool) -> tuple[str, tuple[str, ...]]:
        """The end of the name of what copies boxes, and its further arguments."""
        return "", ()
