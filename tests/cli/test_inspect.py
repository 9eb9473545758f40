"""`ferrum-numba inspect`."""

from __future__ import annotations

import json
import shutil

import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.abi import ptx_digest
from ferrum_numba.devices.cuda.numba_cuda import unusable
from tests.cli.commands import run, run_json
from tests.corpus import FOLDER

NAME = "w4a16_gptq_gemm_typed.v1.sm_80"


@pytest.fixture
def copied(tmp_path):
    """The canonical PTX and its sidecar, to damage; the path of the PTX."""
    shipped = kernels.artefact(NAME)
    (tmp_path / "kernel.ptx").write_text(shipped.text)
    (tmp_path / "kernel.json").write_text(json.dumps(shipped.declared))
    return tmp_path / "kernel.ptx"


def edit_sidecar(ptx, **values):
    sidecar = ptx.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | values))


def test_json_of_the_canonical_kernel():
    code, found = run_json("inspect", NAME)
    assert code == 0
    assert found["sidecar"]["verdict"] == "agrees"
    assert found["sidecar"]["path"].endswith("catalogue.json")
    assert found["target"] == "sm_80"
    assert found["ptx_sha256"] == ptx_digest(fe.W4A16_PTX)
    versions = [found[key] for key in ("ptx_version", "min_cuda", "min_driver")]
    assert versions == ["7.0", "11.0", "450"]
    (entry,) = found["entries"]
    assert (entry["entry"], entry["nbytes"]) == (fe.fn_name(), 112)
    needs = entry["needs"]
    assert (needs["block"], needs["num_warps"], needs["shared_bytes"]) == ([128], 4, 8192)
    assert needs["grid"] == ["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"]
    assert "K % 8 == 0" in needs["constraints"]
    assert [role for _, role, _ in needs["provided"]] == ["global_scratch", "profile_scratch"]
    assert [p["offset"] for p in entry["params"]][:6] == [0, 8, 16, 24, 32, 40]
    size = entry["params"][5]
    assert (size["name"], size["ptx_type"], size["c_type"], size["size"]) == ("M", "u32", "i32", 4)
    assert entry["params"][1]["shape"] == ["K // 8", "N"]
    mma = [use for use in entry["census"]["tensor"] if use["operation"] == "mma"]
    assert [(use["shape"], use["count"]) for use in mma] == [("m16n8k16", 16)]


def test_a_path_is_the_same_as_a_name(copied):
    _, shipped = run_json("inspect", NAME)
    code, found = run_json("inspect", copied)
    assert code == 0
    for key in ("ptx", "sidecar"):
        del shipped[key], found[key]
    assert found == shipped


def test_without_a_sidecar_only_the_ptx_speaks(copied):
    copied.with_suffix(".json").unlink()
    code, found = run_json("inspect", copied)
    assert code == 0
    assert found["sidecar"] == {"path": None, "verdict": "none", "reason": ""}
    (entry,) = found["entries"]
    needs = entry["needs"]
    assert (needs["num_warps"], needs["grid"], needs["tile"]) == (None, None, None)
    assert needs["shared_bytes"] is None
    assert entry["params"][0]["name"] == "w4a16_gptq_gemm_typed_param_0"
    assert entry["nbytes"] == 112
    shown = run("inspect", copied).stdout
    assert "dynamic, how much is not stated" in shown
    assert " param_0 " in shown  # without the entry's name


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_warps": 8}, "num_warps: expected 128 threads, as the PTX's .reqntid says, found 8"),
        ({"name": "other"}, "name: expected w4a16_gptq_gemm_typed, as the PTX says, found other"),
        ({"ptx_sha256": "0" * 64}, "ptx_sha256: expected "),
        ({"params": []}, ""),  # nothing declared: only the scratch pointers are known
        ({"shared": "many"}, "sidecar: shared: expected an integer"),
    ],
)
def test_a_sidecar_that_disagrees_is_exit_code_1(copied, values, reason):
    edit_sidecar(copied, **values)
    code, found = run_json("inspect", copied)
    assert code == (1 if reason else 0)
    assert found["sidecar"]["verdict"] == ("disagrees" if reason else "agrees")
    assert found["sidecar"]["reason"].startswith(reason)
    assert found["entries"][0]["nbytes"] == 112
    assert run("inspect", copied).exit_code == code


def test_a_sidecar_that_cannot_be_read_is_exit_code_1(copied):
    copied.with_suffix(".json").write_text("{")
    result = run("inspect", copied)
    assert result.exit_code == 1
    assert "disagrees: sidecar: not JSON" in result.stdout


@pytest.mark.parametrize("name", [NAME, "w4a16_gptq_gemm_decode.m8n32w4.g128.sm_90"])
def test_the_text_of_a_shipped_kernel_or_of_a_file(copied, name):
    result = run("inspect", name, "--text")
    assert (result.exit_code, result.stdout) == (0, kernels.artefact(name).text)
    assert run("inspect", copied, "--text").stdout == copied.read_text()
    assert run("inspect", name, "--text", "--json").exit_code == 2


def test_another_sidecar_can_be_named(copied):
    other = copied.with_name("other.json")
    other.write_text(json.dumps(kernels.canonical(0).declared))
    code, found = run_json("inspect", copied, "--sidecar", other)
    assert code == 1
    assert found["sidecar"]["reason"].startswith("constants: expected {'ZERO_BIAS': 1}, with")
    assert run("inspect", copied, "--sidecar", "nowhere.json").exit_code == 2


def test_all_entries_or_one(tmp_path):
    file = tmp_path / "two.ptx"
    file.write_text(
        ".version 8.7\n.target sm_90a\n.address_size 64\n"
        ".visible .entry first(.param .u32 n)\n{ ret; }\n"
        ".visible .entry second(.param .u64 p, .param .align 8 .b8 s[24])\n{ ret; }\n"
    )
    code, found = run_json("inspect", file)
    assert (code, [e["entry"] for e in found["entries"]]) == (0, ["first", "second"])
    code, found = run_json("inspect", file, "--entry", "second")
    (entry,) = found["entries"]
    assert (code, found["min_driver"]) == (0, "570")
    assert entry["params"][1]["ptx_type"] == "b8[24]"
    assert (entry["nbytes"], entry["needs"]["block"]) == (32, None)
    assert run("inspect", file, "--entry", "third").exit_code == 2
    edit = {"name": "second", "num_warps": 8, "shared": 0}
    file.with_suffix(".json").write_text(json.dumps(edit))
    code, found = run_json("inspect", file)
    assert [e["needs"]["num_warps"] for e in found["entries"]] == [None, 8]


def test_a_folder(tmp_path):
    for path in FOLDER.iterdir():
        if ".sm_80" in path.name:
            shutil.copy(path, tmp_path)
    code, found = run_json("inspect", tmp_path)
    assert code == 0
    assert len(found["files"]) == len(list(tmp_path.glob("*.ptx")))
    (tmp_path / "broken.ptx").write_text("no PTX")
    (tmp_path / "scale_add.triton-3.6.0.sm_80.json").write_text('{"num_warps": 8}')
    result = run("inspect", tmp_path)
    assert result.exit_code == 2
    assert "broken.ptx: cannot be read: not PTX" in result.stdout
    assert "scale_add.triton-3.6.0.sm_80.json: disagrees: num_warps" in result.stdout
    (tmp_path / "broken.ptx").unlink()
    assert run("inspect", tmp_path).exit_code == 1
    assert run("inspect", tmp_path, "--entry", "dot").exit_code == 2
    (tmp_path / "empty").mkdir()
    assert "found none" in run("inspect", tmp_path / "empty").stderr


def test_what_is_not_known_is_said(monkeypatch):
    module = "ferrum_numba.devices.assembler.find_assemblers"
    monkeypatch.setattr(module, lambda: iter(()))
    code, found = run_json("inspect", NAME)
    (entry,) = found["entries"]
    assert (code, entry["resources"]) == (0, None)
    assert "unknown: ptxas: expected one on PATH, in CUDA_HOME, in" in run("inspect", NAME).stdout


def test_every_line_and_opcode():
    short, long = (run("inspect", NAME, *more).stdout for more in ([], ["--all"]))
    assert " more" in short
    assert " more" not in long
    assert "other lines" not in long


def test_an_unknown_target_is_exit_code_2(tmp_path):
    result = run("inspect", tmp_path / "nothing.ptx")
    assert result.exit_code == 2
    assert "or the name of a shipped kernel, found neither" in result.stderr
    (tmp_path / "text.ptx").write_text("no PTX\n")
    assert run("inspect", tmp_path / "text.ptx").exit_code == 2
    (tmp_path / "text.ptx").write_text(fe.W4A16_PTX[:20000])
    assert "PTX line " in run("inspect", tmp_path / "text.ptx").stderr


def test_whether_a_device_loads_it(tmp_path):
    code, found = run_json("inspect", NAME, "--device", "cpu")
    assert code == 0
    assert found["device"] == {"name": "cpu", "verdict": "loads", "reason": ""}
    file = tmp_path / "strange.ptx"
    file.write_text(
        ".version 8.7\n.target sm_90a\n.address_size 64\n"
        ".visible .entry strange(.param .u32 n)\n{\n\tmadeup.b32 %r1, %r2;\n\tret;\n}\n"
    )
    code, found = run_json("inspect", file, "--device", "cpu")
    assert (code, found["device"]["verdict"]) == (1, "refuses")
    assert "madeup" in found["device"]["reason"]


@pytest.mark.skipif(unusable() is None, reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_exit_code_3():
    assert run("inspect", NAME, "--device", "cuda").exit_code == 3


@pytest.mark.gpu
def test_what_a_gpu_says():
    code, found = run_json("inspect", NAME, "--device", "cuda")
    resources = found["entries"][0]["resources"]
    assert (code, found["device"]["verdict"]) == (0, "loads")
    assert "the driver, on cuda:0" in resources["source"]
    assert resources["registers"] > 16
    assert resources["ctas_per_sm"] >= 1


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_it_fits_the_console(columns):
    output = run("inspect", NAME, columns=columns).stdout
    assert max(map(len, output.splitlines())) <= columns
    for part in ("qweight", "stride_qwk", "*fp16", "parameter block: 112 bytes", "agrees"):
        assert part in output
    for path in (FOLDER, FOLDER / "cuda.nvcc-13.0.sm_80.ptx"):
        output = run("inspect", path, columns=columns).stdout
        assert max(map(len, output.splitlines())) <= columns
