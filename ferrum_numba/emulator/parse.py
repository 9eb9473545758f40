"""PTX text -> the body of one entry. Anything that it cannot read is a PtxError.

Source: PTX ISA, "Syntax" and "Directives".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from ..errors import PtxError
from ..ptx_text import (
    TYPE_NBYTES,
    PtxModule,
    Statement,
    Variable,
    read_body,
    read_module,
    read_statement,
    read_variable,
    refuse,
)
from . import opcodes as opcodes  # fills the table, for whoever takes the instructions
from .calls import (
    MOST_CALLS,
    MOST_STATEMENTS,
    PARAMETERS,
    Call,
    Function,
    find_functions,
    in_place,
    read_call,
)
from .constants import constant, is_constant
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
)
from .scope import Labels, Registers

_SHARED = re.compile(r"(?:\.extern\s+)?\.shared\b")
_REG = re.compile(r"\.reg\s*\.(?P<type>\w+)\s+(?P<names>.+)", re.DOTALL)
_REG_NAME = re.compile(r"(?P<name>[\w$%]+)\s*(?:<\s*(?P<count>\d+)\s*>)?")
_OPERANDS = re.compile(r"\s*(\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+?)\s*(?:,|$)")
_FLOAT = re.compile(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})")
_DECIMAL = re.compile(r"[-+]?\d+\.\d*(?:[eE][-+]?\d+)?")  # of type .f64, as the ISA has it
_ADDRESS = re.compile(r"\[\s*(?P<base>[\w$%.]+)\s*(?P<offset>[-+].*)?\]", re.DOTALL)
_BOX = re.compile(r"\[(?P<map>[^,{}]*),\s*(?P<coordinates>\{[^{}]*\})\s*\]", re.DOTALL)
_SPECIAL = re.compile(
    r"%(?:(?:tid|ntid|ctaid|nctaid|cluster_ctaid|cluster_nctaid|clusterid|nclusterid)\.[xyz]"
    r"|laneid|warpid|nwarpid|smid|nsmid|clock|clock64|clock_hi|globaltimer(?:_lo|_hi)?|envreg[12]|lanemask_\w+"
    r"|cluster_ctarank|cluster_nctarank|dynamic_smem_size|total_smem_size|gridid)"
)


def parse_entry(text: str, entry: str) -> Body:
    """Read the body of `entry` from PTX text."""
    module = read_module(text)
    head = module.entries.get(entry)
    if head is None or head.body is None:
        raise PtxError(f"entry {entry!r}", "its body is not in the PTX")
    parser = _Parser(module)
    for declaration, position in module.shared(head):
        parser.declare_shared(declaration, position)
    parser.read_body(head.body)
    parser.place_dynamic_shared()
    return parser.body


class _Parser:
    def __init__(self, module: PtxModule) -> None:
        self.module = module
        self.body = Body(files=module.files)
        self.dynamic: list[str] = []
        self.carry = Register("CC.CF", "pred")
        self.locals: dict[str, Local] = {}
        self.functions = find_functions(module)
        self.calls: list[tuple[str, str]] = []  # that are being read: name, label behind it
        self.targets: dict[str, tuple[str, ...]] = {}  # of lists that brx.idx chooses from
        self.registers = Registers()
        self.labels = [Labels(0)]  # of the braces that are open
        self.cache: dict[str, Operand] = {}

    def read_body(self, position: int) -> None:
        """Read statements up to the brace that closes the body."""
        outside, statements = len(self.labels), self.body.statements
        for kind, text, at, loc in read_body(self.module, position):
            if kind == ";":
                self.read_statement(text, self.module.line(at), loc)
            elif kind == ":":
                self.labels[-1].declare(text, len(statements))
                statements.append(text)
            elif kind == "{":
                self.registers.open()
                self.labels.append(Labels(len(statements)))
                self.cache = {}
            elif len(self.labels) > outside:
                self.registers.close()
                self.close_labels()
                self.cache = {}

    def close_labels(self) -> None:
        self.labels.pop().close(self.body.statements, self.labels[-1])

    def read_statement(self, text: str, line: int, loc: tuple[int, int] | None) -> None:
        if not text or text.startswith(".pragma"):
            return
        if text.startswith(".reg"):
            self.declare_registers(text, line)
        elif _SHARED.match(text):
            self.declare_shared(text, line)
        elif text.startswith((".local", ".param")):
            self.declare_local(text, line)
        elif text.startswith(".branchtargets"):
            self.declare_targets(text, line)
        else:
            statement = read_statement(text, line, loc)
            if statement.opcode.base == "call":
                self.read_call(statement)
            elif statement.opcode.base == "brx":
                self.read_choice(statement)
            else:
                self.add(statement)

    def add(self, statement: Statement) -> Instruction:
        """Read an instruction and put it behind what there is."""
        label = self.calls[-1][1] if self.calls else None
        instruction = in_place(self.read_instruction(statement), label)
        self.body.statements.append(instruction)
        if instruction.opcode.base == "bra":
            self.labels[-1].branch(instruction)
        return instruction

    def declare_targets(self, text: str, line: int) -> None:
        """Keep a list of labels; the label before it is its name."""
        names = tuple(re.findall(r"[^\s,]+", text.removeprefix(".branchtargets")))
        name = self.body.statements[-1] if self.body.statements else None
        if not isinstance(name, str) or not names:
            raise refuse(line, text, "expected a label before it, and labels")
        self.targets[name] = names

    def read_choice(self, statement: Statement) -> None:
        """Read brx.idx as one comparison and branch after the other.

        PTX leaves open what an index beyond the list does: here it is a trap.
        """
        line, statements = statement.line, self.body.statements
        index, _, name = (part.strip() for part in statement.operands.partition(","))
        if (
            not {*statement.opcode.text.split(".")[1:]} <= {"idx", "uni"}
            or name not in self.targets
        ):
            problem = "expected brx.idx, an index, and the label of a .branchtargets list above"
            raise refuse(line, statement.text, problem)
        behind, chosen = f"behind.{len(statements)}", f"%chosen${len(statements)}"
        self.registers.declare(chosen, "pred")
        texts = [f"@{'' if statement.negated else '!'}{statement.guard} bra {behind}"]
        texts = texts if statement.guard else []
        for i, target in enumerate(self.targets[name]):
            texts += [f"setp.eq.u32 {chosen}, {index}, {i}", f"@{chosen} bra {target}"]
        if len(statements) + len(texts) > MOST_STATEMENTS:
            raise refuse(line, statement.text, "the entry is too long for the CPU device")
        for text in (*texts, "trap", "exit"):
            self.add(read_statement(text, line, statement.loc)).text = statement.text
        statements.append(behind)

    def read_call(self, statement: Statement) -> None:
        """Read the body of the function here."""
        call, statements, line = read_call(statement), self.body.statements, statement.line

        def refusal(problem: str) -> PtxError:
            return refuse(line, statement.text, f"call: {problem}")

        if call is None:
            raise refusal("the CPU device calls functions by name only")
        label = f"return.{len(statements)}"
        if call.guard is not None:
            way = call.guard[1:] if call.guard[0] == "!" else f"!{call.guard}"
            self.add(read_statement(f"@{way} bra {label}", line, statement.loc))
        function = self.functions.get(call.name)
        if function is not None:
            self.pass_names(call, function, refusal)
            if call.name in (name for name, _ in self.calls):
                raise refusal(f"{call.name} calls itself, which the CPU device does not have")
            if len(statements) > MOST_STATEMENTS or len(self.calls) > MOST_CALLS:
                raise refusal("with all that it calls the entry is too long for the CPU device")
            self.read_function(call.name, function, label)
        elif call.name in PARAMETERS:
            self.call_host(call, statement, refusal)
        else:
            raise refusal(f"{call.name} has no body in this module")
        statements.append(label)

    def call_host(
        self, call: Call, statement: Statement, refusal: Callable[[str], PtxError]
    ) -> None:
        """Make an instruction of a call that the host carries out."""
        if len(call.actuals) != PARAMETERS[call.name]:
            found = len(call.actuals)
            raise refusal(f"expected {PARAMETERS[call.name]} parameters, found {found}")
        for name in call.actuals:
            if name not in self.locals:
                raise refusal(f"{name}: expected a .param variable")
        text = f"call.{call.name} {', '.join(call.actuals[:4])}"
        self.add(read_statement(text, statement.line, statement.loc)).text = statement.text

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
        outside, self.registers, self.cache = self.registers, Registers(), {}
        self.labels.append(Labels(len(self.body.statements)))
        self.calls.append((name, label))
        self.read_body(function.position)
        self.close_labels()
        self.calls.pop()
        self.registers, self.cache = outside, {}

    def declare_registers(self, text: str, line: int) -> None:
        match = _REG.fullmatch(text)
        if match is None or match["type"] not in _REGISTER_TYPES:
            raise refuse(line, text, "cannot read this .reg declaration")
        for name in match["names"].split(","):
            found = _REG_NAME.fullmatch(name.strip())
            if found is None:
                raise refuse(line, text, f"cannot read {name.strip()!r}")
            count = None if found["count"] is None else int(found["count"])
            self.registers.declare(found["name"], match["type"], count)

    def declare_shared(self, text: str, line: int) -> None:
        variable = self.read_variable(text, line)
        if variable.extern:
            self.dynamic.append(variable.name)
            return
        if variable.name in self.body.shared:  # of a function that is called more than once
            return
        offset = variable.place(self.body.static_shared)
        self.body.shared[variable.name] = offset
        self.body.static_shared = offset + variable.nbytes

    def declare_local(self, text: str, line: int) -> None:
        variable = self.read_variable(text, line)
        offset = variable.place(self.body.local_bytes)
        self.locals[variable.name] = Local(variable.name, offset)
        self.body.local_bytes = offset + variable.nbytes

    def read_variable(self, text: str, line: int) -> Variable:
        """Read a declaration.  Raises PtxError for one of a size that there cannot be."""
        found = read_variable(text)
        if found is None or (found.content and found.space in ("shared", "local", "param")):
            space = re.search(r"\.(shared|local|global|const|param)", text)
            problem = f"cannot read this {space[0] if space else ''} declaration"
            raise refuse(line, text, problem)
        if max(found.nbytes, found.align) > _MAX_VARIABLE_BYTES:
            raise refuse(line, text, f"{found.nbytes} bytes, aligned to {found.align}")
        return found

    def module_array(self, name: str) -> Symbol:
        """A .global or .const array; what its initialiser leaves out is zero."""
        text, position = self.module.variables[name]
        line = self.module.line(position)
        variable = self.read_variable(text, line)
        if variable.extern:
            raise refuse(line, text, f"{name}: arrays of other modules")
        width = TYPE_NBYTES[variable.ptx_type]
        content = bytearray()
        for token in re.findall(r"[^\s{},]+", variable.content or ""):
            number = _bits(token, width)
            if number is None:
                raise refuse(line, text, f"cannot read {token!r}")
            content += number
        size = len(content) if None in variable.dims else variable.nbytes
        if len(content) > size or (variable.content or "").count("{") > 1:
            raise refuse(line, text, f"cannot read the content of {name}")
        self.body.arrays[name] = Array(max(variable.align, 16), bytes(content.ljust(size, b"\0")))
        return Symbol(name)

    def place_dynamic_shared(self) -> None:
        """Place all extern shared arrays at one address, after the static ones.

        1024 is the widest alignment that an instruction asks of a shared address.
        """
        self.body.static_end = self.body.static_shared
        self.body.static_shared = -(-self.body.static_shared // 1024) * 1024
        self.body.shared.update(dict.fromkeys(self.dynamic, self.body.static_shared))

    def read_instruction(self, statement: Statement) -> Instruction:
        line, opcode = statement.line, statement.opcode
        text = " ".join(statement.text.split())
        guard = None
        if statement.guard:
            guard = self.registers.find(statement.guard)
            if guard is None or guard.bits != 1:
                raise refuse(line, text, f"{statement.guard} is no declared predicate register")
        rest = " ".join(statement.operands.split())
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
            statement.negated,
            line,
            text,
            len(self.body.statements),
            statement.loc,
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
        if "|" in token and not is_constant(token):
            return self.group(token.split("|"), line, text, paired=True)
        if token[0] == "!" and not is_constant(token):
            register = self.registers.find(token[1:].strip())
            if register is None:
                raise refuse(line, text, f"{token}: not a declared register")
            return Negated(register)
        register = self.registers.find(token)
        if register is not None:
            return register
        if match := _FLOAT.fullmatch(token):
            return Immediate(int(match[1] or match[2], 16), 32 if match[1] else 64)
        if (value := constant(token)) is not None:
            return Immediate(value)
        if _DECIMAL.fullmatch(token):
            return Immediate(int.from_bytes(struct.pack("<d", float(token)), "little"), 64)
        if _SPECIAL.fullmatch(token):
            return Special(token)
        if token in self.locals:
            return self.locals[token]
        if token in self.module.variables and ".shared" not in self.module.variables[token][0]:
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
        offset = constant(match["offset"] or "0") if match else None
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


def _bits(token: str, width: int) -> bytes | None:
    """An integer or the bit pattern of a float as `width` bytes, or None."""
    match = _FLOAT.fullmatch(token)
    number = int(match[1] or match[2], 16) if match else constant(token)
    if number is None or not -(1 << 8 * width - 1) <= number < 1 << 8 * width:
        return None
    return (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
