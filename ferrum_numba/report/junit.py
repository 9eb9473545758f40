"""JUnit XML, as CI systems read it: a test case for each layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

from ..gptq.files import replacing
from .layer_test import LayerResult, Verdict

_ELEMENTS: dict[Verdict, str] = {"mismatch": "failure", "refused": "skipped", "error": "error"}
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def write_junit(path: Path, suite: str, results: Sequence[LayerResult]) -> None:
    """Write a `testsuites` document with one `testsuite` of this name.  Raises OSError.

    A mismatch is a failure, and a refused layer a skipped test: nothing is known to be wrong.
    """
    document = ElementTree.Element("testsuites")
    counts = {
        "tests": str(len(results)),
        **{f"{name}s": str(_count(results, name)) for name in ("failure", "error")},
        "skipped": str(_count(results, "skipped")),
        "time": f"{sum(result.seconds for result in results):.3f}",
    }
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    attributes = {"name": _clean(suite), **counts, "timestamp": now}
    cases = ElementTree.SubElement(document, "testsuite", attributes)
    for result in results:
        cases.append(_case(suite, result))
    ElementTree.indent(document)
    with replacing(path) as file:
        ElementTree.ElementTree(document).write(file, encoding="utf-8", xml_declaration=True)


def _count(results: Sequence[LayerResult], element: str) -> int:
    return sum(_ELEMENTS.get(result.verdict) == element for result in results)


def _case(suite: str, result: LayerResult) -> ElementTree.Element:
    attributes = {
        "classname": _clean(suite),
        "name": _clean(f"{result.layer} [{result.kernel}]" if result.kernel else result.layer),
        "time": f"{result.seconds:.3f}",
    }
    case = ElementTree.Element("testcase", attributes)
    if result.verdict in _ELEMENTS:
        reason = {"type": result.verdict, "message": _clean(result.reason)}
        element = ElementTree.SubElement(case, _ELEMENTS[result.verdict], reason)
        element.text = _clean(_details(result))
    elif said := [*filter(None, [result.note]), *result.warnings]:
        ElementTree.SubElement(case, "system-out").text = _clean("\n".join(said))
    return case


def _details(result: LayerResult) -> str:
    lines = [f"K {result.K}, N {result.N}, group size {result.group_size}, {result.zero_format}"]
    lines += [
        f"M {measured.m} on {result.device} by {measured.kernel}: relative error "
        f"{measured.relative_error:.2e} of {measured.tolerance:.2e}, worst element "
        f"{measured.worst_ratio:.3g} times its bound at {list(measured.worst_element)}"
        for measured in result.measurements
    ]
    lines += [result.explanation.cause.sentence] if result.explanation else []
    return "\n".join([*lines, *filter(None, [result.note]), *result.warnings])


def _clean(text: str) -> str:
    """A text less the characters that XML has no way to write."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
