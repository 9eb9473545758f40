"""The examples run as they stand, on each device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ferrum_numba.examples
from tests.conftest import DEVICES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(ferrum_numba.examples.__file__).parent
EXAMPLES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
# A kernel's source, one that is given a model, and one that downloads it.
ON_THEIR_OWN = sorted({*EXAMPLES} - {"row_softmax", "chat", "real_model"})


def run(*command: str, cwd: Path, said: str = "", **environment: str) -> str:
    """Output of Python for these arguments, given `said` on standard input."""
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # numba-cuda's own deprecations, against newer NumPy, are not ours to mend.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", *command],
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
    assert run("-m", f"ferrum_numba.examples.{name}", cwd=tmp_path, FERRUM_DEVICE=device)


def test_the_list_and_a_copy(tmp_path: Path) -> None:
    """A copy has its files beside it, and runs; one that is there stays."""
    listed = run("-m", "ferrum_numba.examples", cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in listed] == EXAMPLES
    said = run("-m", "ferrum_numba.examples", "--copy", "layer_test", cwd=tmp_path)
    assert said == "layer_test.py\n"
    assert "0 wrong" in run("layer_test.py", cwd=tmp_path, FERRUM_DEVICE="cpu")
    with pytest.raises(AssertionError, match="expected no such file here"):
        run("-m", "ferrum_numba.examples", "--copy", "layer_test", cwd=tmp_path)


@pytest.mark.parametrize("device", DEVICES)
def test_chat(device: str, tmp_path: Path) -> None:
    """Two messages; the answers of random weights are of no interest."""
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    from tests.models.tiny import make_model
    from tests.text.vocabularies import letters, write_tokenizer

    often = list(range(48))  # half of all tokens end an answer
    folder = make_model(tmp_path / "model", vocab_size=96, eos_token_id=often)
    write_tokenizer(folder, letters())
    chat = ("-m", "ferrum_numba.examples.chat", str(folder))
    found = run(*chat, cwd=tmp_path, said="hi\nho\n\n", FERRUM_DEVICE=device)
    assert found.count("> ") >= 3


def test_the_strangers_ptx_is_what_its_source_compiles_to(tmp_path: Path) -> None:
    triton = pytest.importorskip("triton")
    if triton.__version__ != "3.6.0":
        pytest.skip(f"compiled with Triton 3.6.0, here is {triton.__version__}")
    source = FOLDER / "row_softmax.py"
    shutil.copy(source, tmp_path)
    cache = str(tmp_path / "cache")
    run(source.name, cwd=tmp_path, TRITON_DISABLE_LINE_INFO="1", TRITON_CACHE_DIR=cache)
    compiled = tmp_path / "row_softmax.ptx"
    assert compiled.read_text() == source.with_suffix(".ptx").read_text()
