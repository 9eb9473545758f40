"""The GPU as launch code needs it: what CUDA kernels, plans and graphs ask of their device."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from ...abi import ParameterBlock
from ..invocation import Invocation, Launchable, Place
from ..scratch import ScratchArena
from .captures import CaptureLock
from .in_flight import InFlight
from .launch_record import LaunchRecord
from .scratch import CudaScratch


class Current(Protocol):
    """A block in which the GPU's context is current in the calling thread."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> bool | None: ...

    @property
    def handle(self) -> int:
        """The driver's handle of the context."""

    def adopt(self) -> None:
        """Leave the context current in a thread that has none."""


class Gpu(Place, Protocol):
    """One GPU.  product: its name in words.  capability: (major, minor)."""

    ordinal: int
    product: str
    capability: tuple[int, int]
    max_shared_bytes: int
    in_flight: InFlight
    scratch: CudaScratch
    capture_lock: CaptureLock

    @property
    def is_recording(self) -> bool: ...

    def current(self) -> Current: ...

    def is_capturing(self, stream: Any) -> bool: ...

    def capture_stream(self) -> Any:
        """A new stream for a capture: one that waits for no other."""

    def load_module(self, code: str) -> Any: ...

    def holds(self, address: int) -> bool:
        """True if there is memory of this GPU at an address."""


class GpuKernel(Launchable, Protocol):
    """A kernel of a GPU, as far as prepared launches, plans and graphs need it."""

    @property
    def gpu(self) -> Gpu: ...

    @property
    def owes_scratch(self) -> bool:
        """True if launches may need memory of the launcher's."""

    def record(
        self, invocation: Invocation, stream: int, arena: ScratchArena | None = None
    ) -> LaunchRecord:
        """The record of a launch on a stream; the context is current.

        arena: where its scratch comes from; the stream's where it is left out.
        """

    def provide(self, block: ParameterBlock, invocation: Invocation, arena: ScratchArena) -> None:
        """Put into a block the addresses of the scratch that the launch needs."""


class GpuLaunch(Protocol):
    """A launch that may change between its launches, such as a prepared one."""

    kernel: GpuKernel

    @property
    def invocation(self) -> Invocation: ...
