"""The examples run as they stand, on each device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DEVICES

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(p.name for p in (ROOT / "scripts" / "examples").glob("*.py"))
# One is a kernel, the other wants to be told a model.
ON_THEIR_OWN = [name for name in EXAMPLES if name not in ("row_softmax.py", "chat.py")]


def run(path: Path, cwd: Path, *arguments: str, said: str = "", **environment: str) -> str:
    """What the example prints, given `said` on standard input."""
    # numba-cuda's own deprecations, against newer NumPy, are not ours to mend.
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(path)]
    done = subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        input=said,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ON_THEIR_OWN)
def test_example(name: str, device: str, tmp_path: Path) -> None:
    """From any folder."""
    path = ROOT / "scripts" / "examples" / name
    assert run(path, tmp_path, FERRUM_DEVICE=device, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("device", DEVICES)
def test_chat(device: str, tmp_path: Path) -> None:
    """Two messages; the answers of random weights are of no interest."""
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    from tests.models.tiny import make_model
    from tests.models.vocabularies import letters, write_tokenizer

    often = list(range(48))  # half of all tokens end an answer
    folder = make_model(tmp_path / "model", vocab_size=96, eos_token_id=often)
    write_tokenizer(folder, letters())
    path = ROOT / "scripts" / "examples" / "chat.py"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    said = "hi\nho\n\n"
    found = run(path, tmp_path, str(folder), said=said, FERRUM_DEVICE=device, PYTHONPATH=paths)
    assert found.count("> ") >= 3


def test_the_strangers_ptx_is_what_its_source_compiles_to(tmp_path: Path) -> None:
    triton = pytest.importorskip("triton")
    if triton.__version__ != "3.6.0":
        pytest.skip(f"compiled with Triton 3.6.0, here is {triton.__version__}")
    source = ROOT / "scripts" / "examples" / "row_softmax.py"
    shutil.copy(source, tmp_path)
    cache = str(tmp_path / "cache")
    run(tmp_path / source.name, tmp_path, TRITON_DISABLE_LINE_INFO="1", TRITON_CACHE_DIR=cache)
    compiled = tmp_path / "row_softmax.ptx"
    assert compiled.read_text() == source.with_suffix(".ptx").read_text()
