"""The likely cause of a wrong launch: clues are weighed, and fixes tried on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..errors import FerrumError
from ..notebook import facts
from .array_clues import content_clues, guesses, place_clues, type_clues
from .blind import blind_guesses
from .block_clues import integer_clues, length_clues, number_clues, pointer_clues
from .build_clues import device_clues, ptx_clues, sidecar_clues
from .case import Case
from .causes import CAUSES
from .hypothesis import Clue, Hypothesis, Verdict
from .kernel_clues import in_a_line, kernel_clues
from .launch_clues import configuration_clues, configuration_guesses
from .reach_clues import element_clues, type_guesses
from .recording import Refused
from .result_clues import RELATIONS, result_clues, where_wrong
from .trial import ALL_CHECKS, Outcome, distance, is_right, run
from .weight_clues import zero_clues

_CERTAIN = 0.9  # the weight of evidence that stands without a trial
_STRONG = 0.75  # that of evidence that stands though its fix alone was not enough
_GUESS = 0.4  # and below: no evidence, a fix that is worth a try
_MARGIN = 0.15  # of weights between which a trial decides
_CLUES: tuple[Clue, ...] = (
    *(sidecar_clues, device_clues, place_clues, type_clues),
    *(length_clues, number_clues, pointer_clues, integer_clues),
    *(configuration_clues, content_clues, zero_clues, element_clues),
)
_GUESSES: tuple[Clue, ...] = (guesses, configuration_guesses, type_guesses, blind_guesses)


@dataclass(frozen=True)
class Suspect:
    """One cause with what speaks for it.

    verdict  "proved": with the fix the result is right; "mended": with it the checks find nothing
             more; "certain": a rule is broken; "suspected"; "refuted": with the fix it stays wrong
    weight   of the evidence alone, 0..1
    mended   the fix that was tried, in words; empty where none could be
    """

    cause: str
    verdict: Verdict
    evidence: str
    weight: float
    mended: str = ""

    def __str__(self) -> str:
        """The cause in one line."""
        what = CAUSES[self.cause].what
        if self.verdict == "proved":
            return f"{self.cause}: {what}; with {self.mended} the result is right"
        if self.verdict == "mended":
            return f"{self.cause}: {what}; with {self.mended} the checks find nothing more"
        sure = "" if self.verdict == "certain" or self.cause in ("none", "unknown") else "likely "
        return f"{sure}{self.cause}: {what}"


@dataclass(frozen=True)
class Diagnosis:
    """The answer about a launch.

    suspects  causes, the likeliest first; the first is the answer
    alike     further causes whose fix makes the result right too: nothing tells them apart
    error     ||result - expected|| / ||expected|| on the CPU as the launch is; None where it could
              not be run or nothing was expected
    wrong     which rows and columns of an output are wrong, where others are right
    tried     how many fixes were run
    """

    suspects: Sequence[Suspect]
    alike: Sequence[str]
    error: float | None
    findings: Sequence[str]
    tried: int
    seconds: float
    wrong: str = ""

    @property
    def first_line(self) -> str:
        """The answer in one line: the cause's name and what it is."""
        return str(self.suspects[0])

    def rows(self) -> list[tuple[str, str]]:
        """The lines below the first one: (label, text)."""
        first = self.suspects[0]
        found = [("evidence", first.evidence)]
        if self.error is not None and first.cause != "none":
            found.append(("as it is", f"run on the CPU, its relative error is {self.error:.2g}"))
        if self.wrong:
            found.append(("wrong", self.wrong))
        if self.findings and first.evidence not in self.findings:
            more = f", and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
            found.append(("checks", self.findings[0] + more))
        if first.cause != "none":
            found.append(("to do", CAUSES[first.cause].advice))
        if self.alike:
            found.append(("or", f"{', '.join(self.alike)}: its fix makes the result right too"))
        if first.verdict not in ("proved", "mended"):
            others = {s.cause: s for s in reversed(self.suspects) if s.verdict != "refuted"}
            others.pop(first.cause, None)
            rest = sorted(others.values(), key=lambda s: -s.weight)[:3]
            found += [("less likely", f"{s} ({s.evidence})") for s in rest]
        return found

    def _repr_html_(self) -> str:
        return facts(self.first_line, self.rows())

    def __str__(self) -> str:
        return "\n".join([self.first_line, *(f"{label}: {text}" for label, text in self.rows())])


def explain(case: Case, *, seconds: float = 20.0) -> Diagnosis:
    """Name the likely cause of a wrong or failed launch.

    seconds: how long fixes may be tried.  Raises nothing for a case that makes no sense: that it
    makes none is the answer.
    """
    start = time.perf_counter()
    broken = list(ptx_clues(case))
    if broken:
        return _answer([_untried(h) for h in broken], None, start)
    clues = _gather(case, _CLUES)
    base = run(case, ALL_CHECKS)
    clues += kernel_clues(case, base) + result_clues(case, base)
    trials = _Trials(case, base, start + seconds)
    suspects = [trials.weigh(clue) for clue in sorted(clues, key=lambda clue: -clue.weight)]
    if trials.useful and not any(_settles(case, s) for s in suspects):
        for guess in (g for clue in _GUESSES for g in _gather(case, (clue,))):
            suspect = trials.weigh(guess)
            if suspect.verdict == "proved":
                suspects.append(suspect)
            if trials.over:
                break
    suspects += _around(case, trials, suspects)
    return _answer(suspects, trials, start)


def explain_refused(refused: Refused) -> Diagnosis:
    """Name the likely cause of a recorded launch whose arguments were refused."""
    cause = refused.cause if refused.cause in CAUSES else "argument-refused"
    evidence = f"{refused.evidence}; {refused.error}" if refused.evidence else refused.error
    return Diagnosis([Suspect(cause, "certain", evidence, 0.95)], [], None, [], 0, 0.0)


def _settles(case: Case, suspect: Suspect) -> bool:
    """True if there is nothing left to guess: a fix was right, or a launch whose numbers are known
    to be right differs from what is expected in one way throughout."""
    throughout = suspect.verdict == "certain" and suspect.cause in RELATIONS
    return suspect.verdict == "proved" or (throughout and bool(case.declared.params))


class _Trials:
    """Fixes run one after the other, as long as there is time."""

    def __init__(self, case: Case, base: Outcome, until: float) -> None:
        self.case = case
        self.base = base
        # Without the checks for races, which let copies land as late as they may.
        again = bool(case.expected) and not base.error
        self.right = _passes(case, run(case) if again else base)
        self.useful = bool(case.expected) and not self.right
        self.tried = 0
        self._until = until
        self._enough = 0.0  # once a fix is right, only what was as likely is still tried

    @property
    def over(self) -> bool:
        """True if there is no time left."""
        return time.perf_counter() > self._until

    def weigh(self, hypothesis: Hypothesis) -> Suspect:
        """Try a hypothesis, where that can tell anything."""
        remedy = hypothesis.remedy
        mendable = not self.case.expected and not self.base.clean
        worth = hypothesis.weight >= self._enough and not self.over
        if remedy is None or not worth or not (self.useful or mendable):
            return _untried(hypothesis)
        self.tried += 1
        outcome = run(remedy)
        if self.useful and _passes(remedy, outcome):
            margin = _MARGIN if hypothesis.weight > _GUESS else 0
            self._enough = max(self._enough, hypothesis.weight - margin)
            return _suspect(hypothesis, "proved")
        if mendable and outcome.clean and run(remedy, ALL_CHECKS).clean:
            return _suspect(hypothesis, "mended")
        if self.useful and hypothesis.weight < _CERTAIN:
            return _suspect(hypothesis, "refuted")
        return _untried(hypothesis)

    def error(self) -> float | None:
        """Relative error of the result as the launch stands."""
        if self.base.error or not self.case.expected:
            return None
        pairs = [(n, e) for n, e in self.case.expected.items() if n in self.base.outputs]
        return max((distance(self.base.outputs[n], e) for n, e in pairs), default=None)

    def wrong(self) -> str:
        """Name the rows or columns of outputs that are wrong; empty where all are."""
        parts = []
        for name, expected in self.case.expected.items():
            result = self.base.outputs.get(name)
            part = "" if result is None else where_wrong(result, expected)
            parts += [f"{part} of {name}"] if part else []
        return "; ".join(parts)


def _passes(case: Case, outcome: Outcome) -> bool:
    """True if a result is right, and came about without an access outside the arrays."""
    if outcome.error or any(finding.check == "memory" for finding in outcome.findings):
        return False
    return is_right(case, outcome.outputs)


def _gather(case: Case, clues: Sequence[Clue]) -> list[Hypothesis]:
    """All hypotheses of the clues; a clue that cannot read the case yields none."""
    found: list[Hypothesis] = []
    for clue in clues:
        try:
            found += list(clue(case))
        except FerrumError:
            continue
    return found


def _untried(hypothesis: Hypothesis) -> Suspect:
    certain = hypothesis.weight >= _CERTAIN
    return _suspect(hypothesis, "certain" if certain else "suspected")


def _suspect(hypothesis: Hypothesis, verdict: Verdict) -> Suspect:
    return Suspect(
        hypothesis.cause, verdict, hypothesis.evidence, hypothesis.weight, hypothesis.mended
    )


def _around(case: Case, trials: _Trials, suspects: Sequence[Suspect]) -> Iterator[Suspect]:
    """The answer where no clue decided."""
    if any(s.verdict in ("proved", "mended", "certain") for s in suspects):
        return
    if trials.right and not trials.base.findings:
        found = is_right(case, case.found) if case.found else True
        if found and not case.error:
            yield Suspect("none", "certain", "on the CPU its result is the expected one", 1.0)
        else:
            told = "run on the CPU it gives the expected result, where it was launched it did not"
            yield Suspect("elsewhere", "certain", told, 0.95)
        return
    if not case.expected and trials.base.clean and not suspects:
        told = "the block, the arrays and the checks show nothing; what result was expected?"
        yield Suspect("none", "suspected", told, 0.5)
        return
    strong = [s for s in suspects if s.verdict == "refuted" and s.weight >= _STRONG]
    for s in strong:  # what else is wrong hides that its fix is one
        told = f"{s.evidence}; with {s.mended} alone the result stays wrong"
        yield Suspect(s.cause, "suspected", told, s.weight)
    if not strong and not any(s.verdict == "suspected" for s in suspects):
        told = f"{trials.tried} fixes were tried, and none makes the result right"
        yield Suspect("unknown", "suspected", trials.base.error or told, 0.1)


_RANK = {"proved": 4, "mended": 3, "certain": 2, "suspected": 1, "refuted": 0}


def _answer(suspects: Sequence[Suspect], trials: _Trials | None, start: float) -> Diagnosis:
    ranked = sorted(suspects, key=lambda s: (-_RANK[s.verdict], -s.weight))
    proved = [s.cause for s in ranked if s.verdict == "proved"]
    alike = [c for c in dict.fromkeys(proved) if c != ranked[0].cause]
    findings = [in_a_line(f) for f in trials.base.findings] if trials else []
    short = partial(_short, trials.case if trials else None)
    return Diagnosis(
        suspects=[replace(s, evidence=short(s.evidence), mended=short(s.mended)) for s in ranked],
        alike=alike,
        error=trials.error() if trials else None,
        findings=[short(finding) for finding in findings],
        tried=trials.tried if trials else 0,
        seconds=time.perf_counter() - start,
        wrong=short(trials.wrong()) if trials and trials.useful else "",
    )


def _short(case: Case | None, text: str) -> str:
    """A text less the entry's name, which compilers put before each parameter's."""
    return text.replace(f"{case.signature.entry}_param_", "param_") if case else text
