"""Everything that compile_ptx.py builds into ptx/: a file a family of kernels."""

from .build import Build
from .models import MODELS
from .moe import MOE
from .w4a16 import W4A16

BUILDS: list[Build] = [*W4A16, *MODELS, *MOE]

__all__ = ["BUILDS", "Build"]
