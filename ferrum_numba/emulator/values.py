"""LLVM IR text: values, their shapes, and operations on them.

A value is a scalar (the same in all lanes), a vector with one element a lane, or for packed
halves a vector with two elements a lane.  Operations take their shape from their operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .layout import LANES
from .library import Library

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
    """Lines of IR, one after another; each operation adds some and returns its value.

    Where an operation takes a second value, an integer stands for a constant of the first's type.
    block: the label of the block that is written.  closed: whether it has ended.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        self.lines: list[str] = []
        self.count = 0
        self.known: dict[tuple[object, ...], Value] = {}
        self.block, self.closed = "", False

    def emit(self, expression: str) -> str:
        """Add an instruction that has a result; return its name."""
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def line(self, text: str) -> None:
        """Add a line that has no result."""
        self.lines.append(f"  {text}")

    # -- control flow ---------------------------------------------------------------------------

    def fresh(self, stem: str) -> str:
        """A name for a block that no other has."""
        self.count += 1
        return f"{stem}{self.count}"

    def label(self, name: str) -> None:
        """Begin a block."""
        self.lines.append(f"{name}:")
        self.block, self.closed = name, False

    def jump(self, name: str) -> None:
        """End the block, unless it has ended."""
        if not self.closed:
            self.line(f"br label %{name}")
        self.closed = True

    def branch(self, condition: Value, yes: str, no: str) -> None:
        """End the block by going one of two ways."""
        self.line(f"br {condition}, label %{yes}, label %{no}")
        self.closed = True

    def phi(self, edges: Sequence[tuple[str, Value]]) -> Value:
        """The value that came along the edge by which the block was entered."""
        ((_, first), *_) = edges
        texts = ", ".join(f"[ {value.text}, %{block} ]" for block, value in edges)
        return Value(self.emit(f"phi {first.full_type} {texts}"), first.type, first.n)

    def when(self, condition: Value) -> When:
        """Block whose code runs only where a condition holds."""
        return When(self, condition)

    def loop(self, *start: Value) -> Loop:
        """Block whose code runs again and again; it yields the values of each turn."""
        return Loop(self, start)

    def each_lane(self, mask: Value, *start: Value) -> EachLane:
        """Block whose code runs for each lane of a mask; it yields the lane's number, and what it
        is given by the lane before."""
        return EachLane(self, mask, start)

    def once(self, function: Callable[..., Value], *arguments: object) -> Value:
        """Result of a function of this text and the arguments, written once in a block."""
        key = (function, *arguments)
        if key not in self.known:
            self.known[key] = function(self, *arguments)
        return self.known[key]

    # -- shapes ---------------------------------------------------------------------------------

    def vector(self, value: Value, n: int = LANES) -> Value:
        """The value in every lane."""
        if value.n != 1 or n == 1:
            return value
        if (value, n) not in self.known:
            if value.text[0] != "%":
                text = f"splat ({value.type} {value.text})"
            else:
                full = f"<{n} x {value.type}>"
                one = self.emit(f"insertelement {full} poison, {value}, i64 0")
                text = self.emit(
                    f"shufflevector {full} {one}, {full} poison, <{n} x i32> zeroinitializer"
                )
            self.known[value, n] = Value(text, value.type, n)
        return self.known[value, n]

    def together(self, *values: Value) -> list[Value]:
        """The values in one common shape."""
        n = max(v.n for v in values)
        return [self.vector(v, n) for v in values] if n > 1 else list(values)

    def constant(self, llvm_type: str, number: int) -> Value:
        """An integer constant."""
        return Value(str(number), llvm_type)

    def op(self, name: str, a: Value, b: Value | int) -> Value:
        """A binary LLVM instruction, such as "add" or "fmul"."""
        a, b = self.together(a, _like(a, b))
        return Value(self.emit(f"{name} {a}, {b.text}"), a.type, a.n)

    def compare(self, name: str, a: Value, b: Value | int) -> Value:
        """A comparison, such as "icmp slt"; an i1."""
        a, b = self.together(a, _like(a, b))
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

    def select(self, condition: Value, a: Value, b: Value | int) -> Value:
        """a where the condition holds, else b."""
        a, b = self.together(a, _like(a, b))
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
        self.library.declare(f"{first.full_type} @{name}.{suffix}({', '.join(types)})")
        call = f"call {first.full_type} @{name}.{suffix}({arguments})"
        return Value(self.emit(call), first.type, first.n)

    def saturate(self, name: str, value: Value, llvm_type: str) -> Value:
        """Floating point to integer by "fptosi" or "fptoui": limited to the range, NaN gives 0."""
        kind = {"float": "f32", "double": "f64"}[value.type]
        lanes = "" if value.n == 1 else f"v{value.n}"
        to = Value("", llvm_type, value.n).full_type
        symbol = f"llvm.{name}.sat.{lanes}{llvm_type}.{lanes}{kind}"
        self.library.declare(f"{to} @{symbol}({value.full_type})")
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
        """Call a function of the library; return its result's name. A str has its type with it."""
        self.library.use(name, result, map(_type_of, arguments))
        call = f"call {result} @{name}({', '.join(map(str, arguments))})"
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

    def lanes(self, mask: Value) -> Value:
        """A mask as a condition: the inverse of `mask`."""
        return Value(self.emit(f"bitcast {mask} to <{LANES} x i1>"), "i1", LANES)

    def numbers(self, llvm_type: str, numbers: Iterable[int]) -> Value:
        """A vector of integer constants."""
        items = [f"{llvm_type} {number}" for number in numbers]
        return Value(f"<{', '.join(items)}>", llvm_type, len(items))

    def iota(self, llvm_type: str, step: int = 1, n: int = LANES) -> Value:
        """0, step, 2 * step, …"""
        return self.numbers(llvm_type, (i * step for i in range(n)))

    def reduce(self, name: str, value: Value) -> Value:
        """All elements of a vector as one, by an operation such as "or" or "smin"."""
        symbol = f"@llvm.vector.reduce.{name}.v{value.n}{value.type}"
        self.library.declare(f"{value.type} {symbol}({value.full_type})")
        return Value(self.emit(f"call {value.type} {symbol}({value})"), value.type)

    def joined(self, parts: Sequence[Value]) -> Value:
        """Vectors of one shape as one, the first lowest; there are a power of two."""
        while len(parts) > 1:
            n = 2 * parts[0].n
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [self.shuffle(x, y, range(n)) for x, y in pairs]
        return parts[0]

    def element(self, value: Value, index: int) -> Value:
        """One element of a vector."""
        return Value(self.emit(f"extractelement {value}, i64 {index}"), value.type)

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

    # -- memory ---------------------------------------------------------------------------------

    def at(self, pointer: str | Value, offset: int) -> str:
        """A pointer `offset` bytes further."""
        pointer = pointer if isinstance(pointer, str) else pointer.text
        return self.emit(f"getelementptr i8, ptr {pointer}, i64 {offset}") if offset else pointer

    def item(self, llvm_type: str, pointer: str | Value, index: Value) -> Value:
        """A pointer to an element of an array; of each lane, where the index is a vector."""
        pointer = pointer if isinstance(pointer, str) else pointer.text
        place = self.emit(f"getelementptr {llvm_type}, ptr {pointer}, {index}")
        return Value(place, "ptr", index.n)

    def load(self, llvm_type: str, n: int, pointer: str | Value, offset: int, align: int) -> Value:
        value = Value("", llvm_type, n)
        where = self.at(pointer, offset)
        text = self.emit(f"load {value.full_type}, ptr {where}, align {align}")
        return Value(text, llvm_type, n)

    def store(self, value: Value, pointer: str | Value, offset: int, align: int) -> None:
        where = self.at(pointer, offset)
        self.line(f"store {value}, ptr {where}, align {align}")

    def pointer(self, address: Value) -> Value:
        """Addresses of the host as pointers."""
        to = "ptr" if address.n == 1 else f"<{address.n} x ptr>"
        return Value(self.emit(f"inttoptr {address} to {to}"), "ptr", address.n)

    def masked_load(self, place: Value, lanes: Value, old: Value) -> Value:
        """Load from a place on, in the lanes of a condition."""
        symbol = f"@llvm.masked.load.v{old.n}{old.type}.p0"
        self.library.declare(f"{old.full_type} {symbol}(ptr, i32, <{old.n} x i1>, {old.full_type})")
        call = f"call {old.full_type} {symbol}({place}, i32 1, {lanes}, {old})"
        return Value(self.emit(call), old.type, old.n)

    def masked_store(self, value: Value, place: Value, lanes: Value) -> None:
        """Store from a place on, of the lanes of a condition."""
        symbol = f"@llvm.masked.store.v{value.n}{value.type}.p0"
        self.library.declare(f"void {symbol}({value.full_type}, ptr, i32, <{value.n} x i1>)")
        self.line(f"call void {symbol}({value}, {place}, i32 1, {lanes})")

    def copy_bytes(self, to: Value, source: Value, nbytes: Value) -> None:
        self.library.declare("void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        self.line(f"call void @llvm.memcpy.p0.p0.i64({to}, {source}, {nbytes}, i1 false)")

    def clear_bytes(self, place: Value, nbytes: Value, byte: int = 0) -> None:
        """Set bytes to zero, or to another number."""
        self.library.declare("void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        self.line(f"call void @llvm.memset.p0.i64({place}, i8 {byte}, {nbytes}, i1 false)")

    def gather(self, llvm_type: str, places: Value, lanes: Value, old: Value, align: int) -> Value:
        """Load from each lane's place, where a condition holds."""
        lanes, old = self.vector(lanes, places.n), self.vector(old, places.n)
        symbol = f"@llvm.masked.gather.v{places.n}{llvm_type}.v{places.n}p0"
        kinds = f"<{places.n} x ptr>, i32, <{places.n} x i1>, {old.full_type}"
        self.library.declare(f"{old.full_type} {symbol}({kinds})")
        call = f"call {old.full_type} {symbol}({places}, i32 {align}, {lanes}, {old})"
        return Value(self.emit(call), llvm_type, places.n)

    def scatter(self, value: Value, places: Value, lanes: Value, align: int) -> None:
        """Store to each lane's place, where a condition holds."""
        symbol = f"@llvm.masked.scatter.v{places.n}{value.type}.v{places.n}p0"
        kinds = f"<{places.n} x ptr>, i32, <{places.n} x i1>"
        self.library.declare(f"void {symbol}({value.full_type}, {kinds})")
        self.line(f"call void {symbol}({value}, {places}, i32 {align}, {lanes})")


class When:
    """A block that is run only where a condition holds."""

    def __init__(self, text: Text, condition: Value) -> None:
        self._text, self._condition = text, condition
        self._given: tuple[str, Value] | None = None

    def __enter__(self) -> When:
        text = self._text
        self._name, self._known, self._before = text.fresh("when"), text.known.copy(), text.block
        text.branch(self._condition, self._name, f"{self._name}.on")
        text.label(self._name)
        return self

    def give(self, value: Value) -> None:
        """Set what `otherwise` returns where the condition holds; comes last in the block."""
        self._given = self._text.block, value

    def __exit__(self, *_: object) -> None:
        self._text.jump(f"{self._name}.on")
        self._text.label(f"{self._name}.on")
        self._text.known = self._known  # values of the block are out of reach now

    def otherwise(self, value: Value) -> Value:
        """Value given where the condition held, else another; comes right behind the block."""
        assert self._given is not None
        return self._text.phi([self._given, (self._before, value)])


class Loop:
    """A loop. results: what `leave` and `stop` were given, once it is over."""

    results: list[Value]

    def __init__(self, text: Text, start: Sequence[Value]) -> None:
        self._text, self._start = text, start
        self._turns: list[tuple[str, Sequence[Value]]] = []
        self._ends: list[tuple[str, Sequence[Value]]] = []

    def __enter__(self) -> list[Value]:
        text = self._text
        self._head, self._known = text.fresh("loop"), text.known.copy()
        self._turns.append((text.block, self._start))
        text.jump(self._head)
        text.label(self._head)
        self._place = len(text.lines)
        names = [text.emit("") for _ in self._start]  # phis, once all edges are known
        self._values = [
            Value(name, value.type, value.n) for name, value in zip(names, self._start, strict=True)
        ]
        return self._values

    def leave(self, condition: Value, *results: Value) -> None:
        """Leave the loop where a condition holds."""
        on = self._text.fresh("on")
        self._ends.append((self._text.block, results))
        self._text.branch(condition, f"{self._head}.over", on)
        self._text.label(on)

    def stop(self, *results: Value) -> None:
        """Be over here."""
        self._ends.append((self._text.block, results))
        self._text.jump(f"{self._head}.over")

    def again(self, *values: Value) -> None:
        """Begin the next turn."""
        self._turns.append((self._text.block, values))
        self._text.jump(self._head)

    def again_if(self, condition: Value, *values: Value) -> None:
        """Begin the next turn where a condition holds, else be over."""
        self._turns.append((self._text.block, values))
        self._ends.append((self._text.block, values))
        self._text.branch(condition, self._head, f"{self._head}.over")

    def __exit__(self, *_: object) -> None:
        text = self._text
        for i, value in enumerate(self._values):
            edges = ", ".join(f"[ {given[i].text}, %{block} ]" for block, given in self._turns)
            text.lines[self._place + i] = f"  {value.text} = phi {value.full_type} {edges}"
        text.label(f"{self._head}.over")
        text.known = self._known
        count = len(self._ends[0][1]) if self._ends else 0
        self.results = [
            text.phi([(block, given[i]) for block, given in self._ends]) for i in range(count)
        ]


class EachLane:
    """A loop over the lanes of a mask, the lowest first."""

    def __init__(self, text: Text, mask: Value, start: Sequence[Value]) -> None:
        self._text, self._mask, self._start = text, mask, start
        self._nexts: list[tuple[str, Sequence[Value]]] = []

    def __enter__(self) -> list[Value]:
        text = self._text
        none = text.compare("icmp eq", self._mask, 0)
        self._before, self._known = text.block, text.known.copy()
        self._name = text.fresh("lanes")
        text.branch(none, f"{self._name}.over", self._name)
        text.label(self._name)
        self._loop = Loop(text, (self._mask, *self._start))
        self._left, *values = self._loop.__enter__()
        self._kept = values
        return [text.intrinsic("llvm.cttz", self._left, extra="i1 true"), *values]

    def next(self, *values: Value) -> None:
        """Go on with the next lane."""
        self._nexts.append((self._text.block, values))
        self._text.jump(f"{self._name}.next")

    def next_if(self, condition: Value, *values: Value) -> None:
        """Go on with the next lane where a condition holds."""
        on = self._text.fresh("on")
        self._nexts.append((self._text.block, values))
        self._text.branch(condition, f"{self._name}.next", on)
        self._text.label(on)

    def __exit__(self, *_: object) -> None:
        text = self._text
        if not text.closed:
            self.next(*self._kept)
        text.label(f"{self._name}.next")
        values = [
            text.phi([(block, given[i]) for block, given in self._nexts])
            for i in range(len(self._start))
        ]
        rest = text.op("and", self._left, text.op("add", self._left, -1))
        self._loop.again_if(text.compare("icmp ne", rest, 0), rest, *values)
        self._loop.__exit__()
        after = text.block
        text.jump(f"{self._name}.over")
        text.label(f"{self._name}.over")
        text.known = self._known
        self.results = [
            text.phi([(self._before, old), (after, new)])
            for old, new in zip(self._start, self._loop.results[1:], strict=True)
        ]


def _type_of(argument: Value | str) -> str:
    """The type of an argument, which begins its text."""
    if isinstance(argument, Value):
        return argument.full_type
    return f"{argument.partition('>')[0]}>" if argument[0] == "<" else argument.partition(" ")[0]


def _like(value: Value, other: Value | int) -> Value:
    """An operand beside another; an integer as a constant of its type."""
    return Value(str(other), value.type) if isinstance(other, int) else other
