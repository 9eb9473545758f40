"""The helper functions of the checks. Importing this module registers their families."""

from . import bounds, copies, descriptors, doubts, epochs, marks, records, registers, tags

__all__ = [
    "bounds",
    "copies",
    "descriptors",
    "doubts",
    "epochs",
    "marks",
    "records",
    "registers",
    "tags",
]
