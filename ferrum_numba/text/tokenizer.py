"""Text to token ids and back; needs the extra `text`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, FerrumError
from ..gptq.keys import Keys
from ..host_memory import trim
from ..models.config import CONFIG_FILE, GENERATION_FILE, eos_ids
from .chat import read_template, render, special_tokens

_FILE, _CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_UNFINISHED = "\ufffd"  # what decoders write for bytes that are no whole character
_CONTEXT = 8  # tokens before a stream that tell how its first one is written


class Tokenizer:
    """The tokenizer of a model; made by `Tokenizer.load`.

        text = fe.Tokenizer.load("directory")
        ids = text.encode("Once upon a time")   # or text.chat("a question")
        print(text.decode(ids))

    eos: ids that end a text, from generation_config.json or config.json.
    """

    def __init__(
        self,
        tokenizer: Any,
        eos: tuple[int, ...] = (),
        template: tuple[str, str] | None = None,
        special: Mapping[str, str] | None = None,
    ) -> None:
        """`tokenizer`: of the library tokenizers; the rest as `load` finds it in the files."""
        self.eos, self._tokenizer = eos, tokenizer
        self._template, self._special = template, special or {}

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """The tokenizer in a model's directory: tokenizer.json, and what stands beside it.

        Raises FerrumError without the extra `text`, and CheckpointError for files that are missing
        or cannot be read.
        """
        missing = [name for name in ("tokenizers", "jinja2") if find_spec(name) is None]
        if missing:
            raise FerrumError(
                "text", " and ".join(missing), 'none: pip install "ferrum-numba[text]"'
            )
        import tokenizers

        folder = Path(folder)
        if not (folder / _FILE).is_file():
            raise CheckpointError(
                folder / _FILE,
                "the model's tokenizer",
                "nothing",
                (
                    "other kinds of tokenizer files are not read: save it with transformers' fast "
                    "tokenizer"
                ),
            )
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / _FILE))
        except Exception as error:  # the library raises no other type
            raise CheckpointError(
                folder / _FILE,
                "a tokenizer",
                f"what tokenizers {tokenizers.__version__} cannot read ({error})",
                "download the file again",
            ) from error
        trim()  # 14 MB of what was read of 49,000 tokens
        tokenizer.no_truncation()  # as its file may ask for
        tokenizer.no_padding()
        keys, config, generation = (
            Keys.load(folder / name, optional=True)
            for name in (_CONFIG_FILE, CONFIG_FILE, GENERATION_FILE)
        )
        eos = eos_ids(config, generation)
        return cls(tokenizer, eos, read_template(folder, keys), special_tokens(keys))

    def __repr__(self) -> str:
        chat = "with" if self.has_chat else "without"
        return f"<Tokenizer of {self._tokenizer.get_vocab_size()} tokens, {chat} a chat template>"

    @property
    def has_chat(self) -> bool:
        """True if the model has a chat template."""
        return self._template is not None

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text`; with `special`, between the tokens that the model expects around it.

        What `text` has of special tokens, such as "<s>", becomes these.
        """
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of `ids`; special tokens are left out, or with `special` written as they are.

        Bytes that are no whole character become U+FFFD.
        """
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | str,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """The ids of a conversation, by the model's chat template.

        messages               [{"role": "user", "content": "…"}, …]; a text is one of the user's
        add_generation_prompt  whether the assistant's turn is opened
        variables              what else the template reads, such as `tools` or `enable_thinking`

        Raises CheckpointError for a model without a template, and for messages that it refuses.
        """
        if self._template is None:
            raise CheckpointError(
                "chat_template",
                "one beside the tokenizer",
                "none: the model is not made for chats",
                "encode() the text itself",
            )
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        known = {"add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
        text = render(self._template, messages, {**self._special, **known, **variables})
        return self.encode(text, special=False)  # the template has written them

    def stream(self, after: Sequence[int] = (), stop: Sequence[str] = ()) -> TextStream:
        """A decoder for ids that come one by one, after the ids `after`, up to a text of `stop`."""
        return TextStream(self, after, stop)


class TextStream:
    """Text of ids as they come: put() each, then end(). No character is given out in halves.

    stopped: whether one of the stop texts has come; neither it nor what follows is given out.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int], stop: Sequence[str]) -> None:
        """Make a stream; see `Tokenizer.stream`. Raises FerrumError for an empty stop text."""
        if not all(stop):
            raise FerrumError("stop", "texts of at least a character", "an empty one")
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids = list(after)[-_CONTEXT:]
        self._known = len(self._ids)  # of these the text is given out, or was before the stream
        self._held = ""  # may be the beginning of a stop text
        self.stopped = False

    def put(self, token: int) -> str:
        """The text that `token` completes; often none."""
        self._ids.append(token)
        text = self._pending()
        if not text or text.endswith(_UNFINISHED):
            return ""
        return self._release(text)

    def end(self) -> str:
        """Text that is still held back."""
        text = self._release(self._pending()) + self._held
        self._held = ""
        return text

    def _pending(self) -> str:
        """Text that the pending ids add to that of those before them."""
        before = self._tokenizer.decode(self._ids[: self._known])
        return self._tokenizer.decode(self._ids)[len(before) :]

    def _release(self, text: str) -> str:
        """Take all ids as known, and give out `text` but what is, or may become, a stop text."""
        self._ids = self._ids[self._known :]
        self._known = len(self._ids)
        if self.stopped:
            return ""
        self._held += text
        found = [self._held.index(stop) for stop in self._stop if stop in self._held]
        self.stopped = bool(found)
        beginnings = (stop[:size] for stop in self._stop for size in range(1, len(stop)))
        held = max((len(part) for part in beginnings if self._held.endswith(part)), default=0)
        size = min(found) if found else len(self._held) - held
        text, self._held = self._held[:size], "" if found else self._held[size:]
        return text
