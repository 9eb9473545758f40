"""`ferrum-numba trace`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.cli.app import app
from ferrum_numba.kernels.sample import sample
from tests.cli.commands import run, run_json

SMALL = ("trace", "add_bias.sm_80", "--size", "M=2", "--size", "N=72")


def step(*arguments: object, commands: str, columns: int = 80) -> str:
    """Output of a session whose commands come from standard input."""
    texts = [str(argument) for argument in (*SMALL, "--step", *arguments)]
    result = CliRunner().invoke(app, texts, input=commands, env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result.output


def test_source_lines() -> None:
    result = run(*SMALL, columns=80)
    assert result.exit_code == 0, result.output
    assert "add_bias.sm_80 at M = 2, N = 72: grid (2, 1, 1), block (128, 1, 1)" in result.output
    assert "scripts/kernels/add_bias.py" in result.output
    assert "total += tl.load(bias" in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines()[1:])
    code, printed = run_json(*SMALL)
    assert code == 0
    lines = {row["source_line"]: row for row in printed["source_lines"]}
    assert lines[20]["global"] == {"cost": 2, "ideal": 2}
    assert sum(row["instructions"] for row in lines.values()) == printed["events"]


@pytest.mark.parametrize("columns", [80, 120])
def test_values(columns: int) -> None:
    result = run(*SMALL, "--line", ":20", "--lanes", "0-2,30", columns=columns)
    assert result.exit_code == 0, result.output
    assert "bias[1]" in result.output
    assert all(len(line) <= columns for line in result.output.splitlines()[1:])
    code, printed = run_json(*SMALL, "--line", 117, "--lanes", "all")
    assert code == 0
    bias = sample(kernels.artefact("add_bias.sm_80").sidecar, {"M": 2, "N": 72}).arrays["bias"]
    rows = [row for row in printed["values"] if row["written"]]
    assert [row["lane"] for row in rows] == list(range(32))
    assert {(row["source_line"], row["type"]) for row in rows} == {(20, "f16")}
    assert [row["value"] for row in rows] == bias[:32].tolist()


def test_registers() -> None:
    _, printed = run_json(*SMALL, "--register", "rs6")
    assert {row["register"] for row in printed["values"]} == {"%rs6"}
    assert [row["line"] for row in printed["values"] if row["lane"] == 0] == [116, 117, 132]


def test_a_breakpoint() -> None:
    result = run(*SMALL, "--break", "%r8 >= 17", columns=80)
    assert result.exit_code == 0, result.output
    assert "breakpoint 1: %r8 >= 17, in lanes 17-31" in result.output
    assert "▶" in result.output
    code, printed = run_json(*SMALL, "--break", "%r8 >= 17")
    assert (code, printed["stop"]["lanes"]) == (0, list(range(17, 32)))
    _, printed = run_json(*SMALL, "--break", "%r8 > 1000")
    assert printed["stop"] is None
    assert "no breakpoint was met" in run(*SMALL, "--break", "%r8 > 1000").output


@pytest.mark.parametrize("columns", [80, 120])
def test_stepping(columns: int) -> None:
    commands = (
        "n\nn 3\n\nback\nwhere\nb 132\nb %nothing > 1\nc\np %rs10\np %rs10 b16\np rs999\nw r8\nrc\n"
        "d 1\nb\nd 9\nc\ns\nbs\nregs\nlanes 30,31\nlanes 99\ngoto 5\ngoto x\nfrobnicate\nhelp\n"
        "quit\nn\n"
    )
    output = step(commands=commands, columns=columns)
    assert "(trace) n 3" in output
    assert "event 7 (" in output, "an empty line repeats the last command"
    assert "breakpoint 1: 132" in output
    assert "there is no register %nothing" in output
    assert "%rs10     f16" in output
    assert "%rs10     b16" in output
    assert "%rs999: not written or read up to here" in output
    assert "watched: %r8" in output
    assert "no breakpoint was met; this is the first event" in output
    assert "9: there is no such breakpoint" in output
    assert "breakpoints: expected at least one, found none; set one with b" in output
    assert "lane 30" in output
    assert "lanes: expected 0 to 31, found '99'" in output
    assert "frobnicate: no such command" in output
    assert "invalid literal for int()" in output
    assert max(map(len, output.splitlines()[1:])) <= columns


HALVE = """.version 8.0
.target sm_80
.address_size 64
.visible .entry halve(.param .u64 x, .param .u64 y, .param .u32 N)
{
.reg .pred %p<4>; .reg .b32 %r<10>; .reg .b64 %rd<8>; .reg .f32 %f<5>;
.loc 1 3 0
ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4; add.u64 %rd4, %rd1, %rd3;
.loc 1 4 0
ld.global.f32 %f1, [%rd4];
mov.u32 %r2, 0;
LOOP:
.loc 1 5 0
mul.f32 %f1, %f1, 0f3F000000;
add.u32 %r2, %r2, 1;
setp.gt.f32 %p1, %f1, 0f3F000000;
@%p1 bra LOOP;
.loc 1 6 0
add.u64 %rd5, %rd2, %rd3;
st.global.u32 [%rd5], %r2;
ret;
}
.file 1 "halve.py"
"""


def test_ptx_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "halve.ptx").write_text(HALVE)
    parameters = [
        {"name": "x", "type": "*fp32", "role": "input", "shape": ["N"], "strides": ["1"]},
        {"name": "y", "type": "*i32", "role": "output", "shape": ["N"], "strides": ["1"]},
        {"name": "N", "type": "i32", "role": "size"},
    ]
    sidecar = {"name": "halve", "num_warps": 1, "shared": 0, "grid": ["1"] * 3}
    (tmp_path / "halve.json").write_text(json.dumps(sidecar | {"params": parameters}))
    common = ("trace", tmp_path / "halve.ptx", "--size", "N=32", "--break", "%r2 == 2")
    x = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    more = np.flatnonzero(x > 1).tolist()
    _, printed = run_json(*common)
    assert printed["stop"]["lanes"] == more
    result = run(*common, columns=80)
    assert "halve.py:5, which is not here; see --source" in result.output
    assert f"lanes {more[0]}, " in result.output
    (tmp_path / "src").mkdir()
    source = "@triton.jit\ndef halve(x, y, N):\n\n    v = load(x)\n    while v > 1: v /= 2\n"
    (tmp_path / "src" / "halve.py").write_text(source)
    result = run(*common, "--source", tmp_path / "src", columns=80)
    assert "▶    5  while v > 1: v /= 2" in result.output or "▶    5      while" in result.output
    (tmp_path / "halve.json").write_text(json.dumps(sidecar))
    result = run(*common)
    assert result.exit_code == 2
    assert "no sidecar declares its arrays" in " ".join(result.output.split())


def test_stepping_ends_with_its_input() -> None:
    output = step(commands="n 99999\nn\nback 99999\nback\n")
    assert "this is the last event" in output
    assert "this is the first event" in output


def test_what_was_left_out_is_said() -> None:
    result = run(*SMALL, "--limit", 20)
    assert "the first 20 of 74 were kept" in result.output
    output = step("--limit", 20, commands="n 100\nn\n")
    assert "this is the last event that was kept;" in output


def test_accesses(tmp_path: Path) -> None:
    result = run(*SMALL, "--map", tmp_path / "out.png", columns=80)
    assert result.exit_code == 0, result.output
    assert "Global memory: 6 32-byte sectors, 6 would do" in result.output
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    _, printed = run_json(*SMALL, "--accesses")
    assert {(a["kind"], a["cost"], a["ideal"]) for a in printed["accesses"]} == {
        ("load", 2, 2),
        ("store", 2, 2),
    }
    assert run(*SMALL, "--map", tmp_path / "none" / "out.png").exit_code == 2


def test_an_access_outside_the_arrays(tmp_path: Path) -> None:
    shipped = kernels.artefact("add_bias.sm_80")
    (tmp_path / "wrong.ptx").write_text(shipped.text.replace("@%p1 st.global.b16", "st.global.b16"))
    sidecar = {key: value for key, value in shipped.declared.items() if key != "ptx_sha256"}
    (tmp_path / "wrong.json").write_text(json.dumps(sidecar))
    arguments = ("trace", tmp_path / "wrong.ptx", "--size", "M=1", "--size", "N=20")
    result = run(*arguments)
    assert result.exit_code == 1
    assert "out-of-bounds" in result.output
    assert "to go there: --cta 0,0,0 --warp 0 --step --break 138" in result.output
    code, printed = run_json(*arguments)
    assert (code, printed["findings"][0]["array"]) == (1, "c")


def test_a_recording(tmp_path: Path) -> None:
    from ferrum_numba.debug.recorder import record

    artefact = kernels.artefact("add_bias.sm_80")
    kernel = artefact.kernel(fe.open_device("cpu"))
    with record(tmp_path / "run.ferrum"):
        for rows in (1, 3):
            drawn = sample(artefact.sidecar, {"M": rows, "N": 72})
            kernel.launch(drawn.config, **drawn.arrays, **drawn.integers)
    result = run("trace", tmp_path / "run.ferrum", "--launch", 1, "--cta", "2,0,0")
    assert result.exit_code == 0, result.output
    assert "add_bias, launch 1 of run.ferrum: grid (3, 1, 1)" in result.output
    assert "launches 0 to 1; choose one" in run("trace", tmp_path / "run.ferrum").output
    result = run("trace", tmp_path / "run.ferrum", "--launch", 1, "--size", "M=1")
    assert "--size: the recording says it" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trace", "no_such_kernel"), "no_such_kernel"),
        ((*SMALL, "--size", "Q=1"), "found Q"),
        ((*SMALL, "--size", "M"), "expected NAME=N"),
        ((*SMALL, "--lanes", "32"), "lanes: expected 0 to 31"),
        ((*SMALL, "--warp", "x"), "warp: expected numbers"),
        ((*SMALL, "--cta", "1,x"), "cta: expected x,y,z or all"),
        ((*SMALL, "--cta", "9,0,0"), "found (9, 0, 0)"),
        ((*SMALL, "--line", "1"), "no instruction of add_bias is there"),
        ((*SMALL, "--line", "a"), "--line: expected 120"),
        ((*SMALL, "--break", "1"), "no instruction is there"),
        ((*SMALL, "--register", "r999"), "--register: add_bias has no %r999"),
        ((*SMALL, "--warp", "9"), "warp: expected 0 to 3, as the block has 4, found 9"),
        ((*SMALL, "--warp", "2-5"), "found 4, 5"),
        ((*SMALL, "--break", "f(x)"), "expected registers, "),
        ((*SMALL, "--step", "--warp", "all"), "follow one warp"),
        ((*SMALL, "--step", "--line", "117"), "give it as --break"),
        ((*SMALL, "--step", "--json"), "--step and --json"),
        ((*SMALL, "--step", "--accesses"), "not with --step"),
        ((*SMALL, "--launch", "1"), "only a recording"),
    ],
)
def test_usage(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
