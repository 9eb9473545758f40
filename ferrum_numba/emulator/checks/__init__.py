"""Checks: native code that looks at every access, and says where a kernel is wrong.

    program = CheckedProgram(text, entry, checks=("memory", "init", "race"))
    findings = program.run(..., arrays=[LaunchArray("a", address, nbytes), ...])

The lowering of an access calls a hook, which watch.py passes on to the checks that are active.  A
check (check.py) is one class: the kinds of its findings with their texts, what it keeps in memory,
and hooks, which emit calls of functions in LLVM IR.  These write records (code.py, state.py), of
which report.py makes findings (finding.py).  A new check is a file of its own, and a line in ALL of
watch.py.
"""

from importlib import import_module
from pkgutil import iter_modules

from .arrays import LaunchArray
from .finding import Finding
from .program import CheckedProgram
from .report import CHECKS, USUAL

for _module in iter_modules(__path__):  # their functions go into the library
    import_module(f"{__name__}.{_module.name}")

__all__ = ["CHECKS", "USUAL", "CheckedProgram", "Finding", "LaunchArray"]
