"""The chat template of a model: messages become the text that it was trained on.

Templates are Jinja2, written for the environment that transformers gives them: a sandbox, blocks
trimmed, `break` and `continue`, `raise_exception`, `strftime_now`, JSON as it is, and a
`generation` block, which marks what an assistant says and prints it as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..gptq.keys import Keys

_FILE, _KEY = "chat_template.jinja", "chat_template"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


def read_template(folder: Path, keys: Keys) -> tuple[str, str] | None:
    """(template, where it stands), or None where the model has none.

    keys: of tokenizer_config.json. A file of its own goes first; of several templates, "default".
    """
    if (folder / _FILE).exists():
        return (folder / _FILE).read_text(encoding="utf-8"), _FILE
    stated = keys[_KEY]
    if isinstance(stated, list):
        named = {each.get("name"): each.get("template") for each in stated if type(each) is dict}
        stated = named.get("default")
    if stated is None:
        return None
    if not isinstance(stated, str):
        raise keys.error(_KEY, "a text, or a list with one named default", "correct the file")
    return stated, f"{_KEY} in {keys.where}"


def special_tokens(keys: Keys) -> dict[str, str]:
    """The texts of a tokenizer_config.json's special tokens, which templates refer to by name."""
    stated = {name: keys[name] for name in _SPECIAL if keys[name] is not None}
    return {
        name: str(token.get("content")) if isinstance(token, dict) else str(token)
        for name, token in stated.items()
    }


def render(
    template: tuple[str, str], messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> str:
    """The text of `messages`, each a mapping of `role`, `content` and what else the template reads.

    template: as `read_template` gives it. Raises CheckpointError where it cannot be compiled, or
    refuses the messages.
    """
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    from .sandbox import BoundedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  jinja2's own attribute

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = BoundedEnvironment(
        {"tojson": _to_json},
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    text, where = template
    try:
        compiled = environment.from_string(text)
    except (TemplateError, RecursionError) as error:
        raise CheckpointError(
            where, "a Jinja2 template", f"one that does not compile ({error})", "correct it"
        ) from error
    try:
        return environment.render(compiled, messages=messages, **variables)
    except Exception as error:  # a template is somebody else's program
        raise CheckpointError(
            where,
            "messages that the model's template takes",
            f"some that it does not ({error})",
            "pass what it asks for",
        ) from error


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as a model reads it; jinja2's own filter escapes it for web pages."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
