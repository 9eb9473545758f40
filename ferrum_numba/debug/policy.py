"""Policy of a recording: how much of the arrays it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import RecordingError
from .container import MAX_ARRAY_BYTES

Arrays = Literal["contents", "digest", "none"]
# Where it is sparing, digests take at most this share of the time since the recording began.
DIGEST_SHARE = 0.01
_PERIODS: Mapping[Arrays, int] = {"contents": 1, "digest": 256, "none": 1}


@dataclass(frozen=True)
class Policy:
    """The share of the arrays that a recording keeps.

    arrays     "contents": what they held before and after; "digest": a digest of that, which the
               device computes behind the launch while nothing waits; "none": where they lay alone
    max_bytes  of one array whose contents are kept; of a larger one it is the digest
    every      arrays of a call's first launch and of each `every`-th after it; of those between,
               where they lay alone.  Left out, it is 1, and by digest 256, or more where a GPU's
               digests have taken 1 % of the time so far
    """

    arrays: Arrays = "contents"
    max_bytes: int = 64 << 20
    every: int | None = None

    def __post_init__(self) -> None:
        if self.arrays not in get_args(Arrays):
            expected = ", ".join(get_args(Arrays))
            raise RecordingError("arrays", f"one of {expected}", f"{self.arrays!r}")
        if not 0 <= self.max_bytes < MAX_ARRAY_BYTES:
            raise RecordingError("max_bytes", f"0 to {MAX_ARRAY_BYTES - 1}", self.max_bytes)
        if self.every is not None and self.every < 1:
            raise RecordingError("every", "at least 1", self.every)

    @property
    def period(self) -> int:
        """`every`, or what it is where it was left out."""
        return self.every or _PERIODS[self.arrays]

    @property
    def sparing(self) -> bool:
        """True if arrays are kept later than that where keeping them has taken too long so far."""
        return self.every is None and self.arrays == "digest"
