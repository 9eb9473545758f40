"""The reader of PTX: text and positions, declarations, statements.

Nothing else in the package reads PTX.  Every step is linear in the length of the text, whatever
the text is: strangers write it.
"""

from .module import TYPE_NBYTES, Head, PtxModule, Variable, read_module, read_variable
from .statements import Opcode, Piece, Statement, called, read_body, read_opcode, read_statement
from .text import not_ptx, read_ptx, refuse

__all__ = [
    "TYPE_NBYTES",
    "Head",
    "Opcode",
    "Piece",
    "PtxModule",
    "Statement",
    "Variable",
    "called",
    "not_ptx",
    "read_body",
    "read_module",
    "read_opcode",
    "read_ptx",
    "read_statement",
    "read_variable",
    "refuse",
]
