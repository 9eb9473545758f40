"""Checks: native code that looks at every access, and says where a kernel is wrong.

    program = CheckedProgram(text, entry, checks=("memory", "init", "race"))
    findings = program.run(..., arrays=[LaunchArray("a", address, nbytes), ...])

The lowering of an access calls a hook (watch.py, ordering.py), which emits calls of helpers in LLVM
IR: bounds.py (memory); tags.py and verdicts.py (init and race in shared memory); epochs.py or
clocks.py (what comes before what); copies.py (copies that land at the wait) and products.py
(wgmma); neighbours.py (lanes of a warp); marks.py and talks.py (who wrote an element of global
memory).  They write records (memory.py, records.py), of which report.py makes findings
(finding.py).
"""

from .arrays import LaunchArray
from .finding import CHECKS, Finding
from .program import CheckedProgram

__all__ = ["CHECKS", "CheckedProgram", "Finding", "LaunchArray"]
