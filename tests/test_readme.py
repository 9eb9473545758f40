"""The Python of README.md and of the pages in docs/ runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The Python blocks of a page, each with the page and the heading that it stands under."""
    title = ""
    text = page.read_text(encoding="utf-8")
    pattern = r"^```(\w*)\n(.*?)^```|^#+ ([^\n]*)"
    for language, code, heading in re.findall(pattern, text, re.M | re.S):
        title = heading or title
        if language == "python":
            yield f"{page.stem}: {title}", code


BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_python_blocks(title: str, code: str, tmp_path: Path) -> None:
    if "fe.Tokenizer" in code:
        pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    for folder in ("ptx", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = os.environ | {"FERRUM_DEVICE": "cpu"}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path, env=environment | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_there_is_one_for_each_use() -> None:
    assert sum(title.startswith("README: ") for title, _ in BLOCKS) == 7


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Those to pages and folders of the project, and to headings of pages."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        if "://" in path:
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        titles = re.findall(r"^#+ (.*)", found.read_text(encoding="utf-8"), re.M) if heading else []
        anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not heading or heading in anchors, target
