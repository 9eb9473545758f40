"""Rotary position embedding: the frequencies by which elements of q and k are turned.

Element j of the first r of a head turns against element j + r/2, at position p by the angle
p * inv_freq[j]; cos and sin are multiplied by an attention factor. The formulas are those of
transformers' modeling_rope_utils; their papers stand beside each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .keys import Keys

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
    low, high  llama3: turns within `limit` up to which frequencies are divided, from which kept
    slow, fast  yarn: the same, by other formulas
    truncate   yarn: whether the elements of `fast` and `slow` are rounded to whole ones
    short, long  longrope: the divisor of each frequency [r/2], within `limit` and beyond it
    """

    kind: str
    theta: float
    size: int
    limit: int
    factor: float = 1.0
    attention: float = 1.0
    low: float = 1.0
    high: float = 4.0
    slow: float = 1.0
    fast: float = 32.0
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()

    @classmethod
    def read(cls, keys: Keys, head_dim: int, names: Mapping[str, str]) -> RopeSpec:
        """Read a config.json, in the dialect of transformers 5 or the older one.

        Dialects: `rope_parameters` has everything; or `rope_scaling` has what differs from the
        default, and the rest stands at the top. names: other names of kinds. Raises
        CheckpointError for an unknown kind, and for parameters that are missing or wrong.
        """
        own = _object(keys, "rope_parameters") or _object(keys, "rope_scaling") or Keys({})
        both = Keys({**_stated(keys), **_stated(own)}, own.where)
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
        fields = {
            "kind": kind,
            "theta": both.number("rope_theta", above=1.0),
            "size": int(size),
            "limit": limit,
        }
        return cls(**{**fields, **_parameters(kind, own, positions, limit, int(size))})

    @property
    def varies(self) -> bool:
        """True if the frequencies depend on the length."""
        return self.kind in ("dynamic", "longrope")

    def frequencies(self, length: int) -> tuple[npt.NDArray[np.float32], float]:
        """(inv_freq float32 [r/2] in radians a position, attention factor).

        length: the highest position of the call, plus one. Computed in float64, rounded once.
        """
        steps = np.arange(0, self.size, 2) / self.size
        theta = self.theta
        if self.kind == "dynamic" and length > self.limit:  # "NTK-aware", by the actual length
            stretch = self.factor * length / self.limit - (self.factor - 1)
            theta *= stretch ** (self.size / (self.size - 2))
        inverse = theta**-steps
        if self.kind == "linear":  # Chen et al., arXiv:2306.15595
            inverse /= self.factor
        elif self.kind == "llama3":
            inverse = self._llama3(inverse)
        elif self.kind == "yarn":
            inverse = self._yarn(inverse)
        elif self.kind == "longrope":  # Ding et al., arXiv:2402.13753
            inverse /= np.array(self.short if length <= self.limit else self.long)
        return inverse.astype(np.float32), self.attention

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

    def _llama3(self, inverse: Float64Array) -> Float64Array:
        """Low frequencies divided, high ones kept, a ramp between (Llama 3.1's own code)."""
        turns = self.limit * inverse / (2 * math.pi)
        kept: Float64Array = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return inverse * kept + inverse / self.factor * (1 - kept)

    def _yarn(self, inverse: Float64Array) -> Float64Array:
        """Kept up to the element that turns `fast` times in `limit`, divided from that of `slow`.

        Source: Peng et al., arXiv:2309.00071, with a ramp over the elements.
        """
        first, last = (
            self.size * math.log(self.limit / (turns * 2 * math.pi)) / (2 * math.log(self.theta))
            for turns in (self.fast, self.slow)
        )
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.size - 1)
        width = last - first or 0.001
        divided: Float64Array = np.clip((np.arange(self.size // 2) - first) / width, 0, 1)
        return inverse * (1 - divided) + inverse / self.factor * divided


def _object(keys: Keys, key: str) -> Keys | None:
    """The JSON object under `key`, or None where it is null, missing or empty."""
    if keys[key] is None or keys[key] == {}:
        return None
    if not isinstance(keys[key], dict) or any(isinstance(v, dict) for v in keys[key].values()):
        remedy = "ropes that differ by layer are not computed here"
        raise keys.error(key, "one JSON object for all layers", remedy)
    return Keys(keys[key], f"{key} of {keys.where}")


def _stated(keys: Keys) -> dict[str, Any]:
    return {key: value for key, value in keys.values.items() if value is not None}


def _parameters(kind: str, own: Keys, positions: int, limit: int, size: int) -> dict[str, Any]:
    """The fields of RopeSpec that this kind has of its own.

    positions: what the model is configured for; limit: what it was trained for.
    """
    if kind == "linear":
        return {"factor": own.number("factor")}
    if kind == "dynamic":  # this kind alone counts from the configured positions
        return {"factor": own.number("factor"), "limit": positions}
    if kind == "llama3":
        low = own.number("low_freq_factor")
        high = own.number("high_freq_factor", above=low)
        return {"factor": own.number("factor"), "low": low, "high": high}
    factor = own.number("factor", positions / limit) if kind in ("yarn", "longrope") else 1.0
    if kind == "yarn":
        attention = _growth(factor, 1.0)
        if own["mscale"] and own["mscale_all_dim"]:
            whole = _growth(factor, own.number("mscale_all_dim"))
            attention = _growth(factor, own.number("mscale")) / whole
        return {
            "factor": factor,
            "attention": own.number("attention_factor", attention),
            "slow": own.number("beta_slow", 1.0),
            "fast": own.number("beta_fast", 32.0),
            "truncate": own.flag("truncate", True),
        }
    if kind == "longrope":
        attention = math.sqrt(1 + math.log(factor) / math.log(limit)) if factor > 1 else 1.0
        return {
            "factor": factor,
            "attention": own.number("attention_factor", attention),
            "short": own.numbers("short_factor", size // 2),
            "long": own.numbers("long_factor", size // 2),
        }
    return {}


def _growth(factor: float, scale: float) -> float:
    """Factor by which yarn sharpens attention."""
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0
