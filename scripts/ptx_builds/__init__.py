"""Everything that compile_ptx.py builds into ptx/: a file a family of kernels."""

from .build import Build
from .w4a16 import W4A16

BUILDS: list[Build] = [*W4A16]

__all__ = ["BUILDS", "Build"]
