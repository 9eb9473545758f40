"""`ferrum-numba sanitize`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ferrum_numba import kernels
from tests.cli.commands import run, run_json


def test_a_shipped_kernel_is_clean() -> None:
    result = run("sanitize", "add_bias.sm_80", "--n", 600)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("clean add_bias.sm_80 at M = 5, N = 600")


def test_findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = kernels.artefact("add_bias.sm_80")
    broken = shipped.text.replace("@%p1 st.global.b16", "st.global.b16")
    sidecar = (kernels.folder() / "add_bias.sm_80.json").read_text()
    (tmp_path / "broken.ptx").write_text(broken)
    lines = [line for line in sidecar.splitlines() if "ptx_sha256" not in line]
    (tmp_path / "broken.json").write_text("\n".join(lines).replace('",\n}', '"\n}'))
    monkeypatch.setattr("ferrum_numba.kernels.catalogue.folder", lambda: tmp_path)
    code, printed = run_json("sanitize", "broken", "--m", 2, "--n", 20, "--checks", "memory")
    assert code == 1
    finding = printed["findings"][0]
    assert (finding["kind"], finding["array"], finding["offset"]) == ("out-of-bounds", "c", 80)
    result = run("sanitize", "broken", "--m", 2, "--n", 20, "--checks", "memory")
    assert result.exit_code == 1
    assert "PTX line" in result.output
    assert "add_bias.py:21" in result.output
    assert "1 finding " in result.output


def test_usage() -> None:
    assert run("sanitize").exit_code == 2
    assert run("sanitize", "no_such_kernel").exit_code == 2
    assert run("sanitize", "add_bias.sm_80", "--checks", "bounds").exit_code == 2
    assert run("sanitize", "add_bias.sm_80", "--layer", "x").exit_code == 2
