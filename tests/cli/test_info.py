"""`ferrum-numba info`."""

from __future__ import annotations

import platform
from pathlib import Path

import numba
import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.devices.cuda.numba_cuda import unusable
from tests.cli.commands import run, run_json, run_python
from tests.gptq.fixtures import fixture


def test_json_has_versions_devices_and_artefacts():
    code, found = run_json("info")
    assert code == 0
    versions = found["versions"]
    assert versions["ferrum-numba"] == fe.__version__
    assert versions["python"] == platform.python_version()
    assert (versions["numba"], versions["numpy"]) == (numba.__version__, np.__version__)
    assert found["numba_cuda"]["implementation"] in ("built-in", "numba-cuda", "numba-cuda-mlir")
    cpu, *gpus = found["devices"]
    assert (cpu["name"], cpu["threads"]) == ("cpu", fe.open_device("cpu").threads)
    assert cpu["product"]
    assert gpus[0]["name"] == ("cuda" if unusable() else "cuda:0")
    assert tuple(artefact["name"] for artefact in found["artefacts"]) == kernels.names()
    canonical = next(a for a in found["artefacts"] if a["name"] == kernels.canonical(1).name)
    assert canonical["entry"] == fe.fn_name()
    assert canonical["tile"] == {"BLOCK_M": fe.BM, "BLOCK_N": fe.BN, "BLOCK_K": fe.BK}
    assert canonical["constants"] == {"ZERO_BIAS": 1}
    assert (canonical["ptx_version"], canonical["min_driver"]) == ("7.0", "450")


@pytest.mark.gpu
def test_gpus_are_described():
    _, found = run_json("info", "--device", "cuda")
    (gpu,) = found["devices"]
    assert gpu["name"].startswith("cuda:")
    assert gpu["product"]
    assert float(gpu["compute_capability"]) >= 5


@pytest.mark.skipif(unusable() is None, reason="there is a GPU")
def test_without_a_gpu_the_reason_is_told():
    _, found = run_json("info")
    assert found["devices"][1] == {"name": "cuda", "unusable": unusable()}
    assert "cuda: none usable: " in run("info").stdout


@pytest.mark.skipif(unusable() is None, reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_exit_code_3():
    result = run("info", "--device", "cuda")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith('error: device "cuda": ')


def test_a_device_of_no_kind_is_exit_code_3():
    result = run("info", "--device", "tpu")
    assert result.exit_code == 3
    assert "found 'tpu'" in result.stderr


def test_one_device_alone():
    _, found = run_json("info", "--device", "cpu")
    assert [device["name"] for device in found["devices"]] == ["cpu"]


@pytest.mark.parametrize("columns", [60, 100])
def test_it_fits_the_console(columns):
    lines = run("info", "--kernels", columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("w4a16_gptq_gemm_typed.v1.sm_80 ") for line in lines)


def test_as_a_module_in_a_process_of_its_own():
    done = run_python("-m", "ferrum_numba", "info", "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert "numba.cuda" in done.stdout


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_libraries_it_says_what_to_install(missing):
    done = run_python(
        "-c",
        f"import sys; sys.modules[{missing!r}] = None\nfrom ferrum_numba.cli import main; main()",
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f'ferrum-numba: the command line needs {missing}: pip install "ferrum-numba[cli]"\n'
    )


@pytest.mark.parametrize("arguments", [["infos"], ["info", "--devices"], ["info", "extra"]])
def test_wrong_usage_is_exit_code_2(arguments):
    assert run(*arguments).exit_code == 2


def test_the_choice_for_a_shape():
    code, found = run_json("info", "--shape", "1,4096,14336", "--device", "cpu")
    assert code == 0
    expected = kernels.choose(fe.open_device("cpu"), 1, 4096, 14336, 128, 1).name
    assert found["choice"]["artefact"] == expected
    predictions = found["choice"]["predictions"]
    assert predictions[0]["artefact"] == expected
    seconds = [its["seconds"] for its in predictions]
    assert seconds == sorted(seconds)
    printed = run("info", "--shape", "1,4096,14336", "--device", "cpu").stdout
    lines = [line.split() for line in printed.splitlines()]
    assert [expected, f"{seconds[0] * 1e6:.1f}", "us"] in lines
    assert "a guess" not in printed
    assert run("info", "--shape", "1,4096").exit_code == 2


def test_the_choice_on_a_gpu_that_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "device_name", lambda device: "NVIDIA L4")
    found = run_json("info", "--shape", "1,4096,14336", "--device", "cpu")[1]["choice"]
    assert (found["product"], found["measured_on"]) == ("NVIDIA L4", "NVIDIA H200")
    printed = run("info", "--shape", "1,4096,14336", "--device", "cpu").stdout
    assert "shared memory of NVIDIA L4: a guess" in " ".join(printed.split())


def test_the_choice_for_activation_order():
    code, found = run_json("info", "--shape", "1,64,4096", "--act-order", "--device", "cpu")
    assert (code, found["choice"]["act_order"]) == (0, True)
    expected = kernels.choose_act_order(fe.open_device("cpu"), 1, 64, 4096, 32, 1).name
    assert found["choice"]["artefact"] == expected


def test_what_a_model_needs() -> None:
    model = fixture("models/llama31_rope")
    _, found = run_json("info", model)
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["layers"] == 2
    assert found["cache_bytes_per_token"] == 2 * 2 * 2 * 2 * 32  # layers, k and v, bytes, heads
    file = (Path(model) / "model.safetensors").stat().st_size
    assert 0.95 * file < found["weights_bytes"] < file
    assert "weights bytes" in run("info", model).output
