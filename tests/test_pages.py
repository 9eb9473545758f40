"""Pages: their code runs as it stands there, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ferrum_numba.debug.causes import CAUSES
from tests.cli.test_help import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if re.search(r"^```(python|sh)\n", page.read_text(), re.M)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_runs(page: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "run_pages.py"), str(page)],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    """Those to pages and folders of the project, and to headings of pages."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        path, _, heading = target.partition("#")
        if "://" in path:
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        if heading and found.suffix == ".md" and "::: " not in found.read_text(encoding="utf-8"):
            titles = re.findall(r"^#+ (.*)", found.read_text(encoding="utf-8"), re.M)
            anchors = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in titles]
            assert heading in anchors, target


def test_every_command_has_its_place() -> None:
    """In the reference, with its options and a screen of a real run."""
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"\n## {name}\n" in page
        assert f'"screens/{name}.txt"' in page
        assert (ROOT / "docs" / "screens" / f"{name}.txt").exists()


def test_every_code_and_variable_is_on_its_page() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "ferrum_numba").rglob("*.py"))
    errors = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    for code in set(re.findall(r'\bcode ?= ?"([a-z0-9-]+)"', sources)) - CAUSES.keys():
        assert f"`{code}`" in errors, code
    variables = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    for name in set(re.findall(r'"(FERRUM_[A-Z0-9_]+)"', sources)):
        assert f"`{name}`" in variables, name
