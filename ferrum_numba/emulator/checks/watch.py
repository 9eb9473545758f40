"""The hooks: what the lowering of an access emits besides it where checks are on.

Lanes that may not do what they ask for are taken out of the access, so that no address, however
wild, is ever used.
"""

from __future__ import annotations

from .. import table
from ..builder import Builder
from ..flow import analyse
from ..hooks import Box, Hooks
from ..layout import LANES, WAIT_TRIED, WARP, state_offset
from ..opcodes.barrier import uniform
from ..ptx import Body, Instruction, Operand, Register, registers_of
from ..values import Value
from . import helpers as helpers  # registers their families
from .memory import offset
from .ordering import Ordering, is_strong
from .own import own
from .traits import atomic_in_global, granule_of
from .transfers import Transfers


class Watch(Hooks[Builder]):
    """What is watched: the checks, and the granule of shared memory that has a tag, in bytes."""

    def __init__(self, checks: frozenset[str], body: Body, threads: int | None) -> None:
        """threads: number of threads of a block where the PTX fixes it."""
        self.init, self.race = "init" in checks, "race" in checks
        self.granule = granule_of(body)
        # CTAs that talk to each other through atomic operations may well share elements, one after
        # the other.
        self.talks = atomic_in_global(body)
        flow = analyse(body, threads, masked=False)
        self.ordering = Ordering(flow, self.init, self.race, self.talks)
        self.transfers = Transfers(self.init or self.race, self.granule, self.ordering)
        live = flow.blocks[0].live_in if self.init else ()
        # By name: the body is read again for each translation.
        self.suspects = sorted({register.name for register in live})

    def __repr__(self) -> str:
        return f"watch init {self.init}, race {self.race}"

    def prepare(self, b: Builder) -> None:
        b.helpers.define("own", own(b.arrays, b.layout, b.flow.local_bytes))

    # -- the frame ------------------------------------------------------------------------------

    def preamble(self) -> list[str]:
        return [
            f"  %checks.at = getelementptr i8, ptr %state, i64 {state_offset('checks')}",
            "  %checks = load ptr, ptr %checks.at, align 8",
        ]

    def begin(self, b: Builder) -> None:
        if self.race:
            b.call("queuebegin", "void", "ptr %checks", "ptr %ctx")
        self.ordering.begin(b)
        for name in self.suspects:
            b.store(b.constant("i32", 0), self._written(b, name), 0, 4)

    def begins_block(self) -> None:
        self.ordering.begins_block()

    def round(self, b: Builder) -> str:
        return f"""  %checks.at = getelementptr i8, ptr %state, i64 {state_offset("checks")}
  %checks = load ptr, ptr %checks.at, align 8
  %reverse.at = getelementptr i8, ptr %checks, i64 {offset("reverse")}
  %reverse = load i32, ptr %reverse.at, align 4
  %reversed = icmp ne i32 %reverse, 0
  %whole = icmp eq i32 %from, 0
  %passed.all = xor i1 %held, true
  %moves = and i1 %whole, %passed.all
{self.ordering.round(b)}"""

    def turn(self) -> tuple[str, str]:
        lines = """  %last.warp = sub i32 %warps, 1
  %back = sub i32 %last.warp, %warp
  %turn = select i1 %reversed, i32 %back, i32 %warp
"""
        return "%turn", lines

    # -- registers ------------------------------------------------------------------------------

    def reads(self, b: Builder, ins: Instruction) -> None:
        """What it reads was written by all lanes that execute it."""
        sources = [r for o in ins.operands[table.find(ins).writes :] for r in registers_of(o)]
        self.ordering.meets(b, ins)
        self.ordering.touches(b, ins, sources, table.written(ins))
        if not self.suspects:
            return
        self._require(b, ins, sources, b.condition(ins))
        if ins.guard is not None:
            self._require(b, ins, [ins.guard], b.active)

    def decides(self, b: Builder, branch: Instruction) -> None:
        self.ordering.meets(b, branch)
        if self.suspects and branch.guard is not None:
            self._require(b, branch, [branch.guard], b.active)

    def writes(self, b: Builder, ins: Instruction) -> None:
        if not self.suspects:
            return
        for register in table.written(ins):
            if register.name in self.suspects:
                # Under a guard too: compilers load a few lanes so, and go on with all of them,
                # of which only those few matter in the end.
                place = self._written(b, register.name)
                old = b.load("i32", 1, place, 0, 4)
                b.store(b.op("or", old, b.mask(b.active)), place, 0, 4)

    def _require(
        self, b: Builder, ins: Instruction, registers: list[Register], condition: Value | None
    ) -> None:
        for register in registers:
            if register.name in self.suspects:
                written = b.load("i32", 1, self._written(b, register.name), 0, 4)
                missing = b.op("and", b.mask(condition), _invert(b, written))
                b.call("registers", "void", missing, *self._place(ins))

    def _written(self, b: Builder, name: str) -> str:
        """Where the mask of the lanes lies that have written a register."""
        base = b.emit(f"getelementptr i8, ptr %checks, i64 {offset('registers')}")
        masks = b.emit(f"load ptr, ptr {base}, align 8")
        warp = b.load("i32", 1, "%ctx", WARP, 4)
        first = b.op("mul", warp, b.constant("i32", len(self.suspects)))
        number = b.op("add", first, b.constant("i32", self.suspects.index(name)))
        return b.emit(f"getelementptr i32, ptr {masks}, {number}")

    # -- accesses -------------------------------------------------------------------------------

    def access(
        self,
        b: Builder,
        ins: Instruction,
        space: str,
        address: Value,
        nbytes: int,
        condition: Value | None,
        kind: str,
    ) -> Value:
        uniform = address.n == 1 and (condition is None or condition.n == 1)
        addresses = b.vector(address)
        if uniform:
            one = b.constant("i32", 1)
            mask = one if condition is None else b.cast("zext", condition, "i32")
        else:
            mask = b.mask(condition)
        allowed = self._allowed(b, ins, space, addresses, nbytes, mask, kind)
        if uniform:
            return b.compare("icmp ne", allowed, b.constant("i32", 0))
        return _lanes(b, allowed)

    def _allowed(
        self,
        b: Builder,
        ins: Instruction,
        space: str,
        addresses: Value,
        nbytes: int,
        mask: Value,
        kind: str,
    ) -> Value:
        place = self._place(ins)
        if space == "shared":
            allowed = self._within(b, ins, addresses, nbytes, mask)
        else:
            name = f"bounds_global_{'load' if kind == 'load' else 'store'}_{nbytes}"
            allowed = _word(b.call(name, "i32", addresses, mask, *place))
        if space == "shared":
            width = f"{nbytes}_{self.granule}"
            self.ordering.hands_over(b, ins, kind, width, addresses, allowed)
        if space == "shared" and (self.init or self.race):
            self._tags(b, ins, self._access_kind(ins, kind), nbytes, addresses, allowed)
        if space == "global" and (self.init or self.race):
            self._marks(b, ins, kind, nbytes, addresses, allowed)
        if kind == "atomic" and table.find(ins).writes:
            self.ordering.exchanges(b)
        return allowed

    def _access_kind(self, ins: Instruction, kind: str) -> str:
        """How an access to shared memory counts; what an atomic operation reads must be there."""
        if kind == "store" or not is_strong(ins):
            return kind
        if not self.ordering.clocks:
            return "load"
        return kind if kind == "atomic" else "strong"

    def _marks(
        self, b: Builder, ins: Instruction, kind: str, nbytes: int, addresses: Value, mask: Value
    ) -> None:
        """Note who wrote an element of an array, and look at who did before."""
        told = self.ordering.talks
        if kind != "load":
            kind = "atomic" if is_strong(ins) else kind
            name = f"marks_{kind}_{nbytes}{'_talks' if told else ''}"
        elif told and not is_strong(ins):
            name = f"relies_{nbytes}"
        else:
            return
        b.call(name, "void", addresses, mask, *self._place(ins))

    def _tags(
        self, b: Builder, ins: Instruction, kind: str, nbytes: int, addresses: Value, mask: Value
    ) -> None:
        """Look at the tags of shared memory, and leave this access's own."""
        place = self._place(ins)
        name = f"tags_{kind}_{nbytes}_{self.granule}_{self.ordering.mode}"
        b.call(name, "void", addresses, mask, *place)
        if self.ordering.clocks and kind not in ("load", "strong"):
            b.call(f"readers_{nbytes}_{self.granule}", "void", addresses, mask, *place)

    def _within(
        self, b: Builder, ins: Instruction, addresses: Value, nbytes: int, mask: Value
    ) -> Value:
        """The lanes inside shared memory. In line, for a call would cost more than the test."""
        log2 = nbytes.bit_length() - 1
        turned = addresses
        if log2:  # misaligned offsets become huge
            shift = b.vector(b.constant("i32", log2))
            turned = b.intrinsic("llvm.fshr", addresses, addresses, shift)
        limit = b.load("i32", 1, "%checks", offset("limit"), 4)
        room = b.op("lshr", limit, b.constant("i32", log2))
        bad = b.op("and", b.mask(b.compare("icmp uge", turned, room)), mask)
        good = b.compare("icmp eq", bad, b.constant("i32", 0))
        b.count += 1
        label = f"within{b.count}"
        b.line(f"br {good}, label %{label}, label %{label}.slow")
        b.lines.append(f"{label}.slow:")
        width = b.constant("i32", nbytes)
        b.call("judge_shared", "i32", addresses, bad, width, *self._place(ins))
        b.line(f"br label %{label}")
        b.lines.append(f"{label}:")
        return b.op("and", mask, _invert(b, bad))

    def local(
        self, b: Builder, ins: Instruction, address: Value, nbytes: int, condition: Value | None
    ) -> Value:
        offsets = b.cast("trunc", b.op("sub", address, b.local_memory()), "i32")
        name = f"judge_local_{b.flow.local_bytes}"
        width, place = b.constant("i32", nbytes), self._place(ins)
        return _lanes(b, _word(b.call(name, "i32", offsets, b.mask(condition), width, *place)))

    def stored(
        self,
        b: Builder,
        ins: Instruction,
        space: str,
        address: Value,
        value: Value | None = None,
        condition: Value | None = None,
    ) -> None:
        """Did it change what another lane, warp or CTA had written?"""
        if not self.race:
            return
        place = self._place(ins)
        if value is None:
            b.call(f"settle_{space}_16", "void", b.vector(address), *place)
        else:
            values = (b.vector(address), b.vector(value), b.mask(condition))
            b.call(f"confirm_{space}_{value.type[1:]}", "void", "ptr %shared", *values, *place)

    def rows(self, b: Builder, ins: Instruction, address: Value, count: int, kind: str) -> Value:
        """Addresses that are not allowed lead to a dump."""
        allowed = self._allowed(b, ins, "shared", address, 16, lanes_of_rows(b, count), kind)
        dump = b.load("i32", 1, "%checks", offset("dump"), 4)
        return b.select(_lanes(b, allowed), address, b.vector(dump))

    def descriptor(
        self, b: Builder, ins: Instruction, value: Value, form: str, rows: int, row: Value
    ) -> Value:
        """One that leads to nothing but shared memory."""
        granule = self.granule if self.init or self.race else 0
        name = f"descriptor_{form}_{rows}_{granule}_{self.ordering.mode}"
        return Value(b.call(name, "i64", value, row, *self._place(ins)), "i64")

    # -- mbarriers ------------------------------------------------------------------------------

    def mbarrier(
        self, b: Builder, ins: Instruction, address: Value, condition: Value | None, kind: str
    ) -> Value:
        address = b.vector(address)
        mask = self._within(b, ins, address, 8, b.mask(condition))
        if self.init or self.race:
            self._tags(b, ins, "store" if kind == "renew" else "load", 8, address, mask)
        if kind != "wait":
            self.ordering.mbarrier(b, address, mask, kind)
        return _lanes(b, mask)

    def changed(self, b: Builder, address: Value, mask: Value) -> None:
        self.ordering.mbarrier(b, address, mask, "promote")

    def tries(self, b: Builder, ins: Instruction, over: Value) -> Value:
        """A try_wait may give up; where the kernel does not try again, that is a race."""
        if not self.race or ins.opcode.base != "mbarrier.try_wait":
            return over
        zero = b.constant("i32", 0)
        tried = b.compare("icmp ne", b.load("i32", 1, "%ctx", WAIT_TRIED, 4), zero)
        result = b.op("and", over, tried)
        some = b.compare("icmp ne", b.mask(result), zero)
        b.store(b.cast("zext", b.invert(some), "i32"), "%ctx", WAIT_TRIED, 4)
        return result

    def passes(self, b: Builder, address: Value, over: Value, acts: Value, passed: Value) -> Value:
        """Lanes whose access was refused must not wait."""
        self.ordering.mbarrier(b, b.vector(address), passed, "acquire")
        return b.op("or", over, b.compare("icmp eq", acts, b.constant("i32", 0)))

    # -- asynchronous copies --------------------------------------------------------------------

    def copy(
        self,
        b: Builder,
        ins: Instruction,
        to: Value,
        source: Value,
        nbytes: int,
        mask: Value,
        sizes: Value,
    ) -> Value | None:
        """Under "race" a copy is put into the warp's queue."""
        place = self._place(ins)
        whole = b.mask(b.compare("icmp uge", sizes, b.constant("i32", nbytes)))
        some = b.mask(b.compare("icmp ne", sizes, b.constant("i32", 0)))
        wanted = b.op("and", mask, whole)
        parts = b.op("and", mask, b.op("and", some, _invert(b, whole)))
        name = f"bounds_global_load_{nbytes}"
        good = _word(b.call(name, "i32", source, wanted, *place))
        # Of a shorter source the first and the last byte are tested.
        last = b.op("add", source, b.cast("zext", b.op("sub", sizes, b.constant("i32", 1)), "i64"))
        for end in (source, last):
            parts = _word(b.call("bounds_global_load_1", "i32", end, parts, *place))
        none = b.op("and", mask, _invert(b, some))
        allowed = b.op("or", b.op("or", good, parts), none)
        name = f"bounds_shared_store_{nbytes}"
        allowed = _word(b.call(name, "i32", to, allowed, *place))
        if self.init or self.race:
            kind = "copy" if self.race else "store"
            self._tags(b, ins, kind, nbytes, to, allowed)
        if not self.race:
            return allowed
        b.call(
            f"queue_{nbytes}_{self.granule}",
            "void",
            *(to, source, allowed, sizes),
            *("ptr %shared", "ptr %checks", "ptr %ctx"),
        )
        return None

    def commit(self, b: Builder) -> None:
        if self.race:
            b.call("queuecommit", "void", "ptr %checks", "ptr %ctx")

    def wait(self, b: Builder, keep: int) -> None:
        self._land(b, keep, "")
        self.ordering.waited(b)

    def land(self, b: Builder) -> None:
        self._land(b, -1, "_awaited")

    def _land(self, b: Builder, keep: int, how: str) -> None:
        if self.race:
            arguments = ("ptr %shared", "ptr %checks", "ptr %ctx")
            name = f"queuewait_{self.granule}{how}"
            b.call(name, "void", b.constant("i32", keep), *arguments)

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
        return self.transfers.bulk(b, ins, near, far, sizes, mask, inward)

    def waited_for_bulk(self, b: Builder) -> None:
        self.ordering.waited_for_bulk(b)

    def tensor_map(self, b: Builder, ins: Instruction, address: Value, mask: Value) -> Value:
        return self.transfers.tensor_map(b, ins, address, mask)

    def tensor(
        self, b: Builder, ins: Instruction, name: str, box: Box, sizes: Value, mask: Value
    ) -> Value:
        return self.transfers.tensor(b, ins, name, box, sizes, mask)

    def marks(self, ins: Instruction, inward: bool) -> tuple[str, tuple[str, ...]]:
        return self.transfers.marks(ins, inward)

    # -- orders ---------------------------------------------------------------------------------

    def releases(self, b: Builder, ins: Instruction) -> None:
        self.ordering.releases(b, ins)

    def acquires(self, b: Builder, ins: Instruction) -> None:
        self.ordering.acquires(b, ins)

    def fence(self, b: Builder, ins: Instruction) -> None:
        if {"proxy", "async"} <= ins.opcode.modifiers:
            self.ordering.fence(b)
        self.ordering.talks_by_fence(b, ins)

    def arrives(self, b: Builder, ins: Instruction, number: Operand, opens: Value) -> None:
        self.ordering.arrives(b, uniform(b, number, ins), opens)

    def opened(self, b: Builder, ins: Instruction, number: Operand, waits: Value) -> None:
        self.ordering.opened(b, uniform(b, number, ins), b.invert(waits))

    def product(self, b: Builder, ins: Instruction) -> None:
        self.ordering.product(b, ins)

    def orders_products(self, b: Builder, ins: Instruction) -> None:
        self.ordering.orders_products(b, ins)

    @staticmethod
    def _place(ins: Instruction) -> tuple[str, str, str]:
        return "ptr %checks", "ptr %ctx", f"i32 {ins.index}"


def lanes_of_rows(b: Builder, count: int) -> Value:
    """The lanes whose addresses ldmatrix and stmatrix use: eight a matrix."""
    return b.constant("i32", (1 << 8 * count) - 1 if count < 4 else -1)


def _lanes(b: Builder, mask: Value) -> Value:
    return Value(b.emit(f"bitcast {mask} to <{LANES} x i1>"), "i1", LANES)


def _word(text: str) -> Value:
    return Value(text, "i32")


def _invert(b: Builder, mask: Value) -> Value:
    return b.op("xor", mask, b.constant("i32", -1))
