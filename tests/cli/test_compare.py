"""`ferrum-numba compare`."""

from __future__ import annotations

import pytest

from ferrum_numba.devices.cuda.numba_cuda import unusable
from tests.campaigns.layers import random_tensors
from tests.cli.commands import run, run_json
from tests.gptq.fixtures import fixture
from tests.report.checkpoints import write_checkpoint
from tests.report.faulty import TENSOR_FAULTS


@pytest.fixture
def sides(tmp_path):
    """Two checkpoints of format v2 whose layer b differs, and c and d are on one side only."""
    layer = random_tensors(128, 64, 64, zero_format="v2")
    other = TENSOR_FAULTS["scales-shifted+1"](layer)
    found = []
    for name, layers in (
        ("first", {"a": layer, "b": layer, "c": layer}),
        ("second", {"a": layer, "b": other, "d": layer}),
    ):
        (tmp_path / name).mkdir()
        found.append(write_checkpoint(tmp_path / name, layers, checkpoint_format="gptq_v2"))
    return found


def test_a_checkpoint_equals_itself():
    path = fixture("gm_v1_asym_g32_zp0")
    result = run("compare", path, path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("100.00%") == 7
    assert "7 layers: 7 pass; " in result.stdout


def test_differences_are_exit_code_1(sides):
    result = run("compare", *sides)
    assert (result.exit_code, result.stderr) == (1, "")
    assert "4 layers: 1 pass, 3 mismatch; " in result.stdout
    assert "mismatch: c: B has no layer of this name" in result.stdout
    assert "mismatch: b: It is certain that each group is given the scales of" in result.stdout


def test_json_has_everything(sides):
    code, found = run_json("compare", *sides, "--layers", "[ab]")
    assert (code, found["a"], found["b"]) == (1, str(sides[0]), str(sides[1]))
    assert [result["verdict"] for result in found["results"]] == ["pass", "mismatch"]
    assert found["results"][1]["worst_ratio"] is None  # infinite: only equal weights pass
    assert found["results"][1]["explanation"]["cause"]["name"] == "scales-shifted+1"
    assert [found["summary"][key] for key in ("layers", "pass", "mismatch")] == [2, 1, 1]


def test_a_tolerance(sides):
    assert run("compare", *sides, "--layers", "b", "--tolerance", 2).exit_code == 0


def test_a_page(sides, tmp_path):
    pytest.importorskip("jinja2", reason="the report extra is not installed")
    assert run("compare", *sides, "--html", tmp_path / "page.html").exit_code == 1
    html = (tmp_path / "page.html").read_text()
    assert html.count('<td class="layer"') == 4
    assert html.count("<details ") == 3
    assert html.count("data:image/png;base64,") == 2


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_it_fits_the_console(sides, columns):
    result = run("compare", *sides, columns=columns)
    assert max(map(len, result.stdout.splitlines())) <= columns


def test_one_checkpoint_on_two_devices():
    path = fixture("gm_v1_sym_g128")
    code, found = run_json("compare", path, "--devices", "cpu", "cpu", "--m", 3)
    assert (code, found["m"]) == (0, 3)
    assert [device["name"] for device in found["devices"]] == ["cpu", "cpu"]
    assert {result["worst_ratio"] for result in found["results"]} == {0}


def test_two_checkpoints_by_their_results_on_a_device(sides):
    code, found = run_json("compare", *sides, "--device", "cpu", "--m", 3)
    assert (code, found["device"]["name"], found["m"]) == (1, "cpu", 3)
    verdicts = {result["layer"]: result["verdict"] for result in found["results"]}
    assert verdicts == {"a": "pass", "b": "mismatch", "c": "mismatch", "d": "mismatch"}
    results = {result["layer"]: result for result in found["results"]}
    assert (results["a"]["equal"], results["b"]["worst_ratio"] > 100) == (1, True)
    assert "\non: cpu: " in run("compare", *sides, "--device", "cpu", "--layers", "a").stdout


@pytest.mark.gpu
def test_the_gpu_against_the_cpu():
    code, found = run_json("compare", fixture("gm_v1_sym_g128"), "--devices", "cpu", "cuda")
    assert (code, found["summary"]["pass"]) == (0, 7)


@pytest.mark.skipif(unusable() is None, reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_exit_code_3():
    path = fixture("gm_v1_sym_g128")
    for options in (["--devices", "cpu", "cuda"], [path, "--device", "cuda"]):
        result = run("compare", path, *options)
        assert (result.exit_code, result.stdout) == (3, "")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--devices", "cpu"],
        ["--layers", "nothing", "--devices", "cpu", "cpu"],
        [fixture("gm_v2_sym_g128"), "--devices", "cpu", "cpu"],
        ["nowhere"],
        [fixture("gm_v2_sym_g128"), "--devices", "cpu", "cpu", "--device", "cpu"],
        ["--devices", "cpu", "cpu", "--device", "cpu"],
    ],
)
def test_wrong_arguments_are_exit_code_2(options):
    result = run("compare", fixture("gm_v1_sym_g128"), *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
