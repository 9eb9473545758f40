"""A call of `kernel.launch`, kept so that the next one like it costs what has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import countOf, itemgetter
from typing import Any

from ..abi import LaunchConfig
from ..errors import AbiError
from .prepared import PreparedLaunch


class RepeatedCall:
    """The launch that a call made, and the form of its arguments: names and types, in order.

    Integers are compared all at once; of arrays, where they lie.
    """

    def __init__(
        self,
        launch: PreparedLaunch,
        names: Sequence[str],
        positional: Sequence[object],
        named: Mapping[str, object],
    ) -> None:
        """names: of the parameters, in the kernel's order."""
        self._launch, self._config = launch, launch.config
        self._count, self._named = len(positional), tuple(named)
        self._names = (*names[: self._count], *self._named)
        given = (*positional, *named.values())
        self._types = tuple(map(type, given))
        numbers = [i for i, kind in enumerate(self._types) if kind is int]
        others = [i for i, kind in enumerate(self._types) if kind is not int]
        self._numbers, self._others = _picker(numbers), _picker(others)
        self._values = self._numbers(given)
        self._identical = launch.kernel._identical
        self._other_names = tuple(self._names[i] for i in others)

    def repeat(
        self,
        config: LaunchConfig,
        stream: Any,
        positional: tuple[object, ...],
        named: Mapping[str, object],
    ) -> bool:
        """Launch with these arguments, where that is a launch of the same form and configuration.

        Returns False, and launches nothing, where it is another, or something does not fit.
        """
        if len(positional) != self._count or (tuple(named) if named else ()) != self._named:
            return False
        given = (*positional, *named.values()) if named else positional
        launch, values, others = self._launch, self._numbers(given), self._others(given)
        if (
            (config is self._config or config == self._config)
            and (self._identical(values, self._values) or self._equal(values))
            and launch._repeat(stream, self._other_names, others)
        ):
            return True
        if tuple(map(type, given)) != self._types:
            return False
        self._values = ()  # broken off, or refused: whatever they are now
        try:
            launch._borrow_all(dict(zip(self._names, given, strict=True)))
        except AbiError:
            return False
        if launch.config != config:
            return False
        launch._keep_slots(self._other_names, others)
        self._config, self._values = config, values
        launch._send(stream, self._names, given)
        return True

    def _equal(self, values: tuple[Any, ...]) -> bool:
        """True for the integers of the call before; True, which is 1, is none."""
        return values == self._values and countOf(map(type, values), int) == len(values)


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A function that takes these places of a tuple."""
    if len(places) < 2:
        return lambda given: tuple([given[i] for i in places])
    if list(places) == list(range(places[0], places[-1] + 1)):
        return itemgetter(slice(places[0], places[-1] + 1))
    return itemgetter(*places)
