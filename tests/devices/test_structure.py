"""Dependencies among the files of devices/."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import ferrum_numba as fe

PACKAGE = Path(fe.__file__).parent
FILES = {
    ("ferrum_numba", *path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in (PACKAGE / "devices").rglob("*.py")
}


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Imports for typing, and within functions, count as well."""
    order = TopologicalSorter({name: imported(name) for name in FILES})
    assert set(order.static_order()) == set(FILES), "raises CycleError, which names the files"
    assert ("ferrum_numba", "devices", "device") in imported(
        ("ferrum_numba", "devices", "cuda", "kernel")
    )


def imported(name: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The files of devices/ that one of them imports."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = (*name[: -node.level], *(node.module or "").split("."))
            module = tuple(filter(None, module))
            for alias in node.names:
                found |= {n for n in ((*module, alias.name), module) if n in FILES}
    return found
