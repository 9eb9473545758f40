"""Patterns: what `re.match` says, without its going back and trying again."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ferrum_numba.gptq.patterns import Patterns
from tests.gptq.fixtures import refused

NAMES = [
    "lm_head",
    "model.layers.0.self_attn.q_proj",
    "model.layers.3.mlp.gate_proj",
    "model.layers.13.mlp.experts.7.down_proj",
    "model.language_model.layers.18.mlp.gate",
    "Model.Layers.2",
    "a",
    "",
    "a\n",
    "\n",
]

PATTERNS = [
    r"model\.layers\.[0-3]\..*",
    r".*gate.*",
    r".*\.(?:18|19)\..*(gate|up).*",
    r"^lm_head$",
    r"^model\.layers\.(0|1|2|[3-9])\.mlp\.",
    r"model.layers.\d+.mlp",
    r".*\.experts\.\d{1,3}\..*",
    r"model\.layers\.1?[3-5]\.(?P<what>mlp|self_attn)\.",
    r"(?i)model\.layers\.2\b",
    r"(?!.*experts)model",
    r"^(?!lm_head)(?=.*proj$).*$",
    r"(?:(?!gate).)*\Z",
    r"\w+\.layers\.[^.]+\.[a-z_]*\.?\w*$",
    r"a{2,}|a{1}|a{,0}",
    r"\Alm_head\Z",
    r"a$",
    r"a\Z",
    r"\Bx|\b",
    r".*?layers.*?\x2e",
    r"(?s).*$",
    r"(?#all)model(?:)",
    r"[]a]|[^]a-z]",
    r"",
    r"(?:a|)*b?|l",
    r"a{x}|\{|model",
    r"(a*)*$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_re_does(pattern):
    patterns = Patterns([(pattern, "here")])
    for name in NAMES:
        assert (patterns.first(name) is not None) == bool(re.match(pattern, name)), name


def test_the_first_pattern_that_matches_is_found():
    patterns = Patterns([(pattern, "here") for pattern in PATTERNS])
    for name in NAMES:
        matching = [place for place, pattern in enumerate(PATTERNS) if re.match(pattern, name)]
        assert patterns.first(name) == min(matching)


ATOMS = st.sampled_from(
    [
        "a",
        "b",
        ".",
        r"\.",
        "[ab]",
        "[^a]",
        r"\w",
        r"\d",
        "^",
        "$",
        r"\b",
        r"\B",
        r"\Z",
        r"\A",
        r"\n",
    ]
)


def extended(inner):
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{,2}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map(lambda part: f"(?={part})"),
        inner.map(lambda part: f"(?!{part})"),
    )


@given(st.recursive(ATOMS, extended, max_leaves=6), st.text("ab.1\n", max_size=6))
@example("(?!(?!a))b", "b")
@example("(?:(?=(?:a|b))(?:a|b))+$", "ab\n")
def test_any_pattern_matches_as_re_does(pattern, name):
    found = Patterns([(pattern, "here")]).first(name)
    assert (found is not None) == bool(re.match(pattern, name))


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(a)\1", "a backreference"),
        (r"(?P<x>a)(?P=x)", "a backreference"),
        (r"(?<=a)b", "a lookbehind"),
        (r"(?<!a)b", "a lookbehind"),
        (r"(a)?(?(1)b|c)", "a conditional"),
        (r"(?m)^a", "the flag m"),
        (r"(?x)a", "the flag x"),
        (r"(?i:a)", "flags inside a pattern"),
        (r"(?:(?:a{1000}){1000}){1000}", "repeats that make it too long"),
        (r"(?:(?:(?:){9999999}a){999999})+", "repeats that make it too long"),
        (r"(?i)[\u0000-\U0010ffff]", "a class beyond plain characters"),
        ("(" * 200 + ")" * 200, "groups more than 50 deep"),
        ("a" * 20_000, "20000 characters"),
    ],
)
def test_what_could_take_for_ever_is_refused_by_name(pattern, what):
    with refused(rf"^here: expected a regular expression that can be matched in .*, found {what}"):
        Patterns([(pattern, "here")])


@pytest.mark.parametrize(
    "pattern", ["(", "[a", "a**", "*", r"\q", "a{3,2}", "(?P<a", ")", "(?", "\\"]
)
def test_what_is_no_regular_expression(pattern):
    with refused("^here: expected a regular expression, found one that does not compile"):
        Patterns([(pattern, "here")])


BACKTRACKERS = [
    r"(a|a)*b",
    r"(a+)+b",
    r"(?:a?){40}a{40}b",
    r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)b",
    r"(?:(?:(?:a*)*)*)*b",
    r"(?!(a|aa)+$)(a|aa)+b",
    r"(?:\w|[a-z]|.)*\d",
]


@pytest.mark.parametrize("pattern", BACKTRACKERS)
def test_patterns_that_make_re_go_back_take_steps_in_proportion_to_the_name(pattern):
    def steps(n):
        patterns = Patterns([(pattern, "here")])
        assert patterns.first("a" * n) is None
        return patterns._work

    assert steps(4000) <= 5 * steps(1000)


def test_patterns_that_have_too_many_states_are_refused(monkeypatch):
    monkeypatch.setattr("ferrum_numba.gptq.patterns._LEAST_WORK", 1000)
    monkeypatch.setattr("ferrum_numba.gptq.patterns._WORK_PER_CHARACTER", 1)
    with refused(r"^dynamic: expected rules whose patterns are matched in \d+ steps, found that"):
        patterns = Patterns([("(?:.*a.{18}b){2}", "dynamic")])
        for number in range(1 << 20):
            patterns.first(f"{number:020b}{number:020b}".translate({48: "a", 49: "b"}))


def test_states_are_dropped_where_they_would_fill_the_memory(monkeypatch):
    monkeypatch.setattr("ferrum_numba.gptq.patterns._MAX_KEPT", 50)
    patterns = Patterns([(pattern, "here") for pattern in PATTERNS])
    for name in NAMES * 2:
        matching = [place for place, pattern in enumerate(PATTERNS) if re.match(pattern, name)]
        assert patterns.first(name) == min(matching)
        assert len(patterns._known) <= 50


def test_rules_beyond_measure_are_refused_unread():
    with refused(
        r"^here: expected rules of at most 1000000 characters, found 1000500 in 500 rules"
    ):
        Patterns([("(?:)" * 500 + "a", "here")] * 500)
