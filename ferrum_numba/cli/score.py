"""`ferrum-numba score`: how likely a model finds a text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click
import numpy as np
import numpy.typing as npt

from ..models import Model
from ..text import Tokenizer
from .console import json_option, standard_output, tracked, write_json
from .devices import describe_device, device_line, device_option, find_device
from .generate import load_model
from .options import examples

_LENGTH = 512  # tokens at a time: with a vocabulary of 128k, 260 MB of logits


@click.command(
    epilog=examples(
        "ferrum-numba score example --text text.txt",
    )
)
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option(
    "--text",
    "file",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    required=True,
    help="The text, in UTF-8; -: standard input.",
)
@click.option(
    "--length",
    type=click.IntRange(min=2),
    help=f"Tokens of a window, which is all that a token in it is judged by. Default: {_LENGTH}, "
    "or what the model is made for.",
)
@device_option("auto (a GPU, else the CPU; the default), cpu, cuda or cuda:N.", default="auto")
@json_option
def score(model_dir: Path, file: TextIO, length: int | None, device: str, as_json: bool) -> None:
    """Measure a model's perplexity on a text.

    The model of the directory MODEL_DIR reads FILE in windows, each from the last token of the one
    before, and every token but the very first is judged by those before it in its window: the
    mean logarithm of its probability, and the perplexity exp(-mean).
    """
    try:
        ids = Tokenizer.load(model_dir).encode(file.read())
    except UnicodeDecodeError as error:
        message = f"{file.name}: expected text in UTF-8, found other bytes ({error})"
        raise click.BadParameter(message, param_hint="--text") from error
    if len(ids) < 2:
        message = f"{file.name}: expected a text of at least 2 tokens, found {len(ids)}"
        raise click.BadParameter(message, param_hint="--text")
    found = find_device(device)
    model = load_model(model_dir, found)
    length = length or min(_LENGTH, model.config.max_positions)
    starts = range(0, len(ids) - 1, length - 1)
    start = time.perf_counter()
    windows = (ids[first : first + length] for first in starts)
    parts = tracked(_log_probabilities(model, windows), len(starts))
    mean, seconds = float(np.concatenate(parts).mean()), time.perf_counter() - start
    described = describe_device(found)
    facts = {
        "model": str(model_dir),
        "device": described,
        "tokens": len(ids),
        "length": length,
        "mean_log_probability": mean,
        "perplexity": math.exp(-mean),
        "seconds": seconds,
    }
    if as_json:
        write_json(facts)
    else:
        standard_output().print(
            f"perplexity {math.exp(-mean):.4f}, mean log-probability {mean:.4f} of "
            f"{len(ids) - 1:,} tokens in windows of {length}\n{device_line(described)}: "
            f"{seconds:.1f} s, {len(ids) / seconds:,.1f} tokens/s"
        )


def _log_probabilities(
    model: Model, windows: Iterator[list[int]]
) -> Iterator[npt.NDArray[np.float64]]:
    """Natural logarithm of the probability of each window's tokens but the first."""
    for ids in windows:
        logits = model.logits(np.array(ids, np.int32))[0, :-1]
        peak = logits.max(axis=-1, keepdims=True)
        total = np.log(np.exp(logits - peak).sum(axis=-1, dtype=np.float64)) + peak[:, 0]
        yield logits[np.arange(len(ids) - 1), ids[1:]] - total
