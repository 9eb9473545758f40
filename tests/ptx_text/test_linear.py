"""Text of strangers: reading twice as much takes about twice the steps, whatever it says."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ferrum_numba as fe
from ferrum_numba.abi import Sidecar
from ferrum_numba.report.builds import inspect_ptx

PACKAGE = str(Path(fe.__file__).parent)
HEAD = ".version 7.0\n.target sm_80\n.address_size 64\n"
ENTRY = ".visible .entry k(.param .u64 p)\n{\nret;\n}\n"


def body(text: str) -> str:
    return f"{HEAD}.visible .entry k(.param .u64 p)\n{{\n{text}ret;\n}}\n"


def each(count: int, text: str) -> str:
    """The text as often, with the number in place of #."""
    return "".join(text.replace("#", str(i)) for i in range(count))


TEXTS: dict[str, Callable[[int], str]] = {
    "labels": lambda n: body(each(n, "L#:\n")),
    "branches": lambda n: body(each(n, "L#: bra L0;\n")),
    "branches out of braces": lambda n: body("{" * n + "bra L;" * n + "}" * n + "L:\n"),
    "braces": lambda n: body("{ ret; L: }\n" * n),
    "nested braces": lambda n: body("{ L:\n" * n + "}" * n),
    "registers of nested braces": lambda n: body(
        each(n, "{ .reg .b32 %a#, %r#_<5>;\n") + each(n, "mov.b32 %a#, %r#_4;\n") + "}" * n
    ),
    "chained addresses": lambda n: body(
        ".reg .b64 %q<3>; ld.param.u64 %q1, [p];\n"
        + "add.s64 %q1, %q1, 4; ld.global.u64 %q2, [%q1];\n" * n
    ),
    "entries": lambda n: HEAD + each(n, ENTRY.replace(" k(", " k#(")),
    "shared variables": lambda n: (
        HEAD + each(n, f".shared .b32 s#;\n{ENTRY}".replace(" k(", " k#(").replace("ret", "s#"))
    ),
    "arrays": lambda n: HEAD + each(n, ".global .b32 t#[4];\n.visible\n") + ENTRY,
    "functions": lambda n: HEAD + each(n, ".func f#(.param .b32 a)\n{\nret;\n}\n") + ENTRY,
    "comments": lambda n: HEAD + "/* nothing */\n// nothing\n" * n + ENTRY,
    "comments in a statement": lambda n: body("mov.b32 %r1, /* 1 */\n" + "// or\n" * n + "2;\n"),
    "comments without an end": lambda n: HEAD + ENTRY + "/*" * n,
    "heads without an end": lambda n: HEAD + ENTRY + ".entry k(" * n,
    "locations": lambda n: body(".loc 1 1 1\n" * n),
    "nothing": lambda n: body(" " * n + "\n" * n),
    "white space before no instruction": lambda n: body("@" + " " * n + ",;" + " " * n + "}"),
}


def read(text: str) -> None:
    with contextlib.suppress(fe.FerrumError):
        inspect_ptx("text", text, Sidecar(), None, None)


def steps(text: str) -> int:
    """Lines of the package that run when the text is read."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        read(text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("kind", TEXTS)
def test_twice_the_text_takes_twice_the_steps(kind: str) -> None:
    make = TEXTS[kind]
    some = steps(make(150))
    assert steps(make(300)) < 2.2 * some + 200


PATTERNS = ("labels", "arrays", "comments", "comments in a statement", "comments without an end",
            "heads without an end", "locations", "nothing",
            "white space before no instruction")  # fmt: skip


@pytest.mark.parametrize("kind", PATTERNS)
def test_long_texts_that_patterns_read(kind: str) -> None:
    """A pattern that is quadratic takes minutes here; steps do not show it."""
    read(TEXTS[kind](100_000))
