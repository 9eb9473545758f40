"""Text to ids and back, at once and token by token; chat templates."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="the extra `text` is not installed")

import ferrum_numba as fe
from ferrum_numba.text.chat import render
from tests.text.vocabularies import bytes_only, pieces, write_tokenizer

BYTES, PIECES = fe.Tokenizer(bytes_only()), fe.Tokenizer(pieces())
KINDS = pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])

# Spaces at the ends are what the second kind does not keep.
texts = st.text(st.sampled_from("abcde ü€漢😀\n"), max_size=20).map(str.strip)


def streamed(
    tokenizer: fe.Tokenizer, ids: Sequence[int], after: Sequence[int] = (), stop: Sequence[str] = ()
) -> list[str]:
    stream = tokenizer.stream(after, stop)
    parts = [stream.put(token) for token in ids]
    return [*parts, stream.end()]


@KINDS
@given(text=texts)
def test_a_stream_gives_the_same_text_in_whole_characters(
    tokenizer: fe.Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    parts = streamed(tokenizer, ids)
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


@KINDS
@given(before=texts.filter(bool), text=texts)
def test_a_stream_goes_on_after_a_prompt(tokenizer: fe.Tokenizer, before: str, text: str) -> None:
    """The space before its first word is kept: what the first token says depends on the prompt."""
    prompt, whole = tokenizer.encode(before), tokenizer.encode(f"{before} {text}")
    assert whole[: len(prompt)] == prompt
    expected = tokenizer.decode(whole).removeprefix(before)
    assert "".join(streamed(tokenizer, whole[len(prompt) :], after=prompt)) == expected


@KINDS
@given(text=texts, stop=st.lists(texts.filter(bool), min_size=1, max_size=3))
def test_stop_texts_cut_wherever_tokens_end(
    tokenizer: fe.Tokenizer, text: str, stop: list[str]
) -> None:
    stream = tokenizer.stream(stop=stop)
    found = ""
    for token in tokenizer.encode(text):
        found += stream.put(token)
        assert not any(each in found for each in stop)
        if stream.stopped:
            break
    found += stream.end()
    first = min((text.index(each) for each in stop if each in text), default=None)
    assert stream.stopped == (first is not None)
    if first is None:
        assert found == text
    else:  # where one stop text ends before another, that begins earlier, is complete, it counts
        assert text.startswith(found)
        assert any(text[len(found) :].startswith(each) for each in stop)


def test_bytes_that_are_no_character_are_told_at_the_end() -> None:
    ids = BYTES.encode("a€", special=False)[:-1]
    assert streamed(BYTES, ids) == ["a", "", "", "\ufffd"]
    assert streamed(BYTES, ids, stop=["ab"]) == ["", "", "", "a\ufffd"]


def test_special_tokens() -> None:
    ids = BYTES.encode("a</s>")
    assert ids == [256, *BYTES.encode("a", special=False), 257]
    assert (BYTES.decode(ids), BYTES.decode(ids, special=True)) == ("a", "<s>a</s>")
    assert streamed(BYTES, ids) == ["", "a", "", ""]


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(fe.FerrumError, match="stop: expected texts of at least a character"):
        BYTES.stream(stop=["a", ""])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path, bytes_only())


def test_chat(folder: Path) -> None:
    """The template writes the special tokens itself; a text is the user's."""
    tokenizer = fe.Tokenizer.load(folder)
    assert tokenizer.has_chat
    rendered = tokenizer.decode(tokenizer.chat("hi"), special=True)
    assert rendered == "<s>user: hi<s>assistant: "
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    rendered = tokenizer.decode(tokenizer.chat(messages, add_generation_prompt=False), special=True)
    assert rendered == "<s>system: be<s>user: hi"


def templated(folder: Path, template: str, **variables: object) -> str:
    """Text of "hi" by a chat_template.jinja, which goes before tokenizer_config.json."""
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = fe.Tokenizer.load(folder)
    return tokenizer.decode(tokenizer.chat("hi", **variables), special=True)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "hi"}'),
        ("{{ '<é>' | tojson }}", '"<é>"'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{% set n = namespace() %}{% for m in [1] %}{% set n.x = m %}{% endfor %}{{ n.x }}", "1"),
        ("{% for m in [1,2] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
        ("  {% if true %}\na\n  {% endif %}\nb", "a\nb"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hi!"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
        ("{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}", "<s></s>False"),
        ("{% if tools is none %}none{% endif %}", "none"),
        ("{{ enable_thinking }}", "False"),
    ],
)
def test_templates_find_what_transformers_gives_them(
    folder: Path, template: str, expected: str
) -> None:
    assert templated(folder, template, enable_thinking=False) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", r"does not \(roles must alternate\)"),
        ("{{ messages[0].content", "chat_template.jinja: expected a Jinja2 template, .* print"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ missing.role }}", "'missing' is undefined"),
    ],
)
def test_templates_that_refuse(folder: Path, template: str, message: str) -> None:
    with pytest.raises(fe.CheckpointError, match=message):
        templated(folder, template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10**10 }}",
        "{{ 2 ** (10**7) }}",
        "{{ [1] * 10**9 }}",
        "{{ 'x'.ljust(10**10) }}",
        "{{ 'x' | center(10**10) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ [[]] | tojson(indent=10**10) }}",
        "{{ range(10**5) | map('string') | join('x' * 10**5) }}",
        "{{ ('x' * 10**5).replace('x', 'y' * 10**5) }}",
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}"
        "{% endfor %}{{ n.x }}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    ],
)
def test_templates_that_compute_for_hours_or_fill_the_memory(template: str) -> None:
    """Strangers write them: each ends in little time."""
    with pytest.raises(fe.CheckpointError, match=r"more than \d+ (steps|characters)"):
        render((template, "here"), [], {})


def test_a_template_that_is_nested_without_end() -> None:
    with pytest.raises(fe.CheckpointError, match="does not compile"):
        render(("{% if a %}" * 9999, "here"), [], {})


def test_a_long_conversation_is_no_flood() -> None:
    messages = [{"role": "user", "content": "x" * 1000}] * 500
    template = (
        "{% set n = namespace(t='') %}{% for m in messages %}"
        "{% set n.t = n.t + '<' ~ m.role ~ '>' + m['content'] | trim %}{% endfor %}{{ n.t }}"
    )
    assert len(render((template, "here"), messages, {})) == 500 * 1006


def test_several_templates(tmp_path: Path) -> None:
    both = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    tokenizer = fe.Tokenizer.load(write_tokenizer(tmp_path, bytes_only(), chat_template=both))
    assert tokenizer.decode(tokenizer.chat("hi")) == "yes"


def test_a_model_that_is_not_made_for_chats(tmp_path: Path) -> None:
    tokenizer = fe.Tokenizer.load(write_tokenizer(tmp_path, bytes_only(), chat=None))
    assert not tokenizer.has_chat
    with pytest.raises(
        fe.CheckpointError, match="chat_template: expected one beside the tokenizer"
    ):
        tokenizer.chat("hi")


def test_eos_and_what_a_file_asks_for_in_training(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "config.json").write_text('{"eos_token_id": 257}')
    tokenizer = fe.Tokenizer.load(folder)
    assert len(tokenizer.encode("abcdef")) == 7
    assert tokenizer.eos == (257,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [257, 256]}')
    assert fe.Tokenizer.load(folder).eos == (257, 256)


def test_files_that_are_missing_or_damaged(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(fe.CheckpointError, match="tokenizer.json: expected the model's tokenizer"):
        fe.Tokenizer.load(tmp_path / "nothing")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(
        fe.CheckpointError, match="tokenizer.json: expected a tokenizer, found what"
    ):
        fe.Tokenizer.load(folder)


def test_without_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    message = r'text: expected tokenizers, found none: pip install "ferrum-numba\[text\]"'
    with pytest.raises(fe.FerrumError, match=message):
        fe.Tokenizer.load(folder)
