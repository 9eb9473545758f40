"""PTX on the CPU: the same text and the same parameter block, as native code.

program = Program.compile(text, entry)
program.run(Job(grid=(1, 4, 1), block=(128, 1, 1), shared_bytes=8192, parameter_block=block))
"""

from .job import Job
from .program import Program
from .seat import LARGEST_SHARED
from .worker import MOST_WAITING

__all__ = ["LARGEST_SHARED", "MOST_WAITING", "Job", "Program"]
