"""Refusal to pickle objects that live in one process: devices, what is loaded there, open files."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

from .errors import FerrumError


class NotPickled:
    """Base of objects that another process cannot take over: pickling one raises FerrumError.

    _instead: what to send to the other process, as a sentence for the message.
    """

    _instead = "open the device in the other process, and load there what it needs"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise FerrumError(
            type(self).__name__,
            "an object that can be pickled",
            f"{self!r}, which lives in this process",
            self._instead,
            code="not-pickled",
        )
