"""Text of strangers on the terminal: what it would obey is shown, in every format, and not done."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from rich.table import Table
from rich.text import Text

from ferrum_numba.cli.console import harmless, one_line, standard_output
from ferrum_numba.gptq.safetensors_file import write_file
from tests.campaigns.layers import random_tensors
from tests.cli.commands import run

NAMES = {
    "a\x1b]0;title\x07.b": r"a\x1b]0;title\x07.b",
    "c\x9b31m": r"c\x9b31m",
    "d\ud800": r"d\ud800",
    "e\u202egnp": r"e\u202egnp",
    "f\rg": r"f\x0dg",
    "h\npass i": r"h\npass i",
    "[/red]j[bold": "[/red]j[bold",
}
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


@pytest.fixture
def hostile(tmp_path):
    """A checkpoint of layers with such names, one of them damaged."""
    tensors = random_tensors(64, 64, 64)
    parts = {"qweight": "I32", "qzeros": "I32", "scales": "F16"}
    header, arrays = {}, []
    for name in NAMES:
        for part, dtype in parts.items():
            array = getattr(tensors, part)
            header[f"{name}.{part}"] = (dtype, array.shape)
            arrays.append(array)
    arrays[-1] = np.full_like(arrays[-1], np.nan)
    folder = tmp_path / "hostile"
    folder.mkdir()
    write_file(folder / "model.safetensors", header, arrays)
    config = {"bits": 4, "group_size": 64, "sym": False, "quant_method": "gptq"}
    config["checkpoint_format"] = "gptq_v2"
    (folder / "quantize_config.json").write_text(json.dumps(config))
    return folder


def test_a_table_shows_names_harmlessly(hostile):
    for columns in (None, 60, 200):
        result = run("verify", hostile, "--device", "cpu", "--m", 1, columns=columns)
        assert result.exit_code == 2, result.output
        assert not COMMANDS.search(result.output)
        shown = result.stdout if columns is None else re.sub(r"\s*\n\s*", "", result.stdout)
        for name in NAMES.values():
            assert name in shown


@pytest.mark.parametrize("command", [("verify",), ("bench", "--m", "1"), ("compare",)])
def test_no_command_obeys_them(hostile, command):
    name, *options = command
    paths = (hostile, hostile) if name == "compare" else (hostile, *options, "--device", "cpu")
    for extra in ((), ("--json",)):
        result = run(name, *paths, *extra)
        assert not isinstance(result.exception, Exception), result.exception
        assert "Usage" not in result.output
        assert not COMMANDS.search(result.output)


def test_json_has_the_names_as_they_are(hostile):
    result = run("verify", hostile, "--device", "cpu", "--m", 1, "--json")
    assert not COMMANDS.search(result.stdout)
    assert {found["layer"] for found in json.loads(result.stdout)["results"]} == set(NAMES)


def test_files_are_written_whatever_the_names(hostile, tmp_path):
    pytest.importorskip("jinja2", reason="the report extra is not installed")
    files = [tmp_path / name for name in ("lines", "junit.xml", "page.html")]
    options = zip(("--jsonl", "--junit", "--html"), files, strict=True)
    result = run("verify", hostile, "--device", "cpu", "--m", 1, *sum(options, ()))
    assert result.exit_code == 2, result.output
    for file in files:
        assert file.read_text(encoding="utf-8")
    again = run("verify", hostile, "--device", "cpu", "--m", 1, "--resume", files[0])
    assert "resume: 7 of 7 layers" in again.stderr


def test_an_error_shows_them_harmlessly(hostile):
    result = run("verify", hostile, "--device", "cpu", "--layers", "\x1b[2J")
    assert result.exit_code == 2
    assert "\\x1b[2J" in result.stderr
    assert not COMMANDS.search(result.stderr)


def test_an_error_is_one_line_whatever_the_name(tmp_path):
    write_file(
        tmp_path / "a.safetensors", {"x\nerror: y.qweight": ("I32", (1, 8))}, [np.ones(8, "i4")]
    )
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 8}')
    result = run("verify", tmp_path, "--device", "cpu")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(r"error: x\nerror: y.qzeros: expected in a.safetensors")


def test_columns_are_as_wide_as_what_is_shown_and_styles_are_kept(capsys):
    table = Table()
    table.add_column("x")
    table.add_row("a\x1bb\x9f")
    standard_output().print(table)
    text = Text.assemble(("red\x00", "red"), "\x01plain")
    standard_output().print(text)
    shown = capsys.readouterr().out
    assert "a\\x1bb\\x9f" in shown
    assert "red\\x00\\x01plain" in shown
    console = standard_output()
    (found,) = [s for s in console.render(text) if "red" in s.text]
    assert found.style is not None


def test_what_is_harmless_stays_as_it_is():
    text = "größe\tмодель 模型\nline 😀"
    assert harmless(text) == text
    assert one_line(text) == "größe\\tмодель 模型\\nline 😀"
