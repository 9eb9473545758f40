"""Tokenizer of synthetic models: each byte a token, and syllables for what random weights say."""

from __future__ import annotations

from itertools import islice, product
from typing import Any

SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2, as the configuration has them
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def tokenizer_file(vocab_size: int) -> dict[str, Any]:
    """Content of tokenizer.json for a vocabulary of `vocab_size` ids, in the library's format.

    Ids 3 to 258 are the 256 bytes, those after them syllables. No text is encoded as syllables.
    """
    names = [*SPECIAL, *_bytes(), *_syllables()][:vocab_size]
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    levels["use_regex"] = True
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [{"id": i, "content": name, **flags} for i, name in enumerate(SPECIAL)]
    return {
        "version": "1.0",
        "added_tokens": [{**token, "special": True} for token in special],
        "pre_tokenizer": levels,
        "decoder": levels,
        "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": []},
    }


def tokenizer_configuration() -> dict[str, str]:
    """Content of tokenizer_config.json: special tokens and a chat template."""
    unknown, begin, end = SPECIAL
    tokens = {"unk_token": unknown, "bos_token": begin, "eos_token": end}
    return {**tokens, "chat_template": _TEMPLATE}


def _bytes() -> list[str]:
    """Names of the bytes 0 to 255 in byte-level tokenizers: printable ones are themselves.

    The others are numbered from U+0100 on. Source: GPT-2's encoder.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    named = {byte: chr(0x100 + place) for place, byte in enumerate(others)}
    return [named.get(byte, chr(byte)) for byte in range(256)]


def _syllables() -> list[str]:
    """253 of them, half with a space before ("Ġ" in byte-level names)."""
    parts = product("bdfghjklmnprstvwz", "aeiou", ("", "n"), ("Ġ", ""))
    return [f"{space}{first}{vowel}{last}" for first, vowel, last, space in islice(parts, 253)]
