"""PTX text -> the body of one entry. Anything that it cannot read is a PtxError.

Source: PTX ISA, "Syntax" and "Directives".
"""

from __future__ import annotations

import bisect
import re
import struct
from collections.abc import Callable

from ..errors import PtxError
from .calls import (
    ASSERTION,
    MOST_STATEMENTS,
    Call,
    Function,
    find_functions,
    in_place,
    read_call,
    without_bodies,
)
from .ptx import (
    Address,
    Array,
    Body,
    Box,
    Group,
    Immediate,
    Instruction,
    Local,
    Negated,
    Operand,
    Register,
    Special,
    Symbol,
    read_opcode,
    refuse,
)
from .scope import Scope

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"[^\"\n]*\"", re.DOTALL)
_ENTRY = r"\.entry\s+{name}(?![\w$])(?:\s*\([^)]*\))?[^{{;]*\{{"
_VARIABLE = re.compile(
    r"\s*(?:\.(?:visible|extern|weak)\s+)*\.(?P<space>shared|local|global|const|param)\s+"
    r"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>[busf](?:8|16|32|64))\s+(?P<name>[\w$%]+)\s*"
    r"(?P<dims>(?:\[\s*\d*\s*\]\s*)*)\s*(?:=(?P<content>[^=]*))?$"
)
_CONSTANT = re.compile(r"^[^\S\n]*(?:\.(?:visible|extern|weak)\s+)*\.(?:global|const)\s[^;]*", re.M)
_SHARED = re.compile(r"^[^\S\n]*(?:\.(?:visible|extern|weak|common)\s+)*\.shared\s[^;{]*", re.M)
_FILE = re.compile(r"^[^\S\n]*\.file\s+(\d+)\s+\"([^\"\n]*)\"", re.M)
_REG = re.compile(r"\.reg\s*\.(?P<type>\w+)\s+(?P<names>.+)", re.DOTALL)
_REG_NAME = re.compile(r"(?P<name>[\w$%]+)\s*(?:<\s*(?P<count>\d+)\s*>)?")
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+\d+[^\n;]*")
_LABEL = re.compile(r"([A-Za-z_$%.][\w$.]*)\s*:(?!:)")
_STATEMENT = re.compile(r"[^;]*;")
_SPACE = re.compile(r"\s+")
_INSTRUCTION = re.compile(
    r"(?:@\s*(?P<neg>!)?\s*(?P<guard>[\w$%]+)\s+)?(?P<op>[a-z][\w.:]*)(?P<rest>.*)", re.DOTALL
)
_OPERANDS = re.compile(r"\s*(\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+?)\s*(?:,|$)")
_INTEGER = re.compile(r"([-+]?)\s*(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
_TERM = re.compile(r"\s*([-+])\s*(-?\s*\w+)\s*")
_FLOAT = re.compile(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})")
_DECIMAL = re.compile(r"[-+]?\d+\.\d*(?:[eE][-+]?\d+)?")  # of type .f64, as the ISA has it
_ADDRESS = re.compile(r"\[\s*(?P<base>[\w$%.]+)\s*(?P<offset>[-+].*)?\]", re.DOTALL)
_BOX = re.compile(r"\[(?P<map>[^,{}]*),\s*(?P<coordinates>\{[^{}]*\})\s*\]", re.DOTALL)
_SPECIAL = re.compile(
    r"%(?:(?:tid|ntid|ctaid|nctaid|cluster_ctaid|cluster_nctaid|clusterid|nclusterid)\.[xyz]"
    r"|laneid|warpid|nwarpid|smid|nsmid|clock|clock64|clock_hi|globaltimer|lanemask_\w+"
    r"|cluster_ctarank|cluster_nctarank|dynamic_smem_size|total_smem_size|gridid)"
)


def parse_entry(text: str, entry: str) -> Body:
    """Read the body of `entry` from PTX text."""
    files = {int(number): name for number, name in _FILE.findall(text)}
    text = _COMMENT.sub(_blank, text)
    match = re.search(_ENTRY.format(name=re.escape(entry)), text)
    if match is None:
        raise PtxError(f"entry {entry!r}: its body is not in the PTX")
    parser = _Parser(text)
    parser.body.files = files
    parser.functions = find_functions(text)
    head = without_bodies(text[: match.start()])
    for declaration in _SHARED.finditer(head):
        parser.declare_shared(declaration[0], declaration.start())
    parser.module_arrays = {
        name: (found[0], found.start())
        for found in _CONSTANT.finditer(head)
        for name in re.findall(r"[\w$]+", found[0].partition("=")[0])
    }
    parser.read_body(match.end())
    parser.place_dynamic_shared()
    return parser.body


def _blank(match: re.Match[str]) -> str:
    # Strings (paths in .file, .pragma arguments) go too; line numbers must stay what they are.
    return "\n" * match[0].count("\n") if match[0].startswith("/*") else ""


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.newlines = [m.start() for m in re.finditer("\n", text)]
        self.body = Body()
        self.dynamic: list[str] = []
        self.module_arrays: dict[str, tuple[str, int]] = {}
        self.carry = Register("CC.CF", "pred")
        self.locals: dict[str, Local] = {}
        self.functions: dict[str, Function | None] = {}
        self.calls: list[tuple[str, str]] = []  # that are being read: name, label behind it
        self.scope = Scope(None)
        self.openings: list[int] = []
        self.unique: set[str] = set()  # labels that no other can be taken for
        self.cache: dict[str, Operand] = {}

    def line_of(self, position: int) -> int:
        return bisect.bisect_left(self.newlines, position) + 1

    def read_body(self, position: int) -> None:
        """Read statements up to the brace that closes the entry."""
        text, depth = self.text, 1
        loc: tuple[int, int] | None = None
        while depth:
            if space := _SPACE.match(text, position):
                position = space.end()
            start = text[position : position + 1]
            if start in ("{", "}"):
                depth += 1 if start == "{" else -1
                parent = self.scope.parent
                self.scope = Scope(self.scope) if start == "{" else parent or self.scope
                if start == "{":
                    self.openings.append(len(self.body.statements))
                elif self.openings:
                    self.close_labels(self.openings.pop())
                self.cache = {}
                position += 1
            elif match := _LOC.match(text, position):
                loc, position = (int(match[1]), int(match[2])), match.end()
            elif match := _LABEL.match(text, position):
                self.body.statements.append(match[1])
                position = match.end()
            elif match := _STATEMENT.match(text, position):
                self.read_statement(match[0][:-1], position, loc)
                position = match.end()
            else:
                last = text[position:].strip().splitlines() or [text.rstrip().splitlines()[-1]]
                raise refuse(
                    self.line_of(len(text.rstrip())), last[0], "the text ends inside the entry"
                )

    def read_statement(self, text: str, position: int, loc: tuple[int, int] | None) -> None:
        if text.startswith(".reg"):
            self.declare_registers(text, position)
        elif re.match(r"(?:\.extern\s+)?\.shared", text):
            self.declare_shared(text, position)
        elif text.startswith((".local", ".param")):
            self.declare_local(text, position)
        elif re.match(r"(?:@[^;]*\s)?call[.\s]", text):
            self.read_call(text, position, loc)
        elif text.startswith(".pragma") or not text:
            return
        else:
            label = self.calls[-1][1] if self.calls else None
            self.body.statements.append(in_place(self.read_instruction(text, position, loc), label))

    def read_call(self, text: str, position: int, loc: tuple[int, int] | None) -> None:
        """Read the body of the function here."""
        call, statements = read_call(text), self.body.statements

        def refusal(problem: str) -> PtxError:
            return refuse(self.line_of(position), text, f"call: {problem}")

        if call is None:
            raise refusal("the CPU device calls functions by name only")
        label = f"return.{len(statements)}"
        self.unique.add(label)
        if call.guard is not None:
            way = call.guard[1:] if call.guard[0] == "!" else f"!{call.guard}"
            statements.append(self.read_instruction(f"@{way} bra {label}", position, loc))
        function = self.functions.get(call.name)
        if function is not None:
            self.pass_names(call, function, refusal)
            if call.name in (name for name, _ in self.calls):
                raise refusal(f"{call.name} calls itself, which the CPU device does not have")
            if len(statements) > MOST_STATEMENTS:
                raise refusal("with all that it calls the entry is too long for the CPU device")
            self.read_function(call.name, function, label)
        elif call.name == ASSERTION:
            failure = self.read_instruction("trap", position, loc)
            failure.text = text
            statements.append(failure)
        else:
            raise refusal(f"{call.name} has no body in this module")
        statements.append(label)

    def pass_names(
        self, call: Call, function: Function, refusal: Callable[[str], PtxError]
    ) -> None:
        """Let a function's parameters be those of a call."""
        formal, actual = function.result + function.formals, call.result + call.actuals
        if len(call.result) != len(function.result) or len(formal) != len(actual):
            raise refusal(f"expected {len(formal)} parameters and results, found {len(actual)}")
        for name, given in zip(formal, actual, strict=True):
            if given not in self.locals:
                raise refusal(f"{given}: expected a .param variable")
            self.locals[name] = self.locals[given]

    def read_function(self, name: str, function: Function, label: str) -> None:
        outside, first = (self.scope, self.openings), len(self.body.statements)
        self.scope, self.openings, self.cache = Scope(None), [], {}
        self.calls.append((name, label))
        self.read_body(function.position)
        self.close_labels(first)
        self.calls.pop()
        (self.scope, self.openings), self.cache = outside, {}

    def close_labels(self, first: int) -> None:
        """Give the labels of a closed pair of braces, from statement `first` on, other names."""
        statements = self.body.statements
        here = (s for s in statements[first:] if isinstance(s, str) and s not in self.unique)
        inner = {s: f"{s}.{first}" for s in here}
        self.unique.update(inner.values())
        for i, statement in enumerate(statements[first:], first):
            if isinstance(statement, str):
                statements[i] = inner.get(statement, statement)
            elif inner and statement.opcode.base == "bra":
                statement.operands = tuple(
                    Symbol(inner.get(o.name, o.name)) if isinstance(o, Symbol) else o
                    for o in statement.operands
                )

    def declare_registers(self, text: str, position: int) -> None:
        match = _REG.fullmatch(text)
        if match is None or match["type"] not in _REGISTER_TYPES:
            raise refuse(self.line_of(position), text, "cannot read this .reg declaration")
        for name in match["names"].split(","):
            found = _REG_NAME.fullmatch(name.strip())
            if found is None:
                raise refuse(self.line_of(position), text, f"cannot read {name.strip()!r}")
            if found["count"] is None:
                self.scope.names[found["name"]] = Register(found["name"], match["type"])
            else:
                self.scope.ranges.append((found["name"], int(found["count"]), match["type"]))

    def declare_shared(self, text: str, position: int) -> None:
        match, size, align = self.read_variable(text, position)
        if ".extern" in text:
            self.dynamic.append(match["name"])
            return
        if match["name"] in self.body.shared:  # of a function that is called more than once
            return
        offset = -(-self.body.static_shared // align) * align
        self.body.shared[match["name"]] = offset
        self.body.static_shared = offset + size

    def declare_local(self, text: str, position: int) -> None:
        match, size, align = self.read_variable(text, position)
        offset = -(-self.body.local_bytes // align) * align
        self.locals[match["name"]] = Local(match["name"], offset)
        self.body.local_bytes = offset + size

    def read_variable(self, text: str, position: int) -> tuple[re.Match[str], int, int]:
        """A declaration without its content, with size and alignment in bytes."""
        match = _VARIABLE.fullmatch(text)
        if match is None or (match["content"] and match["space"] in ("shared", "local", "param")):
            space = re.search(r"\.(shared|local|global|const|param)", text)
            raise refuse(
                self.line_of(position),
                text,
                f"cannot read this {space[0] if space else ''} declaration",
            )
        size = int(match["type"].lstrip("busf")) // 8
        align = max(int(match["align"] or size), 1)
        for count in re.findall(r"\d+", match["dims"]):
            size *= int(count)
        if max(size, align) > _MAX_VARIABLE_BYTES:
            raise refuse(self.line_of(position), text, f"{size} bytes, aligned to {align}")
        return match, size, align

    def module_array(self, name: str) -> Symbol:
        """A .global or .const array; what its initialiser leaves out is zero."""
        text, position = self.module_arrays[name]
        match, size, align = self.read_variable(text, position)
        if ".extern" in text:
            raise refuse(self.line_of(position), text, f"{name}: arrays of other modules")
        width = int(match["type"].lstrip("busf")) // 8
        content = bytearray()
        for token in re.findall(r"[^\s{},]+", match["content"] or ""):
            number = _bits(token, width)
            if number is None:
                raise refuse(self.line_of(position), text, f"cannot read {token!r}")
            content += number
        size = len(content) if "[]" in match["dims"].replace(" ", "") else size
        if len(content) > size or (match["content"] or "").count("{") > 1:
            raise refuse(self.line_of(position), text, f"cannot read the content of {name}")
        self.body.arrays[name] = Array(max(align, 16), bytes(content.ljust(size, b"\0")))
        return Symbol(name)

    def place_dynamic_shared(self) -> None:
        """All extern shared arrays begin at one address, after the static ones.

        1024 is the widest alignment that an instruction asks of a shared address.
        """
        self.body.static_end = self.body.static_shared
        self.body.static_shared = -(-self.body.static_shared // 1024) * 1024
        self.body.shared.update(dict.fromkeys(self.dynamic, self.body.static_shared))

    def read_instruction(
        self, text: str, position: int, loc: tuple[int, int] | None
    ) -> Instruction:
        line = self.line_of(position)
        text = " ".join(text.split())
        match = _INSTRUCTION.fullmatch(text)
        if match is None:
            raise refuse(line, text, "not an instruction")
        guard = None
        if match["guard"]:
            guard = self.scope.find(match["guard"])
            if guard is None or guard.bits != 1:
                raise refuse(line, text, f"{match['guard']} is no declared predicate register")
        opcode, rest = read_opcode(match["op"]), match["rest"].strip()
        operands: list[Operand] = []
        position = 0
        while position < len(rest):
            found = _OPERANDS.match(rest, position)
            if found is None:
                raise refuse(line, text, f"{opcode.text}: cannot read {rest[position:]!r}")
            operands.append(self.operand(found[1], line, text))
            position = found.end()
        # The carry flag is a register like others: see opcodes/carry.py.
        if "cc" in opcode.modifiers and operands:
            operands[0] = Group((operands[0], self.carry))
        if opcode.base in ("addc", "subc", "madc"):
            operands.append(self.carry)
        return Instruction(
            opcode,
            tuple(operands),
            guard,
            match["neg"] is not None,
            line,
            text,
            len(self.body.statements),
            loc,
        )

    def operand(self, token: str, line: int, text: str) -> Operand:
        operand = self.cache.get(token)
        if operand is None:
            operand = self.cache[token] = self.read_operand(token, line, text)
        return operand

    def read_operand(self, token: str, line: int, text: str) -> Operand:
        if token[0] == "{":
            return self.group(token[1:-1].split(","), line, text)
        if token[0] == "[":
            return self.address(token, line, text)
        if "|" in token:
            return self.group(token.split("|"), line, text, paired=True)
        if token[0] == "!":
            register = self.scope.find(token[1:].strip())
            if register is None:
                raise refuse(line, text, f"{token}: not a declared register")
            return Negated(register)
        register = self.scope.find(token)
        if register is not None:
            return register
        if match := _FLOAT.fullmatch(token):
            return Immediate(int(match[1] or match[2], 16), 32 if match[1] else 64)
        if (value := _integer(token)) is not None:
            return Immediate(value)
        if _DECIMAL.fullmatch(token):
            return Immediate(int.from_bytes(struct.pack("<d", float(token)), "little"), 64)
        if _SPECIAL.fullmatch(token):
            return Special(token)
        if token in self.locals:
            return self.locals[token]
        if token in self.module_arrays:
            return self.module_array(token)
        if token[0] == "%" or not re.fullmatch(r"[A-Za-z_$.][\w$.]*", token):
            raise refuse(line, text, f"{token}: not a declared register, literal or symbol")
        return Symbol(token)

    def group(self, parts: list[str], line: int, text: str, paired: bool = False) -> Group:
        elements = (part.strip() for part in parts)
        return Group(
            tuple(None if e == "_" or not e else self.operand(e, line, text) for e in elements),
            paired,
        )

    def address(self, token: str, line: int, text: str) -> Operand:
        if box := _BOX.fullmatch(token):
            place = self.address(f"[{box['map']}]", line, text)
            group = self.operand(box["coordinates"], line, text)
            assert isinstance(place, Address)
            assert isinstance(group, Group)
            return Box(place, group)
        match = _ADDRESS.fullmatch(token)
        offset = _offset((match["offset"] or "").strip()) if match else None
        if match is None or offset is None:
            raise refuse(line, text, f"{token}: not an address")
        base = self.operand(match["base"], line, text)
        if not isinstance(base, Register | Symbol | Immediate | Local):
            raise refuse(line, text, f"{token}: not an address")
        return Address(base, offset)


_MAX_VARIABLE_BYTES = 1 << 24  # more than any kernel has
_REGISTER_TYPES = {"pred", "f16", "f32", "f64"} | {
    f"{k}{n}" for k in "bus" for n in (8, 16, 32, 64)
}


def _integer(token: str) -> int | None:
    """An integer literal, or None."""
    match = _INTEGER.fullmatch(token.strip())
    if match is None:
        return None
    digits = match[2]
    octal = digits.startswith("0") and digits.isdecimal() and len(digits) > 1
    if octal and not set(digits) <= set("01234567"):
        return None
    return int(digits, 8 if octal else 0) * (-1 if match[1] == "-" else 1)


def _bits(token: str, width: int) -> bytes | None:
    """An integer or the bit pattern of a float as `width` bytes, or None."""
    match = _FLOAT.fullmatch(token)
    number = int(match[1] or match[2], 16) if match else _integer(token)
    if number is None or not -(1 << 8 * width - 1) <= number < 1 << 8 * width:
        return None
    return (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def _offset(text: str) -> int | None:
    """What is added to an address: literals with signs before them, such as `+ 4+-8`."""
    total, position = 0, 0
    while position < len(text):
        match = _TERM.match(text, position)
        value = _integer(match[2]) if match else None
        if match is None or value is None:
            return None
        total += -value if match[1] == "-" else value
        position = match.end()
    return total
