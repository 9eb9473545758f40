"""LLVM IR text for the blocks of one entry: operands as values, and where registers live."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from . import table
from .flow import Flow
from .hooks import Hooks
from .layout import CLOCK_STEP, DONE, LANES, NEXT, WARP, Layout, state_offset
from .library import Library
from .ptx import (
    Address,
    Array,
    Group,
    Immediate,
    Instruction,
    Local,
    Negated,
    Operand,
    Register,
    Special,
    Symbol,
)
from .values import Text, Value, bits_of

Place = tuple[str, int]
"""A pointer, and an offset in bytes."""
_ALL_LANES = ("-1", "4294967295")


class Sum(NamedTuple):
    """A sum of halves: the operation and its operands; name and line of the call that makes it.

    behind: the instructions of the block that follow it.
    """

    name: str
    values: list[Value]
    text: str
    line: int
    behind: Sequence[Instruction]


_SINGLE = {"%gridid": 0, "%nsmid": 1}


class Builder(Text):
    """Writes the IR of one block after another. Lowering functions call its methods."""

    def __init__(
        self,
        flow: Flow,
        layout: Layout,
        shared: dict[str, int],
        params: dict[str, tuple[int, int]],
        library: Library,
        hooks: Hooks[Builder] | None = None,
    ) -> None:
        """shared: offsets of shared arrays; params: (offset, size) of parameters; in bytes.

        hooks: what is emitted besides, where checks are on.
        """
        super().__init__(library)
        self.flow = flow
        self.layout = layout
        self.shared = shared
        self.params = params
        self.hooks = hooks or Hooks()
        self.arrays: dict[str, Array] = {}  # those of the module
        self.own_functions: list[str] = []  # that functions of the library call
        self.static_shared = 0  # bytes before the dynamic shared memory
        self.scratch_bytes = 64
        self.active: Value | None = None
        self.begin_block()

    # -- blocks ---------------------------------------------------------------------------------

    def begin_block(self) -> None:
        """Forget all values: those of another block are out of reach."""
        self.views: dict[Register, dict[str, Value]] = {}
        self.places: dict[Register, Place] = {}  # of those that were written to memory
        self.known = {}
        self.prepared: dict[tuple[object, ...], str] = {}
        self.sums: dict[Value, Sum] = {}
        self.written: set[Register] = set()
        self.scratch_used = 0
        self.upcoming: Sequence[Instruction] = ()
        self.read_later: set[Register] = set()  # behind the block
        self.lowered: set[Instruction] = set()
        self.reads: dict[Instruction, frozenset[Register]] = {}
        self.waits: Value | None = None  # whether the warp waits in vain at the block's end

    def scratch(self, nbytes: int) -> str:
        """A piece of the function's stack, 64-byte aligned, that this block alone uses."""
        offset = self.scratch_used
        self.scratch_used += -(-nbytes // 64) * 64
        self.scratch_bytes = max(self.scratch_bytes, self.scratch_used)
        return self.emit(f"getelementptr i8, ptr %scratch, i64 {offset}")

    # -- operands -------------------------------------------------------------------------------

    def integer(self, operand: Operand | None, bits: int, ins: Instruction) -> Value:
        """An operand as i<bits>; a wider register gives its low bits, as PTX has it."""
        llvm_type = f"i{bits}"
        if isinstance(operand, Register):
            if operand.bits < bits or operand.bits == 1:
                raise ins.refuse(
                    f"{operand.name} is .{operand.ptx_type}, the instruction wants {bits} bits"
                )
            value = self.read(operand, f"i{operand.bits}")
            return self.cast("trunc", value, llvm_type)
        if isinstance(operand, Immediate):
            if operand.width not in (None, bits if ins.opcode.type.startswith("b") else None):
                raise ins.refuse("cannot take a floating-point literal as an integer")
            if not -(1 << 63) <= operand.bits < 1 << 64:
                raise ins.refuse(f"{operand.bits} does not fit in 64 bits")
            return self.constant(llvm_type, operand.bits & ((1 << bits) - 1))
        if isinstance(operand, Special):
            value = self.special(operand, ins)
            return self.cast("trunc" if bits < bits_of(value.type) else "zext", value, llvm_type)
        if isinstance(operand, Symbol) and operand.name in self.shared:
            return self.constant(llvm_type, self.shared[operand.name])
        if isinstance(operand, Symbol) and operand.name in self.arrays and bits == 64:
            return Value(self.emit(f'ptrtoint ptr @"array.{operand.name}" to i64'), "i64")
        if isinstance(operand, Symbol) and operand.name in self.params and bits == 64:
            return self.op("add", self.params_start(), self.params[operand.name][0])
        if isinstance(operand, Local):
            return self.constant(llvm_type, operand.offset)
        raise ins.refuse(f"cannot take {_text(operand)} as an integer")

    def params_start(self) -> Value:
        """Address of the parameter block, as i64."""
        return Value(self.emit("ptrtoint ptr %params to i64"), "i64")

    def local_memory(self) -> Value:
        """Start of local memory, for each lane its own, as i64."""
        first = Value(self.emit("ptrtoint ptr %ctx to i64"), "i64")
        start, step = self.layout.local, self.layout.local_bytes
        offsets = self.numbers("i64", (start + lane * step for lane in range(LANES)))
        return self.op("add", self.vector(first), offsets)

    def real(self, operand: Operand | None, llvm_type: str, ins: Instruction) -> Value:
        """An operand as half, bfloat, float or double."""
        bits = bits_of(llvm_type)
        if isinstance(operand, Register) and operand.bits == bits:
            return self.read(operand, llvm_type)
        if isinstance(operand, Immediate):
            if operand.width is None and bits == 16:
                return Value(_constant(operand.bits & 0xFFFF, llvm_type), llvm_type)
            if operand.width == bits:
                return Value(_constant(operand.bits, llvm_type), llvm_type)
        raise ins.refuse(f"cannot take {_text(operand)} as {bits}-bit floating point")

    def packed(self, operands: Sequence[Operand], llvm_type: str, ins: Instruction) -> list[Value]:
        """32-bit operands as pairs of 16-bit elements, in one common shape."""
        values = [self.integer(operand, 32, ins) for operand in operands]
        values = self.together(*values)
        if llvm_type == "bfloat":
            return [self.split(value, llvm_type) for value in values]
        return [self.once(Text.split, value, llvm_type) for value in values]

    def predicate(self, operand: Operand | None, ins: Instruction) -> Value:
        """A predicate operand as i1."""
        if isinstance(operand, Negated):
            return self.invert(self.predicate(operand.register, ins))
        if isinstance(operand, Immediate):
            return Value("true" if operand.bits else "false", "i1")
        if isinstance(operand, Register) and operand.bits == 1:
            return self.read(operand, "i1")
        raise ins.refuse(f"{_text(operand)} is no predicate")

    def is_read_beside(
        self, ins: Instruction, register: Register, behind: Sequence[Instruction]
    ) -> bool:
        """True if this instruction is not the only one to read what was just written to a register.

        behind: the instructions of the block that follow the one that wrote it.
        """
        between = behind[: len(behind) - len(self.upcoming) - 1]
        if any(register in self._read_by(other) for other in between):
            return True
        if register in table.written(ins):
            return False
        for other in self.upcoming:
            if register in self._read_by(other):
                return True
            if register in table.written(other):
                return False
        return register in self.read_later

    def _read_by(self, ins: Instruction) -> frozenset[Register]:
        """The registers that an instruction of this block reads, looked up once."""
        if ins not in self.reads:
            self.reads[ins] = frozenset(table.read(ins))
        return self.reads[ins]

    def special(self, operand: Special, ins: Instruction) -> Value:
        """A special register, as i32; a clock of 64 bits as i64."""
        name = operand.name
        if name == "%smid":  # not a GPU: one multiprocessor
            return self.constant("i32", 0)
        if name.startswith(("%clock", "%globaltimer")):
            return self.clock(name)
        if name in ("%envreg1", "%envreg2"):  # where cooperative groups keep the grid's barrier
            at = state_offset("workspace") + (4 if name == "%envreg1" else 0)
            return self.load("i32", 1, "%state", at, 4)
        if name in _SINGLE:
            return self.constant("i32", _SINGLE[name])
        if name.startswith("%lanemask_"):
            return self.lane_masks(name)
        if name.startswith(("%clusterid", "%nclusterid")):
            axis = name[-2:]
            of = "%ctaid" if name[1] == "c" else "%nctaid"
            ctas, its = (self.special(Special(n + axis), ins) for n in (of, "%cluster_nctaid"))
            return self.op("udiv", ctas, its)
        field = self.layout.special(name)
        if field is not None:
            base, offset, n = field
            return self.load("i32", n, base, offset, 64 if n > 1 else 4)
        if name == "%laneid":
            return self.iota("i32")
        raise ins.refuse(f"the CPU device does not have the special register {name}")

    def clock(self, name: str) -> Value:
        """The CTA's time in ns, by a clock of 1 GHz that each look at it advances."""
        place = state_offset("clock")
        now = self.op("add", self.load("i64", 1, "%state", place, 8), CLOCK_STEP)
        self.store(now, "%state", place, 8)
        if name in ("%clock64", "%globaltimer"):
            return now
        if name.endswith("_hi"):
            now = self.op("lshr", now, 32)
        return self.cast("trunc", now, "i32")

    def lane_masks(self, name: str) -> Value:
        """%lanemask_eq, _lt, _le, _gt, _ge: which lanes are this one, before it, …"""
        before = {"eq": 0, "lt": 1, "le": 1, "gt": 0, "ge": 0}[name[10:]]
        after = name[10] == "g"
        words = []
        for lane in range(LANES):
            word = (1 << lane) - 1 if before else -1 << lane + 1 if after else 0
            own = 1 << lane if name.endswith(("e", "q")) else 0
            words.append((word | own) & 0xFFFFFFFF)
        return self.numbers("i32", words)

    # -- registers ------------------------------------------------------------------------------

    def read(self, register: Register, llvm_type: str) -> Value:
        """A register's value as a type of its width."""
        if llvm_type == "bfloat":  # LLVM converts those that cross blocks, by functions of C
            return self.bitcast(self.read(register, "i16"), llvm_type)
        views = self.views.setdefault(register, {})
        if llvm_type not in views:
            if views:
                views[llvm_type] = self.bitcast(next(iter(views.values())), llvm_type)
            else:
                views[llvm_type] = self._load(register, llvm_type)
        return views[llvm_type]

    def _load(self, register: Register, llvm_type: str) -> Value:
        if register in self.places:
            return self.load(llvm_type, LANES, *self.places[register], 64)
        return self.load_register(register, llvm_type)

    def load_register(self, register: Register, llvm_type: str) -> Value:
        """A register from its home in the warp's context."""
        varying = register in self.flow.varying
        offset = self.layout.home(register)
        if offset is None:  # never written before: zero, as is all of a new context
            zero = {"i1": "false"}.get(llvm_type, "0" if llvm_type[0] == "i" else "0.0")
            value = Value(zero, llvm_type)
            return self.vector(value) if varying else value
        if llvm_type != "i1":
            lanes, align = (LANES, 64) if varying else (1, 8)
            return self.load(llvm_type, lanes, "%ctx", offset, align)
        if varying:
            mask = self.load("i32", 1, "%ctx", offset, 4)
            return self.lanes(mask)
        return self.cast("trunc", self.load("i8", 1, "%ctx", offset, 1), "i1")

    def write(self, operand: Operand | None, value: Value, ins: Instruction) -> None:
        """Write a value to a destination; where a guard fails, the old value stays."""
        if operand is None:
            return
        if not isinstance(operand, Register):
            raise ins.refuse(f"{_text(operand)} is no destination")
        if value.n > LANES or (value.n > 1 and operand not in self.flow.varying):
            value = self.join(value, f"i{operand.bits}")
        if bits_of(value.type) != operand.bits:
            raise ins.refuse(
                f"{operand.name} is .{operand.ptx_type}, the result has {bits_of(value.type)} bits"
            )
        if value.type == "bfloat":
            value = self.bitcast(value, "i16")
        if operand in self.flow.varying:
            value = self.vector(value)
        if ins.guard is not None:
            old = self.read(operand, value.type)
            value = self.select(self.guard_of(ins), value, old)
        self.views[operand] = {value.type: value}
        self.places.pop(operand, None)
        self.written.add(operand)

    def write_wide(self, operand: Operand | None, value: Value, ins: Instruction) -> None:
        """Write an integer that may be narrower than the register (ld, cvt): zero-extended."""
        if isinstance(operand, Register) and operand.bits > bits_of(value.type):
            value = self.cast("zext", value, f"i{operand.bits}")
        self.write(operand, value, ins)

    # Fragments: registers of 32 bits a lane, 128 bytes each, that lie one behind the other.

    def held(self, registers: Sequence[Operand | None]) -> Place | None:
        """Place in memory that holds a fragment as it is now; None where there is none."""
        return _in_a_row(
            [self.places.get(r) if r in self.written else self._home(r) for r in registers]
        )

    def held_apart(self, registers: Sequence[Operand | None]) -> list[Value]:
        """Addresses of registers that are in memory alone; none, unless all of them are."""
        known = [r for r in registers if isinstance(r, Register) and not self.views.get(r)]
        found = [self.places.get(r) if r in self.written else self._home(r) for r in known]
        places = [place for place in found if place]
        return [
            self.once(Builder._place, *place) for place in places if len(places) == len(registers)
        ]

    def _place(self, pointer: str, offset: int) -> Value:
        return Value(self.at(pointer, offset), "ptr")

    def takes_fragment(self, ins: Instruction, registers: Sequence[Operand | None]) -> bool:
        """True if all lanes write a fragment whole."""
        known = [r for r in registers if isinstance(r, Register)]
        whole = all(r in self.flow.varying and r.bits == 32 for r in known)
        return whole and ins.guard is None and self.active is None

    def room_for(self, registers: Sequence[Operand | None]) -> Place:
        """Place that a fragment may be written to at once."""
        homes = _in_a_row([self._home(r) for r in registers]) if self.active is None else None
        return homes or (self.scratch(128 * len(registers)), 0)

    def _home(self, register: Operand | None) -> Place | None:
        if not isinstance(register, Register) or register not in self.flow.varying:
            return None
        offset = self.layout.home(register) if register.bits == 32 else None
        return None if offset is None else ("%ctx", offset)

    def hold(self, registers: Sequence[Operand | None], place: Place) -> None:
        """Take the fragment at a place for what is written to its registers."""
        pointer, start = place
        for i, register in enumerate(registers):
            if isinstance(register, Register):
                self.views[register] = {}
                self.places[register] = pointer, start + 128 * i
                self.written.add(register)

    def guard_of(self, ins: Instruction) -> Value:
        """The guard alone, as i1."""
        assert ins.guard is not None
        value = self.read(ins.guard, "i1")
        return self.invert(value) if ins.guard_negated else value

    def condition(self, ins: Instruction) -> Value | None:
        """Lanes in which an instruction acts: guard and active lanes; None for all."""
        if ins.guard is None:
            return self.active
        guard = self.guard_of(ins)
        return guard if self.active is None else self.op("and", guard, self.active)

    def stop(self, ins: Instruction, lanes: Value) -> None:
        """The launch ends in an error at this instruction, where a mask has any lanes."""
        zero = self.constant("i32", 0)
        old = self.load("i32", 1, "%state", state_offset("fault"), 4)
        first = self.compare("icmp eq", old, zero)  # what comes later may follow from it
        fault = self.op("and", self.compare("icmp ne", lanes, zero), first)
        number = self.select(fault, self.constant("i32", ins.index + 1), old)
        self.store(number, "%state", state_offset("fault"), 4)
        for field, kind, own in (("cta", "i64", "%state"), ("warp", "i32", "%ctx")):
            place = state_offset(f"fault_{field}")
            own_place = state_offset(field) if own == "%state" else WARP
            width = 8 if kind == "i64" else 4
            known = self.load(kind, 1, "%state", place, width)
            who = self.select(fault, self.load(kind, 1, own, own_place, width), known)
            self.store(who, "%state", place, width)

    def polls(self, ins: Instruction, address: Value, condition: Value | None) -> None:
        """Note what is read that others may write meanwhile, of the first lane that reads."""
        mask = self.mask(condition)
        lane = self.op("and", self.intrinsic("llvm.cttz", mask, extra="i1 false"), LANES - 1)
        place = Value(self.emit(f"extractelement {self.vector(address)}, {lane}"), address.type)
        acts = self.compare("icmp ne", mask, 0)
        for field, value, align in (
            ("polled", place, 8),
            ("poll", self.constant("i32", ins.index + 1), 4),
        ):
            at = state_offset(field)
            old = self.load(value.type, 1, "%state", at, align)
            self.store(self.select(acts, value, old), "%state", at, align)

    def require_lanes(self, ins: Instruction, members: Value | None = None) -> None:
        """Report a fault unless just those lanes that must take part (None: all) are here.

        Where lanes went different ways they may come to this instruction one after another; lanes
        that have ended are not waited for.  Each lane names the members, itself among them.
        """
        condition = self.condition(ins)
        if condition is None and (members is None or members.text in _ALL_LANES):
            return
        here = self.mask(condition)
        wrong = self.op("xor", here, -1)
        if self.active is not None:
            following = self.load("i32", LANES, "%ctx", NEXT, 64)
            unfinished = self.mask(self.compare("icmp ne", following, DONE))
            wrong = self.op("and", wrong, unfinished)
        if members is not None:
            named, acts = self.vector(members), self.lanes(here)
            own = self.op("shl", self.vector(self.constant("i32", 1)), self.iota("i32"))
            unnamed = self.compare("icmp eq", self.op("and", named, own), 0)
            wrong = self.op("and", wrong, self.reduce("or", self.select(acts, named, 0)))
            wrong = self.op("or", wrong, self.op("and", self.mask(unnamed), here))
        else:
            wrong = self.select(self.compare("icmp eq", here, 0), self.constant("i32", 0), wrong)
        self.stop(ins, wrong)


def _in_a_row(places: Sequence[Place | None]) -> Place | None:
    """The first of places that lie 128 bytes apart, if they do."""
    first = places[0]
    if first is None or any(p != (first[0], first[1] + 128 * i) for i, p in enumerate(places)):
        return None
    return first


def _text(operand: object) -> str:
    if isinstance(operand, Register | Symbol | Special | Local):
        return operand.name
    if isinstance(operand, Immediate):
        return f"the literal {operand.bits}"
    kinds = {Group: "a {…} group", Address: "an address", Negated: "a negated predicate"}
    return kinds.get(type(operand), "nothing")


def _constant(bits: int, llvm_type: str) -> str:
    """A floating-point constant in LLVM's spelling, from its bit pattern."""
    if llvm_type == "half":
        return f"0xH{bits:04X}"
    if llvm_type == "bfloat":
        return f"0xR{bits:04X}"
    if llvm_type == "float":
        return f"0x{_widen(bits):016X}"
    return f"0x{bits:016X}"


def _widen(bits: int) -> int:
    """The binary64 pattern of a binary32 pattern; NaN payloads are kept."""
    if bits & 0x7F800000 == 0x7F800000:
        return (bits >> 31) << 63 | 0x7FF << 52 | (bits & 0x7FFFFF) << 29
    number = struct.unpack("<f", struct.pack("<I", bits))[0]
    return int.from_bytes(struct.pack("<d", number), "little")
