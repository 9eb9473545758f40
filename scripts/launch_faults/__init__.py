"""Faults put into launches, each with the name of the cause that a debugger should give."""

from . import blocks, builds, contents, strangers
from .fault import SHAPES, Fault

AREAS = {
    "parameter block": blocks.FAULTS,
    "arrays": contents.FAULTS,
    "configuration": builds.CONFIGURATION,
    "sidecar": builds.SIDECAR,
    "PTX": builds.BUILD,
    "other kernels, no sidecar": strangers.FAULTS,
}

__all__ = ["AREAS", "SHAPES", "Fault"]
