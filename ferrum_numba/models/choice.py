"""Choice of the next token from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..devices import Device
from ..errors import AbiError
from .ids import integer


@dataclass(frozen=True)
class Choice:
    """Settings by which a token is drawn.

    temperature  divides the logits; 0 takes the highest logit
    top_k        of how many highest logits; 0: of all
    top_p        of the fewest highest whose probabilities reach this; 1: of all
    seed         repeats the tokens of a sequence, on every device that gives the same logits
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises AbiError for values that mean nothing."""
        for name, holds, expected in (
            ("temperature", _within(self.temperature, 0.0, math.inf), "a finite number from 0 on"),
            ("top_k", _integer(self.top_k, 0, 2**31), "an integer from 0 on"),
            ("top_p", self.top_p and _within(self.top_p, 0.0, 1.0), "a number above 0, up to 1"),
            ("seed", _integer(self.seed, -(2**63), 2**63), "an integer of 64 bits"),
        ):
            if not holds:
                raise AbiError(name, expected, f"{getattr(self, name)!r}")

    @property
    def leaves_out(self) -> bool:
        """True if top_k or top_p leave tokens out."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)

    def arrays(self, device: Device, batch: int) -> dict[str, Any]:
        """Arrays for the sampling kernels, [batch] each; row b draws with seed + b."""
        host = {
            "temperatures": np.full(batch, self.temperature, np.float32),
            "top_ks": np.full(batch, self.top_k, np.int32),
            "top_ps": np.full(batch, self.top_p, np.float32),
            "seeds": np.arange(batch, dtype=np.int64) + np.int64(self.seed),
        }
        if self.leaves_out:
            host |= {name: np.zeros(batch, np.int32) for name in ("thresholds", "floors")}
            host |= {name: np.zeros(batch, np.float32) for name in ("highest", "masses")}
        found: dict[str, Any] = {name: device.to_device(array) for name, array in host.items()}
        return {"thresholds": None, **found}


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and low <= value <= high and value != math.inf


def _integer(value: object, low: int, high: int) -> bool:
    found = integer(value)
    return found is not None and low <= found < high
