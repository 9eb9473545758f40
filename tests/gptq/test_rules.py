"""Rules: which layers a rule means, and in which order rules count."""

import re

import pytest

from ferrum_numba.gptq.rules import read_rules
from tests.gptq.fixtures import refused

PREFIXES = ["model.", "model.language_model.", "language_model.model.", "thinker.model."]


def test_the_first_rule_that_matches_counts():
    rules = read_rules(
        {
            "-:.*down_proj": {},
            r"+:model\.layers\.0\.": {"bits": 8, "group_size": 32, "sym": False, "mse": 2.4},
            ".*q_proj": {"bits": 3},
        },
        None,
        "here",
    )

    assert rules.first("model.layers.0.mlp.down_proj").excluded
    rule = rules.first("model.layers.0.self_attn.q_proj")
    assert (rule.excluded, rule.bits, rule.group_size, rule.sym) == (False, 8, 32, False)
    assert rules.first("model.layers.1.self_attn.q_proj").bits == 3
    assert rules.first("x.model.layers.0.mlp.up_proj") is None  # matched at the start only


def test_extra_config_of_auto_round():
    rules = read_rules(
        None,
        {"model.layers.1": {"bits": 8}, "layers.*up": {"group_size": 32}, "lm_head": {"bits": 16}},
        "here",
    )
    assert rules.first("model.layers.1").bits == 8
    assert rules.first("model.layers.10") is None
    assert rules.first("model.layers.7.mlp.up_proj").group_size == 32
    assert rules.first("lm_head").excluded


def test_the_first_counts_among_names_and_patterns():
    extra = {"a.b": {"bits": 2}, "a.*b": {"bits": 3}, "a.c": {"bits": 8}}
    rules = read_rules({"a.c": {"bits": 4}}, extra, "here")
    assert [rules.first(name).bits for name in ("a.b", "a.xb", "a.c")] == [2, 3, 4]


@pytest.mark.parametrize("written", PREFIXES)
@pytest.mark.parametrize("stored", PREFIXES)
def test_rules_find_a_text_model_wherever_it_stands(written, stored):
    rules = read_rules(
        {rf"+:{re.escape(written)}layers\.3\.": {"bits": 8}}, {"vision.layers.3": {"bits": 2}}, "x"
    )
    assert rules.first(f"{stored}layers.3.mlp.up_proj").bits == 8
    assert rules.first(f"{stored}layers.13.mlp.up_proj") is None
    assert rules.first("visual.layers.3.mlp.up_proj") is None


def test_an_exclusion_means_the_names_that_it_says():
    rules = read_rules({r"-:model\.layers\.0\.": {}}, None, "x")
    assert rules.first("model.layers.0.mlp.up_proj").excluded
    assert rules.first("model.language_model.layers.0.mlp.up_proj") is None


def test_a_rule_for_the_files_own_name_counts_first():
    rules = read_rules(
        {r"model\.layers\.": {"bits": 2}, r"model\.language_model\.layers\.": {"bits": 8}},
        None,
        "x",
    )
    assert rules.first("model.language_model.layers.0.up").bits == 8
    assert rules.first("language_model.model.layers.0.up").bits == 8


def test_a_rule_that_could_take_for_ever_is_refused_by_name():
    with refused(r"^dynamic\['-:\(a\)\\\\1'\] in x: .*found a backreference in"):
        read_rules({r"-:(a)\1": {}}, None, "x")


def test_many_rules_for_single_names_cost_little():
    extra = {f"model.layers.{number}.up": {"bits": 8} for number in range(30_000)}
    rules = read_rules(None, extra, "here")
    assert all(rules.first(name).bits == 8 for name in extra)
    assert rules._patterns._work < 10
