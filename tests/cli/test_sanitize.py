"""`ferrum-numba sanitize`."""

from __future__ import annotations

import json
from pathlib import Path

from ferrum_numba import kernels
from tests.cli.commands import run, run_json


def test_a_shipped_kernel_is_clean() -> None:
    result = run("sanitize", "add_bias.sm_80", "--n", 600)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("clean: add_bias.sm_80 at M = 5, N = 600")


def test_findings(tmp_path: Path) -> None:
    shipped = kernels.artefact("add_bias.sm_80")
    broken = shipped.text.replace("@%p1 st.global.b16", "st.global.b16")
    sidecar = {key: value for key, value in shipped.declared.items() if key != "ptx_sha256"}
    (tmp_path / "broken.ptx").write_text(broken)
    (tmp_path / "broken.json").write_text(json.dumps(sidecar))
    options = (tmp_path / "broken.ptx", "--m", 2, "--size", "N=20", "--checks", "memory")
    code, printed = run_json("sanitize", *options)
    assert code == 1
    finding = printed["findings"][0]
    assert (finding["kind"], finding["array"], finding["offset"]) == ("out-of-bounds", "c", 80)
    result = run("sanitize", *options)
    assert result.exit_code == 1
    assert "PTX line" in result.output
    assert "add_bias.py:21" in result.output
    assert "1 finding: " in result.output


def test_usage() -> None:
    assert run("sanitize").exit_code == 2
    assert run("sanitize", "add_bias.sm_80", "--device", "cuda:99").exit_code == 3
    assert run("sanitize", "no_such_kernel").exit_code == 2
    assert run("sanitize", "add_bias.sm_80", "--checks", "bounds").exit_code == 2
    assert run("sanitize", "add_bias.sm_80", "--layer", "x").exit_code == 2


def test_ptx_whose_arrays_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "alone.ptx").write_text(kernels.artefact("add_bias.sm_80").text)
    result = run("sanitize", tmp_path / "alone.ptx")
    assert result.exit_code == 2
    assert "no sidecar declares its arrays" in result.output
