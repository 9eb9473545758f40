"""`ferrum-numba generate`: a model goes on with a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ..devices import Device
from ..models import Model
from ..text import TextStream, Tokenizer
from . import interruption
from .console import byte_progress, json_option, standard_error, write_json, write_part
from .devices import describe_device, device_line, device_option, find_device
from .options import NUMBER_FROM_ZERO, SHARE, examples, refuse_options, repeated_option, seed_option

_MOST = 256  # tokens, where no number is given


def _read_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """`1,2,3` as token ids."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        message = f"expected token ids from 0 with commas between, found {value!r}"
        raise click.BadParameter(message, ctx, param)
    return [int(part) for part in parts]


@click.command(
    epilog=examples(
        "ferrum-numba generate example --prompt 'Once upon a time' --max-new-tokens 8",
    )
)
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option("--prompt", metavar="TEXT", help="The text to continue.")
@click.option("--chat", metavar="TEXT", help="What to answer, by the model's chat template.")
@click.option(
    "--ids", metavar="ID,ID,...", callback=_read_ids, help="Token ids to continue; prints ids."
)
@click.option(
    "--max-new-tokens",
    "most",
    type=click.IntRange(min=1),
    help=f"Default: {_MOST}, or what the model is made for, less the prompt.",
)
@click.option(
    "--temperature",
    type=NUMBER_FROM_ZERO,
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token each time.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draw from the K likeliest tokens; 0: from all.",
)
@click.option(
    "--top-p",
    type=SHARE,
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens that together have this probability.",
)
@seed_option("the draws")
@repeated_option("--stop", "stop", "TEXT", "End before this text; may be given several times.")
@device_option("auto (a GPU, else the CPU; the default), cpu, cuda or cuda:N.", default="auto")
@json_option
@click.pass_context
def generate(
    ctx: click.Context,
    model_dir: Path,
    prompt: str | None,
    chat: str | None,
    ids: list[int] | None,
    most: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Continue a text, or answer it, token by token.

    MODEL_DIR is a GPTQ model's directory. Prints the text as it comes, up to the model's end of
    text, one of --stop, --max-new-tokens or Ctrl-C, which keeps what is there and exits with 130;
    then, on standard error, tokens a second of reading the prompt and of writing.
    """
    if sum(given is not None for given in (prompt, chat, ids)) != 1:
        raise click.UsageError("expected one of --prompt, --chat and --ids")
    if ids is not None:
        refuse_options(ctx, ["stop"], "ends a text, and --ids prints token ids")
    text = None if ids is not None else Tokenizer.load(model_dir)
    if text is not None:
        ids = text.encode(prompt) if prompt is not None else text.chat(chat or "")
    assert ids is not None
    found = find_device(device)
    model = load_model(model_dir, found)
    room = model.config.max_positions - len(ids)
    most = most or (min(_MOST, room) if room > 0 else _MOST)  # with no room the model says so
    tokens = model.generate(
        ids,
        max_new_tokens=most,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    stream = text.stream(ids, stop) if text else None
    run = Run(len(ids), most, stream, model.config.eos)
    described = describe_device(found)
    run.follow(tokens, (lambda part: None) if as_json else write_part)
    if as_json:
        write_json({"model": str(model_dir), "device": described, "prompt_ids": ids, **run.facts()})
    else:
        write_part("\n")
        standard_error().print(f"{device_line(described)}: {run.line()}")
    if run.ended == "interrupted":
        ctx.exit(interruption.EXIT_CODE)


def load_model(folder: Path, device: Device) -> Model:
    """The model in a directory, on a device; a bar shows how far it is."""
    return byte_progress(lambda progress: Model.load(folder, device=device, progress=progress))


@dataclass
class Run:
    """Outcome of one generation.

    prompt_tokens  that were read
    most           tokens to be generated
    stream         decodes the ids; None where they are written as they are
    eos            ids that end the text
    ids            generated so far, the one that ended the text among them
    text           given out so far
    ended          "eos", "stop", "length" or "interrupted"
    first, last    seconds until the first token was there, and until the last
    """

    prompt_tokens: int
    most: int
    stream: TextStream | None
    eos: tuple[int, ...]
    ids: list[int] = field(default_factory=list)
    text: str = ""
    ended: str = ""
    first: float = 0.0
    last: float = 0.0

    def follow(self, tokens: Iterable[int], write: Callable[[str], object]) -> None:
        """Take `tokens` as they come, and write what text they complete; Ctrl-C ends them."""
        start = time.perf_counter()
        try:
            for token in tokens:
                self.last = time.perf_counter() - start
                self.first = self.first or self.last
                self.ids.append(token)
                if token in self.eos:
                    self.ended = "eos"
                    break
                self._give(f"{token} " if self.stream is None else self.stream.put(token), write)
                if self.stream is not None and self.stream.stopped:
                    self.ended = "stop"
                    break
            else:
                self.ended = "length" if len(self.ids) == self.most else "eos"
        except KeyboardInterrupt:
            self.ended = "interrupted"
        if self.stream is not None:
            self._give(self.stream.end(), write)

    def _give(self, part: str, write: Callable[[str], object]) -> None:
        self.text += part
        if part:
            write(part)

    def facts(self) -> dict[str, Any]:
        """The run in JSON's types; rates are null where nothing was measured."""
        written, seconds = max(len(self.ids) - 1, 0), self.last - self.first
        return {
            "ids": self.ids,
            "text": None if self.stream is None else self.text,
            "ended": self.ended,
            "prefill": _rate(self.prompt_tokens, self.first),
            "decode": _rate(written, seconds),  # the first token comes with the prompt
        }

    def line(self) -> str:
        """The run in one line."""
        facts = self.facts()
        why = {
            "eos": "at its end of text",
            "stop": "before a stop text",
            "length": "after --max-new-tokens",
            "interrupted": "by Ctrl-C",
        }[self.ended]
        parts = [_sentence(name, facts[name]) for name in ("prefill", "decode")]
        return f"{', '.join(parts)}; ended {why}"


def _rate(tokens: int, seconds: float) -> dict[str, Any]:
    rate = tokens / seconds if tokens and seconds > 0 else None
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": rate}


def _sentence(name: str, rate: dict[str, Any]) -> str:
    per_second = rate["tokens_per_second"]
    speed = "" if per_second is None else f" ({per_second:,.1f} tokens/s)"
    tokens = rate["tokens"]
    return f"{name} {tokens} token{'s' if tokens != 1 else ''} in {rate['seconds']:.2f} s{speed}"
