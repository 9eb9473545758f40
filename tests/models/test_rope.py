"""Rotary frequencies against formulas written out by hand, position by position."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq.keys import Keys
from ferrum_numba.models import RopeSpec

SIZE = 16
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def read(scaling: dict | None, **keys: object) -> RopeSpec:
    """A rope of head_dim 16, as older files state it."""
    top = {"rope_theta": 10000.0, "max_position_embeddings": 256, "rope_scaling": scaling}
    return RopeSpec.read(Keys({**top, **keys}), SIZE, {})


def frequencies(scaling: dict | None, length: int = 1, **keys: object) -> list[float]:
    inverse, _ = read(scaling, **keys).frequencies(length)
    assert inverse.dtype == np.float32
    return inverse.tolist()


thetas = st.floats(100.0, 1e7)


@given(thetas)
def test_plain(theta: float) -> None:
    expected = [1 / theta ** (2 * j / SIZE) for j in range(SIZE // 2)]
    assert frequencies(None, rope_theta=theta) == pytest.approx(expected, rel=1e-6)
    assert read(None).frequencies(1)[1] == 1.0


@given(thetas, st.floats(1.0, 64.0))
def test_linear_stretches_positions(theta: float, factor: float) -> None:
    plain = frequencies(None, rope_theta=theta)
    scaled = frequencies({"type": "linear", "factor": factor}, rope_theta=theta)
    assert [f * factor for f in scaled] == pytest.approx(plain, rel=1e-6)


@given(st.floats(1.5, 16.0), st.integers(1, 2000))
def test_dynamic_grows_the_base_with_the_length(factor: float, length: int) -> None:
    """It counts from max_position_embeddings, 256."""
    scaling = {"type": "dynamic", "factor": factor, "original_max_position_embeddings": 64}
    base = 10000.0
    if length > 256:
        base *= (factor * length / 256 - factor + 1) ** (SIZE / (SIZE - 2))
    expected = [base ** (-2 * j / SIZE) for j in range(SIZE // 2)]
    assert frequencies(scaling, length) == pytest.approx(expected, rel=1e-6)
    assert read(scaling).varies


@given(st.floats(100.0, 1e6), st.floats(1.0, 32.0))
def test_llama3_by_wavelength(theta: float, factor: float) -> None:
    expected = []
    for plain in (theta ** (-2 * j / SIZE) for j in range(SIZE // 2)):
        wavelength = 2 * math.pi / plain
        if wavelength > 64 / 1.0:
            expected.append(plain / factor)
        elif wavelength < 64 / 4.0:
            expected.append(plain)
        else:
            smooth = (64 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append((1 - smooth) * plain / factor + smooth * plain)
    found = frequencies({**LLAMA3, "factor": factor}, rope_theta=theta)
    assert found == pytest.approx(expected, rel=1e-6)


@given(st.floats(1000.0, 1e6), st.floats(1.5, 32.0), st.booleans())
def test_yarn_by_turns(theta: float, factor: float, truncate: bool) -> None:
    def element(turns: float) -> float:
        """The (fractional) j whose frequency turns so often within 128 positions."""
        return SIZE * math.log(128 / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = element(32), element(1)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, SIZE - 1)
    expected = []
    for j in range(SIZE // 2):
        plain, ramp = theta ** (-2 * j / SIZE), min(max((j - first) / (last - first), 0), 1)
        expected.append(plain * (1 - ramp) + plain / factor * ramp)
    scaling = {**YARN, "factor": factor, "truncate": truncate}
    assert frequencies(scaling, rope_theta=theta) == pytest.approx(expected, rel=1e-6)
    assert read(scaling).attention == pytest.approx(0.1 * math.log(factor) + 1)


def test_yarns_attention_factor() -> None:
    assert read({**YARN, "attention_factor": 1.5}).attention == 1.5
    both = read({**YARN, "mscale": 2.0, "mscale_all_dim": 0.5}).attention
    assert both == pytest.approx((0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1))
    assert read({**YARN, "factor": 1.0}).attention == 1.0


def test_longrope_changes_all_frequencies_beyond_its_limit() -> None:
    short, long = [1.0 + j / 8 for j in range(8)], [2.0 + j for j in range(8)]
    scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    spec = read(scaling, original_max_position_embeddings=64)
    plain = frequencies(None)
    for length, factors in ((1, short), (64, short), (65, long)):
        found, attention = spec.frequencies(length)
        assert found * factors == pytest.approx(plain, rel=1e-6)
        assert attention == pytest.approx(math.sqrt(1 + math.log(256 / 64) / math.log(64)))
    assert spec.varies
    assert read(scaling).attention == 1.0  # not extended


def test_both_dialects_say_the_same() -> None:
    keys = Keys(
        {
            "max_position_embeddings": 256,
            "rope_parameters": {**LLAMA3, "rope_theta": 5e5, "partial_rotary_factor": 0.5},
        }
    )
    new = RopeSpec.read(keys, SIZE, {})
    assert new == read(LLAMA3, rope_theta=5e5, partial_rotary_factor=0.5)
    assert (new.kind, new.size, new.limit) == ("llama3", SIZE // 2, 64)
    assert not new.varies


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "mrope"}, "type in rope_scaling of config.json: expected one of default, "),
        ({"rope_type": 3}, "rope_type in rope_scaling of config.json: .* found 3"),
        ({"type": "linear"}, "factor in rope_scaling of config.json: .* found nothing"),
        ({"type": "linear", "factor": -1.0}, "factor in .* above 0, found -1.0"),
        ({**LLAMA3, "high_freq_factor": 1}, "high_freq_factor in .* above 1, found 1"),
        ({**YARN, "truncate": "yes"}, "truncate in .* true or false, found 'yes'"),
        ({"type": "longrope", "short_factor": [1.0]}, "short_factor in .* list of 8 numbers"),
        (
            {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [0] * 8},
            r"long_factor\[0\] in rope_scaling of config.json: expected a finite number above 0",
        ),
        (
            {"full_attention": {"rope_type": "default"}},
            "full_attention in rope_scaling of config.json: expected one rope",
        ),
        ("linear", "rope_scaling in config.json: expected a JSON object"),
    ],
)
def test_what_cannot_be_is_named(scaling: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(scaling)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [0.3, 1.5, 0.0625])
def test_a_part_of_a_head_that_cannot_turn(factor: float) -> None:
    with pytest.raises(CheckpointError, match="an even part of head_dim, 16, found"):
        read(None, partial_rotary_factor=factor)
