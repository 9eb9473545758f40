"""LayerRule: which layers a rule means, and in which order rules count."""

from ferrum_numba.gptq.rules import read_rules


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

    def first(name):
        return next((rule for rule in rules if rule.matches(name)), None)

    assert first("model.layers.0.mlp.down_proj").excluded
    rule = first("model.layers.0.self_attn.q_proj")
    assert (rule.excluded, rule.bits, rule.group_size, rule.sym) == (False, 8, 32, False)
    assert first("model.layers.1.self_attn.q_proj").bits == 3
    assert first("x.model.layers.0.mlp.up_proj") is None  # matched at the start only


def test_extra_config_of_auto_round():
    exact, pattern, left_out = read_rules(
        None,
        {"model.layers.1": {"bits": 8}, "layers.*up": {"group_size": 32}, "lm_head": {"bits": 16}},
        "here",
    )
    assert exact.matches("model.layers.1")
    assert not exact.matches("model.layers.10")
    assert pattern.matches("model.layers.7.mlp.up_proj")
    assert left_out.excluded
