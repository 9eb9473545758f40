"""The parameter block under the magnifying glass: every byte's meaning, and what looks wrong."""

from .annotation import AnnotatedBlock, Difference, Field, annotate, differences
from .notation import dtype_nbytes, show_array
from .plausible import is_plausible
from .proposal import propose
from .suspicion import Suspicion, suspicions

__all__ = [
    "AnnotatedBlock",
    "Difference",
    "Field",
    "Suspicion",
    "annotate",
    "differences",
    "dtype_nbytes",
    "is_plausible",
    "propose",
    "show_array",
    "suspicions",
]
