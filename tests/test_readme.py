"""The README's Python runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?```python\n(.*?)```", README, re.M | re.S)


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_python_blocks(title: str, code: str, tmp_path: Path) -> None:
    for folder in ("ptx", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = os.environ | {"FERRUM_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_there_is_one_for_each_use() -> None:
    assert len(BLOCKS) == 6
