"""JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree

from ferrum_numba.report import write_junit
from tests.report.results import failing, one_of_each


def written(tmp_path, results):
    path = tmp_path / "report.xml"
    write_junit(path, "ferrum-numba verify model", results)
    return ElementTree.parse(path).getroot()


def test_each_verdict_has_its_element(tmp_path):
    root = written(tmp_path, one_of_each())
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["5", "2", "1", "1"]
    assert [[element.tag for element in case] for case in suite] == [
        [],
        ["failure"],
        ["failure"],
        ["skipped"],
        ["error"],
    ]
    assert all(float(case.get("time")) >= 0 for case in suite)
    assert {case.get("classname") for case in suite} == {"ferrum-numba verify model"}


def test_a_failure_says_what_and_why(tmp_path):
    (element,) = written(tmp_path, [failing()])[0][0]
    assert element.get("type") == "mismatch"
    assert element.get("message") == failing().reason
    assert failing().explanation.cause.sentence in element.text
    assert "M 4 on cpu by w4a16" in element.text


def test_names_with_what_xml_cannot_hold(tmp_path):
    case = written(tmp_path, one_of_each())[0][3]
    assert case.get("name") == "a.<script>alert(1)</script>&\"'\ufffd\ufffd"
