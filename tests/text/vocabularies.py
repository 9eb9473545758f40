"""Tokenizers to write into a model's directory, one token a byte or nearly so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

CHAT = (
    "{% for message in messages %}{{ bos_token + message['role'] + ': ' + message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ bos_token + 'assistant: ' }}{% endif %}"
)


def bytes_only() -> Tokenizer:
    """Kind of Llama 3, Qwen and SmolLM: each byte a token, and "<s>" 256, "</s>" 257."""
    return _byte_level(sorted(pre_tokenizers.ByteLevel.alphabet()))


def letters() -> Tokenizer:
    """The same of printable ASCII alone, without the space: 94 tokens, "<s>" 94, "</s>" 95."""
    return _byte_level([chr(code) for code in range(ord("!"), ord("~") + 1)])


def _byte_level(alphabet: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_special(tokenizer)


def pieces() -> Tokenizer:
    """Kind of Llama 2 and Mistral: a few pieces that carry their space; other text as bytes."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcde", "▁a", "▁b"]
    merges = [("▁", "a"), ("▁", "b")]
    vocabulary = {name: i for i, name in enumerate(names)}
    model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _with_special(tokenizer)


def _with_special(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<s>", "</s>")]
    )
    first = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [first])
    return tokenizer


def write_tokenizer(
    folder: Path, tokenizer: Tokenizer, chat: str | None = CHAT, **keys: Any
) -> Path:
    """tokenizer.json and tokenizer_config.json in `folder`; `keys` stand in the latter, too."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": chat, **keys}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder
