"""Docstrings of the package as Markdown: lists of names, and text that means what it says."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"^([A-Za-z_][\w, .\"…-]*?) {2,}(\S.*)$")
_CODE = re.compile(r"(`[^`]*`)")


class AsMarkdown(griffe.Extension):
    """Griffe's extension that mkdocs.yml names."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Paragraphs whose lines are `name  meaning` become lists; nothing else becomes markup."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text.strip("\n")))


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if all(line.startswith("    ") for line in lines):
        code = "\n".join(line[4:] for line in lines)
        return f"```python\n{code}\n```"
    if _ITEM.match(lines[0]) is None:
        return _escaped(text)
    items: list[str] = []
    for line in lines:
        found = _ITEM.match(line)
        if found:
            names = ", ".join(f"`{name.strip()}`" for name in found[1].split(","))
            items.append(f"- {names}: {_escaped(found[2])}")
        else:
            items[-1] += f" {_escaped(line.strip())}"
    return "\n".join(items)


def _escaped(text: str) -> str:
    """Text whose stars, angles and brackets are no markup; code in backticks stays."""
    parts = _CODE.split(text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*<>\[\]_])", r"\\\1", part) for part in parts
    )
