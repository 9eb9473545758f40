"""`ferrum-numba generate` and `score`: the same tokens as text, as ids and as JSON."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="the extra `text` is not installed")

import ferrum_numba as fe
from tests.cli.commands import run, run_json, run_python
from tests.models.reference import Reference
from tests.models.tiny import make_model
from tests.text.vocabularies import letters, write_tokenizer

VOCABULARY, EOS = 104, 95  # the tokenizer has 96, and models are filled up
INTERRUPTIBLE = """
import signal
from ferrum_numba.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
main()
"""


NEEDLESS = """
import sys
from ferrum_numba.cli.app import app
app(sys.argv[1:], standalone_mode=False)
needless = {"numba", "llvmlite", "ml_dtypes", "hashlib", "html", "email", "tempfile", "numpy.ma",
            "numpy.random", "rich.progress", "rich.table", "importlib.metadata",
            "ferrum_numba.report", "ferrum_numba.debug.recorder", "ferrum_numba.emulator.translate"}
print(*sorted(needless & {*sys.modules}), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, whose tokens are characters."""
    path = make_model(
        tmp_path_factory.mktemp("models") / "tiny", vocab_size=VOCABULARY, eos_token_id=EOS
    )
    return write_tokenizer(path, letters())


def generate(folder: Path, *arguments: object) -> Any:
    return run("generate", folder, "--device", "cpu", "--max-new-tokens", 12, *arguments)


def generate_json(folder: Path, *arguments: object) -> dict[str, Any]:
    code, found = run_json(
        "generate", folder, "--device", "cpu", "--max-new-tokens", 12, *arguments
    )
    assert code == 0
    return found


def test_a_process_loads_only_what_it_needs(folder: Path) -> None:
    """Each of these takes megabytes; what compiles is needed where no code is cached."""
    arguments = ("generate", str(folder), "--device", "cpu", "--max-new-tokens", "2", "--ids", "1")
    first, warm = (run_python("-c", NEEDLESS, *arguments) for _ in range(2))
    assert (warm.returncode, warm.stdout) == (0, first.stdout)
    assert warm.stderr.splitlines()[-1] == ""


def test_text_ids_and_json_say_the_same(folder: Path) -> None:
    found = generate_json(folder, "--prompt", "ab")
    text = fe.Tokenizer.load(folder)
    assert found["prompt_ids"] == text.encode("ab")
    assert found["ids"] == Reference(folder).greedy(text.encode("ab"), 12)[0]
    assert found["text"] == text.decode(found["ids"])
    assert generate(folder, "--prompt", "ab").stdout == found["text"] + "\n"
    ids = ",".join(map(str, found["prompt_ids"]))
    assert generate(folder, "--ids", ids).stdout.split() == [str(token) for token in found["ids"]]
    assert generate_json(folder, "--ids", ids)["text"] is None


def test_rates_are_of_all_tokens_but_what_came_with_the_prompt(folder: Path) -> None:
    found = generate_json(folder, "--prompt", "ab")
    assert (found["ended"], found["prefill"]["tokens"], found["decode"]["tokens"]) == (
        "length",
        3,
        11,
    )
    for part in ("prefill", "decode"):
        rate = found[part]
        assert rate["tokens_per_second"] == pytest.approx(rate["tokens"] / rate["seconds"])
    said = generate(folder, "--prompt", "ab").stderr
    assert "cpu: " in said
    assert "prefill 3 tokens in " in said
    assert "ended after --max-new-tokens" in said
    one = run_json("generate", folder, "--prompt", "a", "--max-new-tokens", 1, "--device", "cpu")[1]
    assert one["decode"] == {"tokens": 0, "seconds": 0.0, "tokens_per_second": None}


def test_chat_goes_through_the_template(folder: Path) -> None:
    found = generate_json(folder, "--chat", "hi")
    assert found["prompt_ids"] == fe.Tokenizer.load(folder).chat("hi")


def test_a_seed_repeats_its_draws(folder: Path) -> None:
    drawn = ["--prompt", "ab", "--temperature", "2", "--seed"]
    first, again, other = (generate_json(folder, *drawn, seed)["ids"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_stop_text_cuts_within_tokens(folder: Path) -> None:
    """It is none of the tokens: two of them, of a character each."""
    whole = generate_json(folder, "--prompt", "ab")["text"]
    stop = whole[4:6]
    found = generate_json(folder, "--prompt", "ab", "--stop", "not there", "--stop", stop)
    assert (found["text"], found["ended"]) == (whole[: whole.index(stop)], "stop")
    result = generate(folder, "--prompt", "ab", "--stop", stop)
    assert result.stdout == found["text"] + "\n"
    assert "ended before a stop text" in result.stderr


def test_the_end_of_text_ends_it(folder: Path) -> None:
    whole = generate_json(folder, "--prompt", "ab")["ids"]
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [EOS, whole[4]]}))
    try:
        found = generate_json(folder, "--prompt", "ab")
    finally:
        generation.unlink()
    end = whole.index(whole[4])
    assert (found["ids"], found["ended"]) == (whole[: end + 1], "eos")
    assert found["text"] == fe.Tokenizer.load(folder).decode(whole[:end])


def test_ctrl_c_keeps_what_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fe.Model.generate

    def interrupted(*arguments: Any, **options: Any) -> Any:
        for count, token in enumerate(plain(*arguments, **options)):
            if count == 5:
                raise KeyboardInterrupt
            yield token

    whole = generate_json(folder, "--prompt", "ab")
    monkeypatch.setattr(fe.Model, "generate", interrupted)
    result = generate(folder, "--prompt", "ab")
    assert result.exit_code == 130
    assert result.stdout == fe.Tokenizer.load(folder).decode(whole["ids"][:5]) + "\n"
    assert "decode 4 tokens in " in result.stderr
    assert result.stderr.rstrip().endswith("ended by Ctrl-C")
    code, found = run_json("generate", folder, "--device", "cpu", "--prompt", "ab")
    assert (code, found["ended"], found["ids"]) == (130, "interrupted", whole["ids"][:5])


def test_ctrl_c_of_a_process(tmp_path: Path) -> None:
    """The signal itself, while it writes: a text that takes long, on a busy machine too."""
    model = make_model(
        tmp_path / "m", vocab_size=VOCABULARY, eos_token_id=None, max_position_embeddings=8192
    )
    folder = write_tokenizer(model, letters())
    arguments = [folder, "--prompt", "ab", "--max-new-tokens", 8000, "--device", "cpu"]
    paths = [str(Path(fe.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "generate", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate()
    assert process.returncode == 130
    text = first + rest.removesuffix("\n")
    assert 0 < len(text) < 8000
    again = generate_json(folder, "--prompt", "ab", "--max-new-tokens", len(text))
    assert again["text"].startswith(text)
    assert errors.count("\n") == 1
    assert errors.endswith("ended by Ctrl-C\n")


def test_without_a_number_it_writes_what_the_model_is_made_for(folder: Path) -> None:
    """256 positions."""
    ids = ",".join(["1"] * 250)
    found = run_json("generate", folder, "--device", "cpu", "--ids", ids)[1]
    assert (len(found["ids"]), found["ended"]) == (6, "length")
    result = run("generate", folder, "--device", "cpu", "--ids", ids + ",1" * 6)
    assert result.exit_code == 2
    assert "expected at most 256 tokens" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --prompt, --chat and --ids"),
        (["--prompt", "a", "--chat", "b"], "expected one of --prompt, --chat and --ids"),
        (["--ids", "1,-2"], "expected token ids from 0 with commas between, found '1,-2'"),
        (["--ids", ""], "expected token ids from 0 with commas between, found ''"),
        (["--ids", "1", "--stop", "a"], "--stop: ends a text, and --ids prints token ids"),
        (["--prompt", "a", "--stop", ""], "stop: expected texts of at least a character"),
        (["--prompt", "a", "--temperature", "nan"], "a number from 0, found 'nan'"),
        (["--prompt", "a", "--top-p", "nan"], "a number above 0, up to 1, found 'nan'"),
        (["--prompt", "a", "--top-p", "0"], "0.0 is not in the range 0<x<=1"),
    ],
)
def test_wrong_usage(folder: Path, arguments: list[str], message: str) -> None:
    result = generate(folder, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The sea was quiet, and a thin mist lay over it.\n" * 2)
    return path


def test_score_is_the_mean_over_windows_that_share_a_token(folder: Path, text: Path) -> None:
    code, found = run_json("score", folder, "--text", text, "--length", 40, "--device", "cpu")
    ids = np.array(fe.Tokenizer.load(folder).encode(text.read_text()))
    reference, likely = Reference(folder), []
    for token in range(1, ids.size):
        first = (token - 1) // 39 * 39
        logits = reference.logits(ids[first:token])[0, -1].astype(np.float64)
        likely.append(logits[ids[token]] - np.logaddexp.reduce(logits))
    assert (code, found["tokens"], found["length"]) == (0, ids.size, 40)
    assert found["mean_log_probability"] == pytest.approx(np.mean(likely), abs=5e-3)  # float16
    assert found["perplexity"] == pytest.approx(math.exp(-np.mean(likely)), rel=5e-3)
    result = run("score", folder, "--text", text, "--length", 40, "--device", "cpu")
    assert f"perplexity {found['perplexity']:.4f}, mean log-probability " in result.stdout
    assert f" of {ids.size - 1} tokens in windows of 40" in result.stdout


def test_a_window_is_no_longer_than_the_model_is_made_for(folder: Path, text: Path) -> None:
    found = run_json("score", folder, "--text", text, "--device", "cpu")[1]
    assert found["length"] == 256


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a text of at least 2 tokens, found 1"),
        (b"\xff\xfe", "expected text in UTF-8"),
    ],
)
def test_what_cannot_be_scored(folder: Path, text: Path, content: bytes, message: str) -> None:
    text.write_bytes(content)
    result = run("score", folder, "--text", text, "--device", "cpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_model_that_is_not_computed_here_is_bad_input(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, letters())
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    result = run("generate", tmp_path, "--prompt", "a", "--device", "cpu")
    assert result.exit_code == 2
    assert "found ['GPT2LMHeadModel']" in result.stderr
