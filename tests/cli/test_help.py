"""Help, narrow consoles and completion: nothing that matters is cut off."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.cli import clock
from ferrum_numba.cli.app import COMMANDS
from ferrum_numba.devices.cuda.numba_cuda import unusable
from ferrum_numba.examples import __file__ as examples
from tests.cli.commands import run, run_python

WIDTHS = (60, 80, 200)
# Examples of something that is wrong, or differs.
WRONG = (
    "ferrum-numba explain damaged",
    "ferrum-numba compare add_bias.sm_80 add_bias.bf16.sm_80",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples in the helps name."""
    path = tmp_path_factory.mktemp("examples")
    for name, options in {"example": (), "other": ("--format", "v2")}.items():
        assert run("make", path / name, *options).exit_code == 0
    run("make", path / "damaged", "--fault", "missing-scales")
    (path / "text.txt").write_text("A text that a model of random weights finds unlikely.")
    for suffix in (".ptx", ".json"):
        source = Path(examples).parent / f"row_softmax{suffix}"
        (path / source.name).write_bytes(source.read_bytes())
    device = fe.open_device("cpu")
    layer = fe.GptqLinear.load(path / "example", "model.layers.0.mlp.up_proj", device=device)
    with fe.record(path / "run.ferrum"):
        layer(np.ones((1, layer.K), np.float16))
    return path


def lines_of(command: str) -> list[str]:
    """The examples in a command's help."""
    said = run(command, "--help", columns=200).output
    return re.findall(r"^ +(ferrum-numba .*)$", said.partition("Examples:")[2], re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples_and_they_run(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FERRUM_DEVICE", "cpu")
    lines = lines_of(command)
    assert lines
    for line in lines:
        _, *arguments = shlex.split(line)
        assert arguments[0] == command
        if command == "make" and Path(arguments[1]).exists():
            arguments[1] += "-again"
        found = run(*arguments)
        expected = 1 if line in WRONG else 3 if command == "warm" and unusable() else 0
        assert found.exit_code == expected, f"{line}\n{found.output}"


@pytest.mark.parametrize("columns", WIDTHS)
def test_no_help_is_cut(columns: int) -> None:
    for command in COMMANDS:
        said = run(command, "--help", columns=columns).output
        assert "..." not in said.replace(",...", ""), command
        assert "…" not in said
    if columns >= 80:
        assert "..." not in run("--help", columns=columns).output.replace("[ARGS]...", "")


@pytest.mark.parametrize("columns", [24, *WIDTHS])
def test_a_verdict_is_never_hidden(columns: int, folder: Path) -> None:
    """Nor is any cell that is shown cut: what has no room is named below the table."""
    said = run("verify", folder / "example", "--device", "cpu", "--m", 1, columns=columns)
    assert said.stdout.count("pass") == 14 + 1  # and the summary's
    assert said.stdout.replace("…\n", "").count("…") == 0
    for line in said.stdout.splitlines():
        assert len(line) <= columns
    found = run("compare", folder / "example", folder / "other", columns=columns)
    assert found.stdout.count("pass") == 14 + 1
    timed = run(
        "bench", folder / "example", "--device", "cpu", "--layers", "*q_proj", columns=columns
    )
    assert timed.stdout.count("pass") == 2 + 1


def test_columns_that_are_left_out_are_named(folder: Path) -> None:
    narrow = run("verify", folder / "example", "--device", "cpu", "--m", 1, columns=60).stdout
    assert "no room for" in narrow
    assert "max abs error" in narrow
    wide = run("verify", folder / "example", "--device", "cpu", "--m", 1, columns=200).stdout
    assert "no room for" not in wide


def test_info_is_short_and_lists_kernels_when_asked() -> None:
    assert len(run("info", columns=80).stdout.splitlines()) < 30
    listed = run("info", "--kernels").stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(fe.kernels.names())
    some = run("info", "--kernels", "rms_norm*").stdout.splitlines()
    assert 0 < len(some) < 20
    none = run("info", "--kernels", "rms_norm.b1024.sm_81")
    assert none.exit_code == 2
    assert "did you mean rms_norm" in none.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str) -> None:
    code = "from ferrum_numba.cli import main; main()"
    asked = {"_FERRUM_NUMBA_COMPLETE": f"{shell}_source"}
    named = f"import sys; sys.argv[0] = 'ferrum-numba'; {code}"
    said = run_python("-c", named, **asked)
    assert "ferrum_numba" in said.stdout, said.stderr


def test_a_command_reads_its_own_files_alone() -> None:
    code = (
        "import sys\nfrom ferrum_numba.cli.app import app\n"
        "app(['info', '--help'], standalone_mode=False)\n"
        "print({'ferrum_numba.cli.verify', 'ferrum_numba.cli.explain'} & {*sys.modules})"
    )
    assert run_python("-c", code).stdout.splitlines()[-1] == "set()"


def test_a_time_is_that_of_the_wall() -> None:
    """From the start of the process, imports included."""
    code = (
        "import time; time.sleep(0.5)\n"
        "from ferrum_numba.cli import clock\n"
        "clock.start(process=True); print(clock.elapsed())"
    )
    start = time.perf_counter()
    found = float(run_python("-c", code).stdout)
    wall = time.perf_counter() - start
    if Path("/proc/self/stat").exists():
        assert 0.5 <= found <= wall + 0.05
    clock.start()
    assert clock.elapsed() < 0.5
