"""Texts that once crashed, hung or escaped the translation, and others of their kind.

scripts/fuzz_ptx.py finds them; once mended, each is kept small in seeds/.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from ferrum_numba.abi import Signature
from ferrum_numba.emulator import Program
from ferrum_numba.emulator.host import Host
from ferrum_numba.errors import AbiError, PtxError

from .harness import HEADER, PLAIN, entry

SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.ptx"))
LONG = 30_000
# Each took a time that grows with the square of its length, or the interpreter's stack.
LENGTHY = {
    "blanks in an operand": entry(1, f"add.u32 %t1, %t2{' ' * LONG}{{ ;"),
    "blanks after a guard": entry(1, f"@{' ' * LONG}%p1 ret;"),
    "blanks after a name": f"{HEADER}.visible .entry k{' ' * LONG}(",
    "a name without end": f"{HEADER}.visible .entry {'k' * LONG}",
    "blank lines": HEADER + "\n" * LONG + entry(1, ""),
    "open comments": entry(1, "") + "/*" * LONG,
    "braces": entry(1, "{" * LONG),
    "bangs": entry(1, f"@{'!' * LONG}%p1 ret;"),
    "pairs": entry(1, f"shfl.sync.idx.b32 %t1{'|%p1' * LONG}, %t2, 1, 31, -1;"),
    "dots": entry(1, f"add{'.u32' * LONG} %t1, %t2, %t3;"),
    "sums": entry(1, f"ld.shared.b32 %t1, [%t2{'+4' * LONG}];"),
    "half a character": entry(1, "\ud800"),
    "spaces of memory": f"{HEADER}{'.const ' * LONG}\n{entry(1, '')}",
}


def attempt(text: str, host: Host | None = None) -> None:
    with suppress(PtxError, AbiError):
        for name in Signature.entries(text) or [""]:
            Program.compile(text, name, host)


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_seeds(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    attempt(text)
    attempt(text, PLAIN)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", LENGTHY.values(), ids=LENGTHY)
def test_time_grows_with_the_length_only(text: str) -> None:
    attempt(text)
