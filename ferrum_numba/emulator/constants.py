"""Integer constant expressions: their values are known when the PTX is read.

They have 64 bits, and C's operators and rules: signed, unless a literal or a cast says otherwise.
Source: PTX ISA, "Constants": "Integer Constants", "Integer Constant Expressions".
"""

from __future__ import annotations

import re
from collections.abc import Callable

_LITERAL = re.compile(r"([-+]?)\s*(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F]+U?|0[bB][01]+U?|\d+U?)|\(\s*\.(?P<cast>[su])64\s*\)"
    r"|(?P<sign><<|>>|[<>=!]=|&&|\|\||[-+*/%~!&|^<>?:()]))"
)
_START = re.compile(r"[-+~!\s]*[(\d]")
_MASK = (1 << 64) - 1
_MOST_TOKENS = 100  # of one expression: reading it goes as deep as its brackets
_BINARY: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "||": (1, lambda a, b: bool(a or b)),
    "&&": (2, lambda a, b: bool(a and b)),
    "|": (3, lambda a, b: a | b),
    "^": (4, lambda a, b: a ^ b),
    "&": (5, lambda a, b: a & b),
    "==": (6, lambda a, b: a == b),
    "!=": (6, lambda a, b: a != b),
    "<": (7, lambda a, b: a < b),
    ">": (7, lambda a, b: a > b),
    "<=": (7, lambda a, b: a <= b),
    ">=": (7, lambda a, b: a >= b),
    "<<": (8, lambda a, b: a << b),
    ">>": (8, lambda a, b: a >> b),
    "+": (9, lambda a, b: a + b),
    "-": (9, lambda a, b: a - b),
    "*": (10, lambda a, b: a * b),
    "/": (10, lambda a, b: _quotient(a, b)),
    "%": (10, lambda a, b: a - b * _quotient(a, b)),
}
_TRUTHS = ("||", "&&", "==", "!=", "<", ">", "<=", ">=")


def constant(text: str) -> int | None:
    """The value of a literal or an expression, or None for what is neither."""
    match = _LITERAL.fullmatch(text.strip())
    if match is not None:
        value = _literal(match[2])
        return -value if value is not None and match[1] == "-" else value
    if not is_constant(text):
        return None
    try:
        reader = _Reader(text)
        value, _ = reader.choice()
        return None if reader.tokens else value
    except (ValueError, IndexError, ZeroDivisionError):
        return None


def is_constant(text: str) -> bool:
    """True if text begins as a constant does, and not as a name."""
    return _START.match(text) is not None


def _literal(digits: str) -> int | None:
    octal = digits.startswith("0") and digits.isdecimal() and len(digits) > 1
    if octal and not set(digits) <= set("01234567"):
        return None
    return int(digits, 8 if octal else 0)


def _quotient(a: int, b: int) -> int:
    """Towards zero, as C has it."""
    size = abs(a) // abs(b)
    return -size if (a < 0) != (b < 0) else size


class _Reader:
    """Evaluates by recursive descent; a value is (number, whether unsigned).

    Raises ValueError or IndexError for what is no expression.
    """

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []  # the last comes first
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None or len(self.tokens) > _MOST_TOKENS:
                raise ValueError(text)
            self.tokens.append(match["number"] or match["sign"] or f"cast {match['cast']}")
            position = match.end()
        self.tokens.reverse()

    def take(self, *expected: str) -> bool:
        """Take the next token where it is one of these."""
        found = bool(self.tokens) and self.tokens[-1] in expected
        if found:
            self.tokens.pop()
        return found

    def choice(self) -> tuple[int, bool]:
        """`a ? b : c`, or less."""
        value = self.binary(0)
        if not self.take("?"):
            return value
        yes = self.choice()
        if not self.take(":"):
            raise ValueError
        no = self.choice()
        return _in_64_bits((yes if value[0] else no)[0], yes[1] or no[1])

    def binary(self, least: int) -> tuple[int, bool]:
        """Operators that bind more closely than `least`, from the left."""
        left, unsigned = self.unary()
        while self.tokens and self.tokens[-1] in _BINARY and _BINARY[self.tokens[-1]][0] > least:
            sign = self.tokens.pop()
            rank, apply = _BINARY[sign]
            right, other = self.binary(rank)
            if sign in ("<<", ">>"):
                right = min(right & _MASK, 64)
            else:
                unsigned = unsigned or other
                left, right = (_in_64_bits(v, unsigned)[0] for v in (left, right))
            left, unsigned = _in_64_bits(int(apply(left, right)), unsigned and sign not in _TRUTHS)
        return left, unsigned

    def unary(self) -> tuple[int, bool]:
        """A literal, an expression in brackets, or either with signs and casts before it."""
        token = self.tokens.pop()
        if token == "(":
            value = self.choice()
            if not self.take(")"):
                raise ValueError
            return value
        if token.startswith("cast"):
            return _in_64_bits(self.unary()[0], token == "cast u")
        if token in ("+", "-", "~", "!"):
            number, unsigned = self.unary()
            if token == "!":
                return int(not number), False
            changed = {"+": number, "-": -number, "~": ~number}[token]
            return _in_64_bits(changed, unsigned)
        number_or_none = _literal(token.rstrip("U"))
        if number_or_none is None:
            raise ValueError
        return number_or_none, token.endswith("U") or number_or_none > _MASK >> 1


def _in_64_bits(value: int, unsigned: bool) -> tuple[int, bool]:
    value &= _MASK
    return (value if unsigned or value <= _MASK >> 1 else value - _MASK - 1), unsigned
