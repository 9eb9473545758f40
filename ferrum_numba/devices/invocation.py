"""A launch, marshalled and checked, and what launch code needs to know of devices and kernels.

Prepared launches, plans and observers are typed against the protocols here; `device.py`, which
offers them, stands above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from ..abi import ArrayReference, Bound, LaunchConfig, Movable, ParameterBlock, Sidecar, Signature
from .cache_keys import PlaceOf

# True for two tuples of the same objects, where native code finds that at once; else False.
Identical = Callable[[tuple[Any, ...], tuple[Any, ...]], bool]


class Stream(Protocol):
    """An order of launches.  CUDA: a numba stream.  CPU: every launch is done when it returns."""

    def synchronize(self) -> None:
        """Wait until all work of this stream is done."""


class Place(Protocol):
    """A device, as far as launches need to know it."""

    name: str

    def describe(self, name: str, array: object) -> ArrayReference:
        """Describe an array argument.  Raises AbiError for one that is not of this device."""

    def to_host(self, array: Any) -> Any:
        """NumPy copy of an array of this device, after all work that was enqueued before."""


class Launchable(Protocol):
    """A kernel, as far as prepared launches, plans and observers need to know it."""

    module: Any  # its Module
    signature: Signature

    @property
    def sidecar(self) -> Sidecar: ...

    def prepare(self, config: LaunchConfig, *arguments: object) -> Any:
        """A prepared launch."""

    def describe(self, invocation: Invocation) -> str:
        """The launch in one line, for the messages of errors."""

    def _movable(self, bound: Bound) -> Mapping[str, Movable]:
        """Properties of each array that another one has to share."""

    @property
    def _identical(self) -> Identical: ...

    @property
    def _place_of(self) -> PlaceOf | None:
        """Reads tensors in native code; None where there is none."""

    def _holds(self, address: int) -> bool:
        """True if there is memory of the device at an address, as far as it can be asked."""

    def _remarshal(
        self, invocation: Invocation, changes: Mapping[str, object], hold: bool = True
    ) -> Invocation:
        """The invocation with some arguments changed, in the same block."""

    def _issue(self, invocation: Invocation, stream: Any) -> None:
        """Launch what is marshalled already, or hand it to a plan, a graph or an observer."""

    def _enqueue(self, invocation: Invocation, stream: Any) -> None:
        """Launch, whoever observes."""


@dataclass(frozen=True)
class Invocation:
    """One launch, marshalled and checked: all that a device needs to enqueue it.

    arguments: as the caller gave them; its arrays are kept alive until the launch is done.
    """

    bound: Bound
    block: ParameterBlock
    arguments: Mapping[str, object]

    @property
    def config(self) -> LaunchConfig:
        """Launch configuration."""
        return self.bound.config

    def __repr__(self) -> str:
        entry, nbytes = self.block.signature.entry, self.block.signature.nbytes
        return f"<Invocation of {entry}, grid {self.config.grid}, block of {nbytes} bytes>"

    @cached_property
    def waits(self) -> tuple[Callable[[int], None], ...]:
        """The waits that the launch's stream needs: see `ArrayReference.ready`; each one once."""
        return tuple({a.ready: None for a in self.bound.arrays.values() if a.ready is not None})

    @cached_property
    def nbytes(self) -> int:
        """About the memory that its arrays take."""
        return sum(array.available for array in self.bound.arrays.values())

    def copy(self) -> Invocation:
        """This launch with a block of its own."""
        return replace(self, block=self.block.copy())
