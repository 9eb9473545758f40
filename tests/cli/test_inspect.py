"""`ferrum-numba inspect`."""

from __future__ import annotations

import json
import shutil

import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.abi import ptx_digest
from ferrum_numba.devices.cuda import unusable
from tests.cli.commands import run, run_json

NAME = "w4a16_gptq_gemm_typed.v1.sm_80"


@pytest.fixture
def copied(tmp_path):
    """The canonical PTX and its sidecar, to damage; the path of the PTX."""
    for suffix in (".ptx", ".json"):
        shutil.copy(kernels.folder() / f"{NAME}{suffix}", tmp_path / f"kernel{suffix}")
    return tmp_path / "kernel.ptx"


def edit_sidecar(ptx, **values):
    sidecar = ptx.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | values))


def test_json_of_the_canonical_kernel():
    code, found = run_json("inspect", NAME)
    assert code == 0
    assert found["sidecar"]["verdict"] == "agrees"
    assert found["sidecar"]["path"].endswith(f"{NAME}.json")
    assert (found["entry"], found["target"]) == (fe.fn_name(), "sm_80")
    assert found["ptx_sha256"] == ptx_digest(fe.W4A16_PTX)
    versions = [found[key] for key in ("ptx_version", "min_cuda", "min_driver")]
    assert versions == ["7.0", "11.0", "450"]
    assert (found["reqntid"], found["num_warps"], found["shared_bytes"]) == ([128], 4, 8192)
    assert found["grid"] == ["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"]
    assert "K % 8 == 0" in found["constraints"]
    assert [scratch["role"] for scratch in found["scratch"]] == [
        "global_scratch",
        "profile_scratch",
    ]
    assert found["nbytes"] == 112
    assert [p["offset"] for p in found["params"]][:6] == [0, 8, 16, 24, 32, 40]
    assert found["params"][5] == {
        "index": 5,
        "name": "M",
        "ptx_type": "u32",
        "c_type": "i32",
        "offset": 40,
        "size": 4,
        "role": "size",
    }


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
    assert (found["num_warps"], found["grid"], found["tile"]) == (None, None, None)
    assert found["params"][0]["name"] == "w4a16_gptq_gemm_typed_param_0"
    assert found["nbytes"] == 112


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_warps": 8}, "num_warps: the sidecar says 8"),
        ({"name": "other"}, "name: the sidecar says other"),
        ({"ptx_sha256": "0" * 64}, "ptx_sha256: the sidecar was written for 0000000000000000"),
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
    assert found["nbytes"] == 112
    assert run("inspect", copied).exit_code == code


def test_a_sidecar_that_cannot_be_read_is_exit_code_1(copied):
    copied.with_suffix(".json").write_text("{")
    result = run("inspect", copied)
    assert result.exit_code == 1
    assert "disagrees: sidecar: not JSON" in result.stdout


def test_another_sidecar_can_be_named(copied):
    other = kernels.folder() / "w4a16_gptq_gemm_typed.v2.sm_80.json"
    code, found = run_json("inspect", copied, "--sidecar", other)
    assert code == 1
    assert found["sidecar"]["reason"].startswith("constants: the sidecar says {'ZERO_BIAS': 0}")
    assert run("inspect", copied, "--sidecar", "nowhere.json").exit_code == 2


def test_one_of_several_entries(tmp_path):
    file = tmp_path / "two.ptx"
    file.write_text(
        ".version 8.7\n.target sm_90a\n.address_size 64\n"
        ".visible .entry first(.param .u32 n)\n{ ret; }\n"
        ".visible .entry second(.param .u64 p, .param .align 8 .b8 s[24])\n{ ret; }\n"
    )
    result = run("inspect", file)
    assert result.exit_code == 2
    assert "the PTX declares first, second; name one of them" in result.stderr
    code, found = run_json("inspect", file, "--entry", "second")
    assert code == 0
    assert found["params"][1]["ptx_type"] == "b8[24]"
    assert (found["nbytes"], found["reqntid"], found["min_driver"]) == (32, None, "570")
    assert run("inspect", file, "--entry", "third").exit_code == 2


def test_an_unknown_target_is_exit_code_2(tmp_path):
    result = run("inspect", tmp_path / "nothing.ptx")
    assert result.exit_code == 2
    assert f"a shipped kernel ({', '.join(kernels.names())}), found neither" in result.stderr
    (tmp_path / "text.ptx").write_text("no PTX\n")
    assert run("inspect", tmp_path / "text.ptx").exit_code == 2


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


@pytest.mark.parametrize("columns", [60, 100])
def test_it_fits_the_console(columns):
    output = run("inspect", NAME, columns=columns).stdout
    assert max(map(len, output.splitlines())) <= columns
    for part in ("qweight", "stride_qwk", "*fp16", "parameter block: 112 bytes", "agrees"):
        assert part in output
