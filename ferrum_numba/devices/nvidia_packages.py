"""Libraries that NVIDIA's packages on PyPI bring."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def files(*patterns: str) -> Iterator[str]:
    """Paths of the files that match one of the patterns, given from the packages' folder on."""
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for pattern in patterns:
            yield from map(str, sorted(Path(folder).glob(pattern)))
