"""Ctrl-C: commands end at once, in order, and leave no half file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import ferrum_numba as fe
from ferrum_numba import report
from ferrum_numba.gptq import Recipe, make_checkpoint
from ferrum_numba.gptq.files import new_folder, replacing
from tests.cli.commands import run
from tests.gptq.fixtures import fixture

VERIFY = ("verify", fixture("gm_v1_sym_g128"), "--device", "cpu", "--m", 1)

# A device that computes for ever once a layer is done; deaf: what is raised there goes nowhere.
ENDLESS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from ferrum_numba.report import run
original, calls = run.run_prepared, []
def endless(*arguments):
    if calls:
        print("endless", flush=True)
        while True:
            try:
                while True:
                    time.sleep(0.001)
            except KeyboardInterrupt:
                if not {deaf}:
                    raise
    calls.append(arguments)
    return original(*arguments)
run.run_prepared = endless
from ferrum_numba.cli import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="no signals here")
@pytest.mark.parametrize(
    ("started", "code", "said"),
    [
        (("-m", "ferrum_numba", "info"), 130, "interrupted\n"),
        (("-X", "utf8", "-Bm", "ferrum_numba"), 130, "interrupted\n"),
        (("ferrum-numba", "info"), 130, "interrupted\n"),
        (("program.py",), -signal.SIGINT, "\nKeyboardInterrupt\n"),  # Python's way
        (("program.py", "-m", "ferrum_numba"), -signal.SIGINT, "\nKeyboardInterrupt\n"),
    ],
)
def test_ctrl_c_while_the_command_line_is_imported(tmp_path, started, code, said):
    """NumPy is what takes most of the time; here it is a module during which Ctrl-C comes."""
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    for name in ("ferrum-numba", "program.py"):
        (tmp_path / name).write_text("from ferrum_numba.cli import main\nmain()\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(fe.__file__).parents[1])])
    ended = subprocess.run(
        [sys.executable, *started],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        # A job in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert ended.returncode == code
    assert ended.stderr.endswith(said)
    assert ("Traceback" in ended.stderr) == (code != 130)


def interrupted(*arguments, deaf=False, times=1):
    """(exit code, standard error) of a command that is interrupted while it computes."""
    code = ENDLESS.format(deaf=deaf)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        assert process.stdout is not None
        assert "endless" in process.stdout.readline()
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)  # or the two would be one
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, errors


def test_verify_says_how_to_go_on(tmp_path):
    code, errors = interrupted(*VERIFY)
    assert code == 130
    assert re.match(r"interrupted: [01] of 7 layers are done; with --resume FILE they wo", errors)
    journal = tmp_path / "lines"
    code, errors = interrupted(*VERIFY, "--resume", journal)
    assert code == 130
    done = len(journal.read_text().splitlines())  # one, if it was taken before Ctrl-C
    assert f"interrupted: {done} of 7 layers are done; --resume {journal} goes on from" in errors
    assert "Traceback" not in errors
    result = run(*VERIFY, "--resume", journal)
    assert not done or f"resume: {done} of 7 layers are in" in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize("deaf", [False, True])
def test_a_second_ctrl_c_has_no_traceback(deaf):
    code, errors = interrupted(*VERIFY, deaf=deaf, times=2)
    assert code in (130, -signal.SIGINT)
    assert "Traceback" not in errors


def test_threads_that_are_left_do_not_see_code_unloaded():
    """Python's end would take the ground from under a thread that is in native code."""
    code = """
import atexit, os
from ferrum_numba.cli import app, interruption, main
atexit.register(print, "in order")
class Held:
    def __del__(self, write=os.write):
        write(1, b"unloaded")
app.held = Held()
def app_(): raise SystemExit(interruption.EXIT_CODE)
app.app = app_
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "in order\n", "")


def test_a_thread_that_does_not_listen_keeps_nobody_waiting():
    code, errors = interrupted(*VERIFY, deaf=True)
    assert code == 130
    assert re.match("interrupted: [01] of 7 layers", errors)


def test_results_that_are_not_wanted_any_more_stop_the_threads(monkeypatch):
    started = threading.Event()

    def endless(*arguments):
        started.set()
        while True:
            time.sleep(0.001)

    monkeypatch.setattr("ferrum_numba.report.run.prepare_layer", endless)
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    jobs = [(name, report.Plan()) for name in checkpoint.layers]
    before = set(threading.enumerate())

    def interrupt():
        started.wait()
        signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            list(report.verify_layers(checkpoint, jobs, [fe.open_device("cpu")]))
    finally:
        signal.signal(signal.SIGINT, handler)
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_file_is_whole_or_as_it_was(tmp_path, error):
    file = tmp_path / "page.html"
    for before in (None, b"before"):
        if before is not None:
            file.write_bytes(before)
        with suppress(KeyboardInterrupt, OSError), replacing(file) as handle:
            handle.write(b"half")
            raise error
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [before] * bool(before)
    file.chmod(0o640)
    with replacing(file) as handle:
        handle.write(b"after")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"after", 0o640)
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("file")
    with replacing(tmp_path / "link") as handle:
        handle.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"after"


def test_what_is_no_file_is_written_to():
    with replacing(type(fixture("x"))("/dev/null")) as handle:
        handle.write(b"gone")


@pytest.mark.parametrize("existed", [True, False])
def test_make_leaves_nothing_where_it_is_interrupted(tmp_path, existed):
    folder = tmp_path / "new"
    if existed:
        folder.mkdir()
    seen = []

    def progress(done, total):
        seen.append(sorted(path.name for path in folder.iterdir()))
        if done > total * 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_checkpoint(folder, Recipe(layers=1, shards=2), progress)
    assert any("model-00001-of-00002.safetensors" in names for names in seen)  # it is whole
    assert all("model-00002-of-00002.safetensors" not in names for names in seen)  # it never is
    assert folder.exists() == existed
    assert not existed or not list(folder.iterdir())
    make_checkpoint(folder, Recipe(layers=1))


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(fe.CheckpointError), new_folder(tmp_path):
        pass
    assert (tmp_path / "mine").exists()
