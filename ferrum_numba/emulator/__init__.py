"""PTX on the CPU: the same text and the same parameter block, as native code.

program = Program.compile(text, entry)
program.run(grid=(1, 4, 1), block=(128, 1, 1), shared_bytes=8192, parameter_block=block)
"""

from .program import Program

__all__ = ["Program"]
