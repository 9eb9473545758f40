"""LLVM IR text: values, their shapes, and operations on them.

A value is a scalar (the same in all lanes), a vector with one element a lane, or for packed
halves a vector with two elements a lane.  Operations take their shape from their operands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from .layout import LANES
from .library import Helpers

FLOAT_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64}


class Value(NamedTuple):
    """An LLVM value: its text, element type, and number of elements (1: a scalar)."""

    text: str
    type: str
    n: int = 1

    @property
    def full_type(self) -> str:
        return self.type if self.n == 1 else f"<{self.n} x {self.type}>"

    def __str__(self) -> str:
        return f"{self.full_type} {self.text}"


def bits_of(llvm_type: str) -> int:
    """Width of an element type in bits."""
    return FLOAT_BITS.get(llvm_type) or int(llvm_type[1:])


class Text:
    """Lines of IR, one after another; each operation adds some and returns its value."""

    def __init__(self, helpers: Helpers) -> None:
        self.helpers = helpers
        self.lines: list[str] = []
        self.count = 0
        self.splats: dict[tuple[Value, int], Value] = {}

    def emit(self, expression: str) -> str:
        """Add an instruction that has a result; return its name."""
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def line(self, text: str) -> None:
        """Add a line that has no result."""
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        """Begin a block."""
        self.lines.append(f"{name}:")

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """What is emitted within runs only where a condition holds."""
        self.count += 1
        name, splats = f"when{self.count}", self.splats.copy()
        self.line(f"br {condition}, label %{name}, label %{name}.on")
        self.label(name)
        yield
        self.line(f"br label %{name}.on")
        self.label(f"{name}.on")
        self.splats = splats  # values of the block are out of reach now

    def vector(self, value: Value, n: int = LANES) -> Value:
        """The value in every lane."""
        if value.n != 1:
            return value
        if (value, n) not in self.splats:
            if value.text[0] != "%":
                text = f"splat ({value.type} {value.text})"
            else:
                full = f"<{n} x {value.type}>"
                one = self.emit(f"insertelement {full} poison, {value}, i64 0")
                text = self.emit(
                    f"shufflevector {full} {one}, {full} poison, <{n} x i32> zeroinitializer"
                )
            self.splats[value, n] = Value(text, value.type, n)
        return self.splats[value, n]

    def together(self, *values: Value) -> list[Value]:
        """The values in one common shape."""
        n = max(v.n for v in values)
        return [self.vector(v, n) for v in values] if n > 1 else list(values)

    def constant(self, llvm_type: str, number: int) -> Value:
        """An integer constant."""
        return Value(str(number), llvm_type)

    def op(self, name: str, a: Value, b: Value) -> Value:
        """A binary LLVM instruction, such as "add" or "fmul"."""
        a, b = self.together(a, b)
        return Value(self.emit(f"{name} {a}, {b.text}"), a.type, a.n)

    def compare(self, name: str, a: Value, b: Value) -> Value:
        """A comparison, such as "icmp slt"; an i1."""
        a, b = self.together(a, b)
        return Value(self.emit(f"{name} {a}, {b.text}"), "i1", a.n)

    def cast(self, name: str, value: Value, llvm_type: str) -> Value:
        """A conversion, such as "zext" or "sitofp"; none where the type is right already."""
        if value.type == llvm_type:
            return value
        to = Value("", llvm_type, value.n).full_type
        return Value(self.emit(f"{name} {value} to {to}"), llvm_type, value.n)

    def bitcast(self, value: Value, llvm_type: str) -> Value:
        """The same bits as another type of the same width."""
        return self.cast("bitcast", value, llvm_type)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """a where the condition holds, else b."""
        a, b = self.together(a, b)
        if condition.n > 1:
            a, b = self.vector(a, condition.n), self.vector(b, condition.n)
        return Value(self.emit(f"select {condition}, {a}, {b}"), a.type, a.n)

    def invert(self, value: Value) -> Value:
        return self.op("xor", value, Value("true", "i1"))

    def mask(self, condition: Value | None) -> Value:
        """A condition as an i32 with one bit a lane."""
        if condition is None:
            return self.constant("i32", -1)
        if condition.n == 1:
            return self.cast("sext", condition, "i32")
        return Value(self.emit(f"bitcast {condition} to i32"), "i32")

    def intrinsic(self, name: str, *values: Value, extra: str = "") -> Value:
        """An LLVM intrinsic that is overloaded on the type of its operands, which is its result's.

        extra: further arguments, such as "i1 false".
        """
        values = tuple(self.together(*values))
        kind = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64"}
        first = values[0]
        suffix = ("" if first.n == 1 else f"v{first.n}") + kind.get(first.type, first.type)
        arguments = ", ".join([str(v) for v in values] + ([extra] if extra else []))
        types = [v.full_type for v in values] + ([extra.split()[0]] if extra else [])
        self.helpers.declare(f"{first.full_type} @{name}.{suffix}({', '.join(types)})")
        call = f"call {first.full_type} @{name}.{suffix}({arguments})"
        return Value(self.emit(call), first.type, first.n)

    def saturate(self, name: str, value: Value, llvm_type: str) -> Value:
        """Floating point to integer by "fptosi" or "fptoui": limited to the range, NaN gives 0."""
        kind = {"float": "f32", "double": "f64"}[value.type]
        lanes = "" if value.n == 1 else f"v{value.n}"
        to = Value("", llvm_type, value.n).full_type
        symbol = f"llvm.{name}.sat.{lanes}{llvm_type}.{lanes}{kind}"
        self.helpers.declare(f"{to} @{symbol}({value.full_type})")
        return Value(self.emit(f"call {to} @{symbol}({value})"), llvm_type, value.n)

    def flush(self, value: Value) -> Value:
        """A float with denormals made zero, their sign kept (.ftz)."""
        if value.type != "float":
            return value
        size = self.intrinsic("llvm.fabs", value)
        small = self.compare("fcmp olt", size, Value("0x3810000000000000", "float"))
        zero = self.intrinsic("llvm.copysign", Value("0.0", "float"), value)
        return self.select(small, zero, value)

    def call(self, name: str, result: str, *arguments: Value | str) -> str:
        """Call a 32-lane helper; return its result's name. A str argument has its type with it."""
        symbol = self.helpers.use(name)
        call = f"call {result} @{symbol}({', '.join(map(str, arguments))})"
        if result == "void":
            self.line(call)
            return ""
        return self.emit(call)

    def shuffle(self, a: Value, b: Value | None, indices: Sequence[int]) -> Value:
        """Elements of a and b (one after the other) picked by constant indices."""
        other = b.text if b is not None else "poison"
        picks = ", ".join(f"i32 {i}" for i in indices)
        n = len(indices)
        text = self.emit(f"shufflevector {a}, {a.full_type} {other}, <{n} x i32> <{picks}>")
        return Value(text, a.type, n)

    def split(self, value: Value, llvm_type: str) -> Value:
        """Each element's bits as several narrower elements, the low one first."""
        n = value.n * (bits_of(value.type) // bits_of(llvm_type))
        to = f"<{n} x {llvm_type}>"
        return Value(self.emit(f"bitcast {value} to {to}"), llvm_type, n)

    def join(self, value: Value, llvm_type: str) -> Value:
        """The inverse of `split`."""
        n = value.n * bits_of(value.type) // bits_of(llvm_type)
        to = Value("", llvm_type, n).full_type
        return Value(self.emit(f"bitcast {value} to {to}"), llvm_type, n)

    def at(self, pointer: str, offset: int) -> str:
        """A pointer `offset` bytes further."""
        return self.emit(f"getelementptr i8, ptr {pointer}, i64 {offset}") if offset else pointer

    def load(self, llvm_type: str, n: int, pointer: str, offset: int, align: int) -> Value:
        value = Value("", llvm_type, n)
        where = self.at(pointer, offset)
        text = self.emit(f"load {value.full_type}, ptr {where}, align {align}")
        return Value(text, llvm_type, n)

    def store(self, value: Value, pointer: str, offset: int, align: int) -> None:
        where = self.at(pointer, offset)
        self.line(f"store {value}, ptr {where}, align {align}")
