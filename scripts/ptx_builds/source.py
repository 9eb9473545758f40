"""Sources of kernels in scripts/kernels/, which import each other by their bare names."""

from __future__ import annotations

import hashlib
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

SOURCES = Path(__file__).resolve().parent.parent / "kernels"


def load(name: str) -> ModuleType:
    """The module of a source; those beside it that it imports are loaded first."""
    if name not in sys.modules:
        for needed in _imported(SOURCES / f"{name}.py"):
            load(needed.stem)
        spec = spec_from_file_location(name, SOURCES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def digest(source: Path) -> str:
    """SHA-256 of a source and, by their names, of those beside it that it imports."""
    needed, imported = [source], set[Path]()
    while needed:
        new = _imported(needed.pop()) - imported
        needed, imported = [*needed, *new], imported | new
    text = b"".join(file.read_bytes() for file in [source, *sorted(imported)])
    return hashlib.sha256(text).hexdigest()


def _imported(source: Path) -> set[Path]:
    names = re.findall(r"^from (\w+) import", source.read_text(encoding="utf-8"), re.MULTILINE)
    return {file for name in names if (file := SOURCES / f"{name}.py").exists()}
