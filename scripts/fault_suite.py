"""Faults put into launches and checkpoints, and whether the debugger's first answer names them.

    python scripts/fault_suite.py                 # the table and the counts
    python scripts/fault_suite.py --shapes 3      # each fault in launches of three shapes
    python scripts/fault_suite.py --only norm     # those whose names have this in them
    python scripts/fault_suite.py --sweep         # instead: every parameter left out, and so on
    python scripts/fault_suite.py --json

Right is what has the injected cause as the first word of the first line.  Injectors
(tests/campaigns/launch_faults) and explainer share nothing but the causes' names.  Exits with 1
where less than 95 % are right.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from ferrum_numba.gptq.faults import FAULTS as CHECKPOINT_FAULTS
from tests.campaigns.launch_faults import AREAS
from tests.campaigns.launch_faults.answer import Answer, ask, ask_checkpoint
from tests.campaigns.launch_faults.checkpoints import CAUSES
from tests.campaigns.launch_faults.sweep import sweep

SHARE = 0.95


def answers(shapes: int, only: str = "") -> Iterator[tuple[Answer, str]]:
    """All answers, each with what was injected; only: part of the faults' names."""
    for area, faults in AREAS.items():
        for fault in faults:
            for shape in range(shapes):
                if only in fault.name:
                    yield ask(area, fault, shape), fault.what
    for name in CAUSES:
        if only in name:
            yield ask_checkpoint(name), CHECKPOINT_FAULTS[name].what


def swept(shapes: int, only: str = "") -> Iterator[tuple[Answer, str]]:
    """The answers to faults that nobody chose."""
    for shape in range(shapes):
        for fault in sweep(shape):
            if only in fault.name:
                yield ask("sweep", fault, shape), fault.what


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    given = []
    asked = swept if options.sweep else answers
    for answer, what in asked(options.shapes, options.only):
        given.append(answer)
        if not options.json:
            show(answer, what)
    if options.json:
        print(json.dumps([asdict(a) | {"right": a.right} for a in given], indent=1))
    else:
        summarise(given)
    right = sum(answer.right for answer in given)
    return 0 if right >= SHARE * len(given) and not any(a.crashed for a in given) else 1


def show(answer: Answer, what: str) -> None:
    """One row."""
    mark = "right" if answer.right else "CRASH" if answer.crashed else "WRONG"
    print(f"{mark}  {answer.area}: {answer.fault} ({what})")
    print(f"       {answer.first_line}  [{answer.seconds:.1f} s]", flush=True)
    if not answer.right:
        print(f"       expected {answer.cause}")
    if answer.alike:
        print(f"       cannot be told apart from {', '.join(answer.alike)}")


def summarise(given: list[Answer]) -> None:
    """Counts by area, and of all."""
    print()
    for area in dict.fromkeys(answer.area for answer in given):
        of = [answer for answer in given if answer.area == area]
        print(f"{area:28} {sum(a.right for a in of):3} of {len(of):3}")
    right, crashed = (sum(getattr(a, n) for a in given) for n in ("right", "crashed"))
    seconds = sum(answer.seconds for answer in given)
    print(
        f"{'all':28} {right:3} of {len(given):3} ({right / len(given):.1%}), "
        f"{crashed} crashed, {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
