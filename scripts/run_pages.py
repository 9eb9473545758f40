"""Run the code of pages as a reader would: each page in an empty folder, its blocks in order.

    python scripts/run_pages.py README.md docs/tutorials/layer.md

Python blocks of a page share their names, but for those of README.md, each of which stands alone.
Blocks of sh run in the page's folder, by bash.  Others are not run.  A comment before a block may
say `<!-- exit: 1 -->`, the code that its last command ends with; `<!-- needs: torch gpu -->`,
modules, or a GPU, without which it is passed over; or `<!-- not run: WHY -->`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_PATTERN = re.compile(r"^(?:<!-- ([\w ]+): ?(.*?) -->\n)?^```(\w+)[^\n]*\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A block of code.  line: its first.  said: what the comment before it says, by name."""

    line: int
    language: str
    code: str
    said: dict[str, str]

    def lacks(self) -> str:
        """Requirement of a page that is not here; empty for none."""
        for name in ("not run", "command"):  # README's commands of a clone are run by CI
            if name in self.said:
                return self.said[name]
        return " and ".join(name for name in self.said.get("needs", "").split() if not _has(name))


def _has(name: str) -> bool:
    if name == "gpu":
        from ferrum_numba.devices.cuda.numba_cuda import unusable

        return not unusable()
    return find_spec(name) is not None


def blocks(page: Path) -> list[Block]:
    """The blocks of Python and sh of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _PATTERN.finditer(text):
        name, value, language, code = match.groups()
        if language in ("python", "sh"):
            line = text[: match.start(4)].count("\n") + 1
            found.append(Block(line, language, code, {name: value} if name else {}))
    return found


def run(page: Path) -> int:
    """Run a page's blocks in the current folder; the number of those that ran."""
    ran, names = 0, {"__name__": "__main__"}
    for block in blocks(page):
        if lacking := block.lacks():
            print(f"{page.name}:{block.line}: passed over: {lacking}", flush=True)
            continue
        ran += 1
        if block.language == "python":
            if page.name == "README.md":
                names = {"__name__": "__main__"}
            lines = "\n" * (block.line - 1) + block.code  # so that errors name the page's line
            exec(compile(lines, str(page), "exec"), names)
            continue
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], check=False)
        if done.returncode != int(block.said.get("exit", "0")):
            raise SystemExit(f"{page}:{block.line}: exit code {done.returncode}")
    return ran


def main(pages: list[str]) -> None:
    """Run each page in a process and a folder of its own."""
    if pages[:1] == ["--here"]:
        run(Path(pages[1]))
        return
    environment = {"FERRUM_DEVICE": "cpu", **os.environ, "COLUMNS": "80"}
    beside = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", "")])
    failed = []
    for page in map(Path, pages):
        command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", __file__]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [*command, "--here", str(page.resolve())], cwd=folder, env=environment, check=False
            )
        print(f"{page}: {'ok' if done.returncode == 0 else 'FAILED'}", flush=True)
        failed += [str(page)] * (done.returncode != 0)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
