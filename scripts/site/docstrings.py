"""Docstrings of the package as Markdown: lists of names, and text that means what it says."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ALIGNED = re.compile(r"^([A-Za-z_]\w*(?:, (?:\.\.\.|[A-Za-z_]\w*))*) {2,}(\S.*)$")  # name  meaning
_NAMED = re.compile(r"^([a-z_]\w*(?:, [a-zA-Z_]\w*)*): (.*)$")  # name: meaning
_WITHIN = re.compile(r"(?<=[.;])  (?=[a-z_]\w*(?:, \w+)*: )")  # name: meaning.  name: meaning
_CODE = re.compile(r"(`[^`]*`)")
_MARKUP = str.maketrans({"*": r"\*", "_": r"\_", "[": r"\[", "]": r"\]", "<": "&lt;", ">": "&gt;"})


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
    found: list[str] = []
    listed = False
    for line in _WITHIN.sub("\n", text).split("\n"):
        item = _ALIGNED.match(line) or _NAMED.match(line)
        if item:
            names = ", ".join(f"`{name.strip()}`" for name in item[1].split(","))
            found += [""] * (bool(found) and not listed)
            found.append(f"- {names}: {_escaped(item[2])}")
            listed = True
        elif listed:
            found[-1] += f" {_escaped(line.strip())}"
        else:
            found.append(_escaped(line))
    return "\n".join(found)


def _escaped(text: str) -> str:
    """Text whose stars, angles and brackets are no markup; code in backticks stays."""
    parts = _CODE.split(text)
    return "".join(part if part.startswith("`") else part.translate(_MARKUP) for part in parts)
