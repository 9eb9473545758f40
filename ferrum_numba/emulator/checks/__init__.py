"""Checks: native code that looks at every access, and says where a kernel is wrong.

    program = CheckedProgram(text, entry, checks=("memory", "init", "race"))
    findings = program.run(..., arrays=[LaunchArray("a", address, nbytes), ...])

The lowering of an access calls a hook (watch.py), which emits calls of helpers in LLVM IR:
bounds.py (memory), tags.py (init and race in shared memory), copies.py (asynchronous copies that
land at the wait), marks.py (who wrote an element of global memory), epochs.py (barriers).  They
write records (memory.py, records.py), of which report.py makes findings (finding.py).
"""

from .arrays import LaunchArray
from .finding import CHECKS, Finding
from .program import CheckedProgram

__all__ = ["CHECKS", "CheckedProgram", "Finding", "LaunchArray"]
