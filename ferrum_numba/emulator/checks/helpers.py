"""The helper functions of the checks. Importing this module registers their families."""

from . import (
    bounds,
    bulk,
    clocks,
    copies,
    descriptors,
    doubts,
    epochs,
    marks,
    neighbours,
    products,
    records,
    registers,
    runs,
    tags,
    talks,
    verdicts,
)

__all__ = [
    "bounds",
    "bulk",
    "clocks",
    "copies",
    "descriptors",
    "doubts",
    "epochs",
    "marks",
    "neighbours",
    "products",
    "records",
    "registers",
    "runs",
    "tags",
    "talks",
    "verdicts",
]
