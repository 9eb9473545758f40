"""The reader of machine code: cubins, which are ELF files, and fatbins, which hold several."""

from .cubin import Cubin, CubinEntry, CubinParameter
from .fatbin import Fatbin, FatbinMember
from .source import is_machine_code, read_code

__all__ = [
    "Cubin",
    "CubinEntry",
    "CubinParameter",
    "Fatbin",
    "FatbinMember",
    "is_machine_code",
    "read_code",
]
