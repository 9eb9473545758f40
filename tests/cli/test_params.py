"""`ferrum-numba params`."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.debug.recorder import record
from tests.cli.commands import run, run_json
from tests.corpus import FOLDER
from tests.debug.block.launches import SIZES, block, launch, pack
from tests.gptq.fixtures import fixture
from tests.ptx import ptx

LAYER = "model.layers.0.self_attn.q_proj"
NAME = "w4a16_gptq_gemm_typed.v1.sm_80"
SET = [part for name, value in SIZES.items() for part in ("--set", f"{name}={value}")]
VALUES, ARRAYS = launch()
DATA = block(VALUES)


def test_a_block_from_sizes():
    code, found = run_json("params", NAME, *SET)
    assert (code, found["nbytes"], found["suspicions"]) == (0, 112, [])
    assert bytes.fromhex(found["hex"]) == DATA
    fields = {field["name"]: field for field in found["fields"]}
    assert fields["a"]["array"]["shape"] == [10, 2048]
    assert (fields["a"]["array"]["needed"], fields["a"]["array"]["slack"]) == (40960, 0)
    assert (fields["M"]["value"], fields["M"]["hex"]) == (10, "0a000000")
    assert set(found["assumed"]) == set(VALUES) - set(SIZES)


def test_values_by_hand():
    code, found = run_json(
        *("params", NAME, *SET, "--set", "a=float16[1, 2048]@0x7f0000001000"),
        *("--set", "c=0x7e0000000000", "--set", "stride_cm=4096"),
    )
    fields = {field["name"]: field for field in found["fields"]}
    assert code == 1
    assert (fields["a"]["value"], fields["a"]["array"]["slack"]) == (0x7F00_0000_1000, -36864)
    assert (fields["c"]["value"], fields["c"]["array"]) == (0x7E00_0000_0000, None)
    assert fields["stride_cm"]["value"] == 4096
    assert {(s["kind"], *s["names"]) for s in found["suspicions"]} == {
        ("too short", "a"),
        ("not an address", "c"),
    }


@pytest.mark.parametrize("how", ["digits", "spaced", "prefix", "raw", "text", "stdin"])
def test_raw_bytes(how, tmp_path):
    from click.testing import CliRunner

    from ferrum_numba.cli.app import app

    (tmp_path / "raw").write_bytes(DATA)
    (tmp_path / "text").write_text(DATA.hex(" ", 4) + "\n")
    source = {
        "digits": DATA.hex(),
        "spaced": DATA.hex(" "),
        "prefix": f"0x{DATA.hex()}",
        "raw": str(tmp_path / "raw"),
        "text": str(tmp_path / "text"),
        "stdin": "-",
    }[how]
    arguments = ["params", NAME, "--bytes", source, "--json"]
    result = CliRunner().invoke(app, arguments, input=DATA)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["hex"] == DATA.hex()


def test_values_to_bytes_to_values():
    _, first = run_json("params", NAME, *SET)
    _, second = run_json("params", NAME, "--bytes", first["hex"])
    for a, b in zip(first["fields"], second["fields"], strict=True):
        assert (a["name"], a["value"], a["hex"]) == (b["name"], b["value"], b["hex"])


def test_bytes_with_arrays():
    given = ["--set", f"a=float16[10, 2048]@{VALUES['a']:#x}"]
    _, found = run_json("params", NAME, "--bytes", DATA.hex(), *given)
    assert found["fields"][0]["array"]["slack"] == 0


def test_shifted_bytes_are_explained():
    names = [name for name in VALUES if name != "qzeros"]
    data = pack([(4 if VALUES[n] < 1 << 32 else 8, VALUES[n]) for n in names])
    result = run("params", NAME, "--bytes", data.hex())
    assert result.exit_code == 1
    assert "suspect: the bytes look as if a parameter was left out" in result.stdout


def test_two_blocks(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(block({**VALUES, "M": 11, "c": 0x7F12_0000_0000}))
    result = run("params", NAME, *SET, "--diff", other)
    assert result.exit_code == 1
    assert "2 of 21 parameters differ" in result.stdout
    code, found = run_json("params", NAME, *SET, "--diff", other)
    assert (code, found["differences"]) == (1, ["c", "M"])
    code, found = run_json("params", NAME, *SET, "--diff", DATA.hex())
    assert (code, found["differences"]) == (0, [])
    assert "equal blocks" in run("params", NAME, *SET, "--diff", DATA.hex()).stdout


def test_ptx_of_others():
    """By the short names, an aggregate as hex, a float."""
    path = FOLDER / "cuda.nvcc-13.0.sm_80.ptx"
    entry = "_Z4axpyIdEvPT_PKS0_S0_4Pairi"
    given = ["param_0=0x7f0000000000", "param_1=float64[8]", "param_2=0.5"]
    given += [f"param_3={'00' * 15}ff", "param_4=8"]
    sets = [part for text in given for part in ("--set", text)]
    code, found = run_json("params", path, "--entry", entry, *sets)
    assert found["fields"][3]["value"] == "00" * 15 + "ff"
    assert found["fields"][2]["value"] == 0.5
    assert code == 1  # param_0 points into param_1's array
    assert [s["kind"] for s in found["suspicions"]] == ["other array"]


def test_launches_of_a_recording(tmp_path):
    path = tmp_path / "run.ferrum"
    with record(path):
        layer = fe.GptqLinear.load(fixture("gm_v1_sym_g128"), LAYER, device=fe.open_device("cpu"))
        for rows in (3, 5):
            layer(np.ones((rows, layer.K), np.float16))
    code, found = run_json("params", path, "--launch", 1)
    fields = {field["name"]: field for field in found["fields"]}
    assert (code, found["suspicions"]) == (0, [])
    assert fields["M"]["value"] == 5
    assert fields["a"]["array"]["shape"] == [5, layer.K]
    assert fields["a"]["array"]["slack"] == 0
    code, found = run_json("params", path, "--launch", 0, "--diff", 1)
    assert code == 1
    assert "M" in found["differences"]
    result = run("params", path, "--launch", 2)
    assert result.exit_code == 2
    assert "expected a launch below 2" in result.stderr
    assert "found no file" in run("params", tmp_path / "nothing", "--launch", 0).stderr


def test_whether_a_device_takes_the_kernel(tmp_path):
    code, found = run_json("params", NAME, *SET, "--device", "cpu")
    assert (code, found["device"]["verdict"]) == (0, "loads")
    strange = tmp_path / "strange.ptx"
    strange.write_text(ptx([".param .u64 x"], "frobnicate;\nret;"))
    result = run("params", strange, "--set", "x=0x7f0000001000", "--device", "cpu")
    assert result.exit_code == 1
    assert "nothing looks wrong\ndevice cpu: refuses: PTX line" in result.stdout
    assert run("params", NAME, *SET, "--device", "cuda:99").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected values (--set), bytes (--bytes) or --launch"),
        (["--set", "M"], "expected NAME=VALUE, found 'M'"),
        (["--set", "M=1", "--set", "M=2"], "M is given twice"),
        (["--set", "M=1"], "expected a value, found none"),
        (["--set", "lda=1"], "found 'lda'"),
        (["--set", "M=x"], "M: expected a number"),
        ([*SET, "--set", "a=half[3]"], "a: dtype: expected one of"),
        ([*SET, "--set", "a=float16[3"], "a: expected an array such as"),
        (["--bytes", "00"], "expected a parameter block of 112 bytes, found 1"),
        (["--bytes", "000"], "two hex digits a byte, found 3"),
        (["--bytes", "nowhere"], "expected hex digits, a file or -"),
        (["--launch", "0", "--set", "M=1"], "the recording has all of it"),
    ],
)
def test_wrong_arguments_are_exit_code_2(arguments, message):
    result = run("params", NAME, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr.replace("\n", " ")


@pytest.mark.parametrize("columns", [80, 120])
def test_it_fits_the_console(columns):
    output = run("params", NAME, *SET, columns=columns).stdout
    assert max(map(len, output.splitlines())) <= columns
    for name in VALUES:
        assert f" {name} " in output
    assert len(re.findall(r"^ *\d+  [0-9a-f]{8} ", output, re.MULTILINE)) == 21
