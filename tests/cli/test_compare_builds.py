"""`ferrum-numba compare` of two PTX."""

from __future__ import annotations

import re

import pytest

from ferrum_numba import kernels
from tests.cli.commands import run, run_json
from tests.corpus import FOLDER
from tests.gptq.fixtures import fixture

V1, V2 = (f"w4a16_gptq_gemm_typed.v{n}.sm_80" for n in (1, 2))


def test_two_shipped_kernels():
    result = run("compare", V1, V2)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "yes: a launcher of A launches B" in result.stdout.splitlines()[-1]
    code, found = run_json("compare", V1, V2)
    assert (code, found["launches"]) == (0, True)
    assert found["sentence"] in result.stdout
    assert [change["subject"] for change in found["changes"]] == ["constants"]
    counts = {count["name"]: count for count in found["entries"][0]["families"]}
    assert counts["tensor"] == {"name": "tensor", "a": 24, "b": 24}


def test_what_has_to_change_is_exit_code_1():
    old, new = (FOLDER / f"scale_add.triton-{version}.sm_80.ptx" for version in ("3.2.0", "3.9.0"))
    result = run("compare", old, new)
    assert result.exit_code == 1
    assert "no: parameter 5 (global scratch), parameter 6" in result.stdout.splitlines()[-1]


def test_builds_loaded_on_a_device(tmp_path):
    code, found = run_json("compare", V1, V2, "--device", "cpu")
    loads = {"name": "cpu", "verdict": "loads", "reason": ""}
    assert (code, found["device"]) == (0, {"a": loads, "b": loads})
    text = kernels.artefact(V1).text
    (tmp_path / "strange.ptx").write_text(text.replace("\tret;", "\tfrobnicate;\n\tret;", 1))
    result = run("compare", V1, tmp_path / "strange.ptx", "--device", "cpu")
    assert result.exit_code == 1
    assert "A on cpu: loads" in result.stdout
    assert re.search(r"B on cpu: refuses: PTX line \d+: frobnicate", result.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        [V1],
        [V1, fixture("gm_v1_sym_g128")],
        [fixture("gm_v1_sym_g128"), V1],
        [V1, V2, "--layers", "*"],
        [V1, "--devices", "cpu", "cpu"],
        [V1, "nowhere.ptx"],
    ],
)
def test_wrong_arguments_are_exit_code_2(arguments):
    result = run("compare", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_it_fits_the_console(columns):
    names = [FOLDER / f"dot.triton-3.6.0.sm_{target}.ptx" for target in (80, 90)]
    output = run("compare", *names, columns=columns).stdout
    assert max(map(len, output.splitlines())) <= columns
