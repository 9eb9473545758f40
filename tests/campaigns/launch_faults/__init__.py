"""Faults put into launches, each with the name of the cause that a debugger should give."""

from . import blocks, builds, contents, launched, results, strangers
from .fault import SHAPES, Fault

AREAS = {
    "parameter block": blocks.FAULTS,
    "arrays": contents.FAULTS,
    "configuration": builds.CONFIGURATION,
    "sidecar": builds.SIDECAR,
    "PTX": builds.BUILD,
    "results": results.FAULTS,
    "other kernels, no sidecar": strangers.FAULTS,
    "tutorials' kernels": launched.FAULTS,
}

__all__ = ["AREAS", "SHAPES", "Fault"]
