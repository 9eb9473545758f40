"""`ferrum-numba inspect` of cubins, fatbins and folders of Triton's cache; `ferrum-numba warm`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda.numba_cuda import unusable
from tests.cli.commands import run, run_json
from tests.conftest import FIXTURES

FOLDER = FIXTURES / "machine_code"
MODEL = FIXTURES / "models" / "llama31_rope"


def test_a_cubin() -> None:
    code, found = run_json("inspect", FOLDER / "sum_up_sm90a.cubin")
    assert code == 0
    (cubin,) = found["cubins"]
    assert cubin["target"] == "sm_90a"
    entries = {entry["entry"]: entry for entry in cubin["entries"]}
    assert entries["scale"]["params"] == [[0, 8], [8, 8], [16, 4], [20, 4]]
    assert entries["sum_up"]["max_block"] == [128, 1, 1]
    assert entries["sum_up"]["ctas_per_sm"] == 16
    shown = run("inspect", FOLDER / "sum_up_sm90a.cubin").stdout
    assert "128 x 1 x 1" in shown
    assert "256 bytes, static" in shown


def test_a_fatbin() -> None:
    code, found = run_json("inspect", FOLDER / "sum_up_none.fatbin")
    assert code == 0
    assert [(m["kind"], m["target"]) for m in found["members"]].count(("PTX", "sm_80")) == 1
    assert [cubin["target"] for cubin in found["cubins"]] == ["sm_80", "sm_90a"]
    assert "sm_90a" in run("inspect", FOLDER / "sum_up_speed.fatbin").stdout


def test_a_folder_of_tritons_cache(tmp_path: Path) -> None:
    """Its parts agree, or it says in what they do not."""
    code, found = run_json("inspect", FOLDER / "triton_sm80")
    assert (code, found["machine_code"]["disagreements"]) == (0, [])
    assert found["entries"][0]["entry"] == "add_scaled"
    for path in (FOLDER / "triton_sm80").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    later = FOLDER / "triton_sm90" / "add_scaled.cubin"
    (tmp_path / "add_scaled.cubin").write_bytes(later.read_bytes())
    code, found = run_json("inspect", tmp_path)
    assert code == 1
    assert found["machine_code"]["disagreements"] == ["target: the PTX says sm_80, the cubin sm_90"]
    assert "disagrees" in run("inspect", tmp_path).stdout


def test_what_does_not_go_together() -> None:
    result = run("inspect", FOLDER / "sum_up_sm80.cubin", "--all")
    assert result.exit_code == 2
    assert "no other option than --json" in result.stderr


def test_warm_without_a_gpu(tmp_path: Path) -> None:
    result = run("warm", MODEL, "--into", tmp_path / "code", "--device", "cpu")
    assert result.exit_code == 2
    assert "expected a GPU, found cpu" in result.stderr
    if unusable() is not None:
        assert run("warm", MODEL, "--into", tmp_path / "code").exit_code == 3


@pytest.mark.gpu
def test_warm(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's launches load the files that it writes."""
    code, found = run_json("warm", MODEL, "--into", tmp_path / "code")
    assert code == 0
    assert len(found["files"]) >= 9
    assert all("expected one on PATH" in reason for reason in found["left"].values())
    names = {path.name for path in (tmp_path / "code").iterdir()}
    assert names == set(found["files"])
    assert all((tmp_path / "code" / name).read_bytes()[:4] == b"\x7fELF" for name in names)
    model = fe.Model.load(MODEL, device=gpu)
    assert list(model.generate([1, 2, 3], 4))
