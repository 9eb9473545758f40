"""Recordings of strangers run in a process of their own: whatever they do, this one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import ferrum_numba as fe
from ferrum_numba.cli.app import app
from ferrum_numba.cli.confinement import ConfinedCommand, confined
from ferrum_numba.errors import RecordingError
from tests.cli.commands import run, run_json
from tests.emulator.harness import entry

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes of their own here")


def recorded(path: Path, ptx: str, array: np.ndarray) -> Path:
    """A recording of one launch of a kernel that is right on this array."""
    device = fe.open_device("cpu")
    with fe.record(path):
        device.load_module(ptx).get_kernel().launch(fe.LaunchConfig(1, 32), array)
    return path


def edited(path: Path, old: str, new: str) -> Path:
    """The recording with another text of its PTX, and the digests that name it."""
    with zipfile.ZipFile(path) as file:
        members = [(info, file.read(info)) for info in file.infolist()]
    texts = {i.filename: data.replace(old.encode(), new.encode()) for i, data in members}
    renamed = {}
    for name, data in texts.items():
        if name.startswith("ptx/"):
            renamed[name[4:68]] = hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in texts.items():
            for before, after in renamed.items():
                name = name.replace(before, after)
                data = data.replace(before.encode(), after.encode())
            file.writestr(name, data)
    return path


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    body = "mul.wide.u32 %q8, %t0, 4; add.s64 %q8, %q8, %q0; st.global.b32 [%q8], %t0;"
    return recorded(tmp_path / "run.ferrum", entry(1, body), np.zeros(32, np.uint32))


def test_a_wild_store_is_left_out_and_named(stores: Path) -> None:
    wild = edited(stores, "st.global.b32 [%q8], %t0;", "st.global.b32 [%q9], %t0;")
    code, found = run_json("replay", wild, "--device", "cpu")
    assert code == 1
    assert found["launches"][0]["findings"][0]["kind"] == "out-of-bounds"
    assert run("explain", wild).exit_code == 1


@pytest.mark.parametrize("command", ["replay"])
def test_an_endless_kernel_is_ended(stores: Path, command: str) -> None:
    # Each turn stores another value: a loop that changes nothing is named at once.
    turn = "add.u32 %t1, %t1, %t0; st.volatile.global.b32 [%q8], %t1;"
    endless = edited(stores, "st.global.b32 [%q8], %t0;", f"HERE: {turn} bra HERE;")
    began = time.monotonic()
    result = run(command, endless, "--device", "cpu", "--time-limit", "1")
    assert result.exit_code == 2
    assert "time: expected at most 1 s, found more; ask for more by --time-limit" in result.stderr
    assert time.monotonic() - began < 10


@pytest.fixture
def misbehaves(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A confined command that ends in some way."""

    @click.command("misbehaves", cls=ConfinedCommand)
    @confined
    @click.argument("how")
    @click.pass_context
    def command(ctx: click.Context, how: str) -> None:
        print("before")
        if how == "memory":
            np.ones(1 << 34, np.uint8)
        elif how == "error":
            raise RecordingError("what", "one thing", "another")
        elif how == "exit":
            ctx.exit(7)
        else:
            os.kill(os.getpid(), getattr(signal, how))

    monkeypatch.setitem(app.commands, "misbehaves", command)
    return lambda *arguments: CliRunner().invoke(app, ["misbehaves", *arguments])


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("SIGSEGV", 2, "the process that ran it: ended by SIGSEGV"),
        ("SIGKILL", 2, "ended by SIGKILL"),
        ("memory", 2, "memory: expected at most 0.5 GiB, found more"),
        ("error", 2, "what: expected one thing, found another"),
        ("exit", 7, ""),
    ],
)
def test_ends_of_the_process(misbehaves: Any, how: str, code: int, says: str) -> None:
    result = misbehaves(how, "--memory-limit", "0.5")
    assert result.exit_code == code
    assert says in result.stderr
    assert ("before" in result.stdout) == (not how.startswith("SIG"))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ferrum")
    for command in ("replay", "explain"):
        result = run(command, tmp_path / "pipe.ferrum")
        assert result.exit_code == 2
        assert "expected a regular file, found a folder, device or pipe" in result.stderr


def test_what_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ferrum"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        text = '{"format": "ferrum recording", "version": 1}'
        file.writestr("recording.json", text + " " * 10**7)
    with pytest.raises(RecordingError, match=r"recording\.json: expected at most 256 bytes for"):
        fe.Recording(path)


def with_call(path: Path, change: Any) -> Path:
    """The recording with its call changed."""
    with zipfile.ZipFile(path) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if name.startswith("calls/"):
                call = json.loads(data)
                change(call)
                data = json.dumps(call).encode()
            file.writestr(name, data)
    return path


def test_an_array_of_more_elements_than_memory_has(stores: Path) -> None:
    def change(call: Any) -> None:
        for array in call["arrays"].values():
            array |= {"shape": [1 << 62], "strides": [0]}

    huge = with_call(stores, change)
    for command in ("replay", "explain"):
        result = run(command, huge)
        assert result.exit_code == 2
        assert f"an array of {1 << 62} elements" in result.stderr


def test_a_grid_of_two_thousand_million_ctas(stores: Path) -> None:
    huge = with_call(stores, lambda call: call["config"].update(grid=[2**31 - 1, 1, 1]))
    result = run("replay", huge, "--device", "cpu", "--time-limit", "1")
    assert result.exit_code == 2
    assert "time: expected at most 1 s" in result.stderr
    assert "are too many to try" in run("explain", huge).stdout
