"""Functions of 32 lanes by family. Importing this package fills the library."""

from . import access, atomics, bulk, halves, mbarriers, tensors, tiles, votes, wgmma

__all__ = [
    "access",
    "atomics",
    "bulk",
    "halves",
    "mbarriers",
    "tensors",
    "tiles",
    "votes",
    "wgmma",
]
