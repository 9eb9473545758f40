"""Rotary position embedding: the frequencies by which elements of q and k are turned.

Element j of the first r of a head turns against element j + r/2, at position p by the angle
p * inv_freq[j]; cos and sin are multiplied by an attention factor. The formulas are those of
transformers' modeling_rope_utils; their papers stand beside each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..gptq.keys import Keys

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclass(frozen=True)
class RopeSpec:
    """Rotation of q and k by position.

    kind       one of KINDS
    theta      the base of the frequencies
    size       r, the elements of a head that turn, even; those past it stay as they are
    limit      positions of the original training, beyond which the context was extended
    factor     by which the context was extended
    attention  factor of cos and sin
    short, long  the divisor of each frequency [r/2], in texts within `limit` and beyond it
    """

    kind: str
    theta: float
    size: int
    limit: int
    factor: float = 1.0
    attention: float = 1.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()

    @classmethod
    def read(cls, keys: Keys, head_dim: int, names: Mapping[str, str]) -> RopeSpec:
        """Read a config.json, in the dialect of transformers 5 or the older one.

        Dialects: `rope_parameters` has everything; or `rope_scaling` has what differs from the
        default, and the rest stands at the top. names: other names of kinds. Raises
        CheckpointError for an unknown kind, and for parameters that are missing or wrong.
        """
        own = keys.object("rope_parameters") or keys.object("rope_scaling") or Keys({})
        if kinds := [key for key, value in own.values.items() if isinstance(value, dict)]:
            raise own.error(kinds[0], "one rope", "ropes of their own by layer are not computed")
        both = Keys({**keys.stated, **own.stated}, own.where)
        stated = own["rope_type"] or own["type"] or "default"
        kind = names.get(stated, stated) if isinstance(stated, str) else stated
        if kind not in KINDS:
            key = "rope_type" if own["rope_type"] else "type"
            raise own.error(key, f"one of {', '.join(KINDS)}", "other ropes are not computed here")
        size = head_dim * both.number("partial_rotary_factor", 1.0)
        if size % 2 or not 4 <= size <= head_dim:
            raise both.error("partial_rotary_factor", f"an even part of head_dim, {head_dim}")
        positions = keys.count("max_position_embeddings")
        limit = both.count("original_max_position_embeddings", positions, least=2)
        plain = cls(kind, both.number("rope_theta", above=1.0), int(size), limit)
        return _extended(plain, own, positions)

    @property
    def varies(self) -> bool:
        """True if the frequencies depend on the length."""
        return self.kind in ("dynamic", "longrope")

    def frequencies(self, length: int) -> tuple[Float32Array, float]:
        """(inv_freq float32 [r/2] in radians a position, attention factor).

        length: the highest position of the call, plus one. Computed in float64, rounded once.
        """
        inverse = self.plain(length)
        if divisors := self.short if length <= self.limit else self.long:
            inverse /= np.array(divisors)
        return inverse.astype(np.float32), self.attention

    def plain(self, length: int) -> Float64Array:
        """Frequencies [r/2] before they are divided."""
        theta = self.theta
        if self.kind == "dynamic" and length > self.limit:  # "NTK-aware", by the actual length
            stretch = self.factor * length / self.limit - (self.factor - 1)
            theta *= stretch ** (self.size / (self.size - 2))
        return theta ** -(np.arange(0, self.size, 2) / self.size)

    def turns(self, longest: int, length: int) -> tuple[Float32Array, Float32Array]:
        """(cosines, sines), float32 [length, r/2] of each position, times the attention factor.

        longest: tokens of the longest text that is read at once; positions beyond are reached one
        by one.  Angles are float32 products, as transformers computes them.
        """
        inverse, attention = self.frequencies(longest)
        angles = np.arange(length, dtype=np.float32)[:, None] * inverse
        if self.kind == "dynamic":  # a token beyond turns by the length that it makes
            for position in range(max(longest, self.limit), length):
                angles[position] = np.float32(position) * self.frequencies(position + 1)[0]
        cosines, sines = (turn(angles) * np.float32(attention) for turn in (np.cos, np.sin))
        return cosines, sines


def _extended(rope: RopeSpec, own: Keys, positions: int) -> RopeSpec:
    """A plain rope with what its kind has of its own.  positions: what the model is made for."""
    if rope.kind == "default":
        return rope
    extended_to = positions / rope.limit if rope.kind in ("yarn", "longrope") else None
    factor = own.number("factor", extended_to)
    rope = replace(rope, factor=factor)
    if rope.kind == "dynamic":  # this kind alone counts from the configured positions
        return replace(rope, limit=positions)
    if rope.kind == "longrope":  # Ding et al., arXiv:2402.13753
        attention = math.sqrt(1 + math.log(factor) / math.log(rope.limit)) if factor > 1 else 1.0
        short, long = (own.numbers(f"{name}_factor", rope.size // 2) for name in ("short", "long"))
        attention = own.number("attention_factor", attention)
        return replace(rope, attention=attention, short=short, long=long)
    if rope.kind == "linear":  # Chen et al., arXiv:2306.15595
        divided = np.ones(rope.size // 2)
    elif rope.kind == "llama3":
        divided = _llama3(rope, own)
    else:
        rope, divided = replace(rope, attention=_yarns_attention(factor, own)), _yarn(rope, own)
    divisors = tuple((1 / (1 - divided + divided / factor)).tolist())
    return replace(rope, short=divisors, long=divisors)


def _llama3(rope: RopeSpec, own: Keys) -> Float64Array:
    """The part of each frequency that is divided: low ones wholly, high ones not, a ramp between.

    Source: Llama 3.1's own code, by turns within `limit`.
    """
    low = own.number("low_freq_factor")
    high = own.number("high_freq_factor", above=low)
    turns = rope.limit * rope.plain(1) / (2 * math.pi)
    return np.clip((high - turns) / (high - low), 0, 1)


def _yarn(rope: RopeSpec, own: Keys) -> Float64Array:
    """The part that is divided: a ramp from the element that turns `beta_fast` times in `limit` to
    that of `beta_slow`.  Source: Peng et al., arXiv:2309.00071.
    """
    first, last = (
        rope.size * math.log(rope.limit / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
        for turns in (own.number("beta_fast", 32.0), own.number("beta_slow", 1.0))
    )
    if own.flag("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.size - 1)
    return np.clip((np.arange(rope.size // 2) - first) / (last - first or 0.001), 0, 1)


def _yarns_attention(factor: float, own: Keys) -> float:
    """Factor by which yarn sharpens attention."""
    scales = 1.0, 0.0
    if own["mscale"] and own["mscale_all_dim"]:
        scales = own.number("mscale"), own.number("mscale_all_dim")
    over, under = (0.1 * scale * math.log(max(factor, 1.0)) + 1 for scale in scales)
    return own.number("attention_factor", over / under)
