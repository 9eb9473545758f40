"""Parts of the pages that come from the code: causes, kernels, checks, codes, the change log."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import click

from ferrum_numba import kernels
from ferrum_numba.cli.app import app
from ferrum_numba.debug.causes import CAUSES
from ferrum_numba.emulator.checks.check import Kind
from ferrum_numba.emulator.checks.watch import ALL

ROOT = Path(__file__).resolve().parents[2]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A line `<!-- part: NAME ARGUMENT -->` becomes that part."""
    pattern = r"<!-- part: (\w+)((?: \w+)*) -->"
    return re.sub(pattern, lambda found: PARTS[found[1]](*found[2].split()), markdown)


def causes() -> str:
    rows = (f"| `{name}` | {each.what} | {each.advice} |" for name, each in CAUSES.items())
    return "\n".join(["| code | what it is | what to do |", "| --- | --- | --- |", *rows])


def checks() -> str:
    kinds = {kind.name: kind for check in ALL for kind in check.kinds}
    rows = [f"| `{kind.check}` | `{name}` | {_text(kind)} |" for name, kind in kinds.items()]
    return "\n".join(["| check | finding | its text |", "| --- | --- | --- |", *rows])


def _text(kind: Kind) -> str:
    """A finding's text, for memory of the first kind that it has; fields in angles."""
    text = next(iter(kind.texts.values()), "an element differs, or was never written")
    return text.replace("|", "\\|").replace("{", "‹").replace("}", "›")


def catalogue() -> str:
    found = [kernels.artefact(name) for name in kernels.names()]
    count = Counter(build.fields["kernel"] for build in found)
    first = {build.fields["kernel"]: build for build in reversed(found)}
    rows = []
    for name, number in count.items():
        builds = [build for build in found if build.fields["kernel"] == name]
        targets = ", ".join(sorted({str(build.fields["target"]) for build in builds}))
        dtypes = ", ".join(sorted({build.dtype for build in builds}))
        source = first[name].declared["source"]
        rows.append(f"| `{name}` | {number} | {dtypes} | {targets} | `{source}` |")
    head = ["| kernel | builds | dtypes | targets | source |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def command(name: str) -> str:
    """A command's own help, 80 columns wide."""
    found = app.get_command(click.Context(app), name)
    assert found is not None
    context = click.Context(found, info_name=f"ferrum-numba {name}", max_content_width=80)
    return f"```text\n{found.get_help(context)}\n```"


def changes() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n")[2]


PARTS = {
    "causes": causes,
    "checks": checks,
    "catalogue": catalogue,
    "command": command,
    "changes": changes,
}
