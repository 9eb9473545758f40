"""Wrong usage of commands: one clear message, exit code 2, and nothing done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ferrum_numba as fe
from ferrum_numba.debug.recorder import record
from tests.cli.commands import run
from tests.conftest import FIXTURES
from tests.devices import canonical

CHECKPOINT = FIXTURES / "gm_v1_sym_g128"
LAYER = "model.layers.0.self_attn.q_proj"
KERNEL = "w4a16_gptq_gemm_typed.v1.sm_80"
TYPO = "w4a16_gptq_gemm_typed.v1.sm_8"
MEANT = f"did you mean {KERNEL}?"


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    device, path = fe.open_device("cpu"), tmp_path / "run.ferrum"
    with record(path):
        canonical.kernel(device).launch(canonical.CONFIG, **canonical.arguments(device))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # names that nobody has
        (["inspect", TYPO], MEANT),
        (["trace", TYPO], MEANT),
        (["params", TYPO, "--set", "M=1"], MEANT),
        (["sanitize", TYPO], MEANT),
        (["sanitize", "add_bias.sm_80", "--size", "Q=5"], "--size: expected names among M, N"),
        (["sanitize", "w4a16_gptq_gemm_typd.v1*"], "no shipped kernel matches; did you mean"),
        (["compare", KERNEL, TYPO], MEANT),
        (["verify", CHECKPOINT, "--kernel", TYPO], MEANT),
        (["verify", CHECKPOINT, "--layers", "q_proj"], f"found 'q_proj'; did you mean {LAYER}?"),
        (["bench", CHECKPOINT, "--layers", "q_proj"], f"found 'q_proj'; did you mean {LAYER}?"),
        (["compare", CHECKPOINT, CHECKPOINT, "--layers", "q_prj"], f"did you mean {LAYER}"),
        (["explain", TYPO, "--bytes", "00"], MEANT),
        (["explain", "gone.ferrum"], "expected a recording, a .ptx file, the name of a shipped"),
        (["inspect", "nothing"], "found neither; ferrum-numba info --kernels lists these"),
        # numbers that nothing is measured by
        (["compare", CHECKPOINT, CHECKPOINT, "--tolerance", "nan"], "a number from 0, found 'nan'"),
        (["info", "--shape", "1,4096,4095"], "expected K % 8 == 0, which every kernel needs"),
        (["info", "--shape", "1,64,64", "--group-size", "0"], "expected group_size >= 8"),
        # options that mean nothing there
        (["info", "--group-size", "32"], "--group-size: only with --shape"),
        (["explain", CHECKPOINT, "--layer", LAYER], "--layer: of a checkpoint every layer"),
        (["sanitize", "--checkpoint", CHECKPOINT, "--layer", LAYER, "--k", 8], "--k: the layer"),
        # files that could not be written in the end
        (["compare", CHECKPOINT, CHECKPOINT, "--html", "/nowhere/a.html"], "/nowhere/a.html: "),
        (["trace", KERNEL, "--map", "/nowhere/a.png"], "expected a folder to write the file into"),
    ],
)
def test_it_is_refused(arguments: list[object], message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.stdout
    assert message in result.stderr


def test_recordings_are_named_by_launch(recorded: Path) -> None:
    for arguments, message in (
        (["params", recorded], "--launch: of a recording, name a launch by its number"),
        (["explain", recorded, "--grid", "1"], "--grid: the recording says it"),
        (["replay", recorded, "--tolerance", "nan"], "a number from 0, found 'nan'"),
        (["replay", recorded, "--checks", ""], "expected some of memory,init,race,order"),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


def test_a_recording_without_launches_does_not_pass(recorded: Path) -> None:
    recorded.write_bytes(recorded.read_bytes()[:3000])
    result = run("replay", recorded, "--device", "cpu")
    assert result.exit_code == 2
    assert "expected at least one launch, found none, since it ends in its midst" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_nobody_takes() -> None:
    """A full disk is an error in a line; a reader that left is none, and no mismatch either."""
    command = [sys.executable, "-m", "ferrum_numba", "info", "--device", "cpu", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(fe.__file__).parents[1])}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=-1, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr == b"error: standard output: No space left on device\n"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=-1, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
