"""Kernels of a GPU: launches through cuLaunchKernelEx, prepared ones by a single call."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..abi import LaunchConfig, ParameterBlock, Signature
from ..errors import DeviceError
from . import capture, driver
from .base import Invocation, Kernel
from .cuda_prepared import CudaPreparedLaunch
from .facts import facts_of
from .packet import Packet
from .resources import Resources
from .streams import order, stream_handle

if TYPE_CHECKING:
    from .cuda import CudaDevice, CudaModule
    from .scratch import ScratchArena

_DEFAULT_SHARED_BYTES = 48 * 1024  # beyond it a function must be told first
_CLUSTERS_SINCE = (9, 0)  # compute capability


class CudaKernel(Kernel):
    """A function of the driver."""

    def __init__(
        self, module: CudaModule, signature: Signature, function: Any, handle: int
    ) -> None:
        super().__init__(module, signature)
        self.device: CudaDevice = module.cuda_device
        self._function = function  # keeps what the handle stands for alive
        self._handle = handle
        self._allowed_shared = _DEFAULT_SHARED_BYTES
        self._own = threading.local()  # the call that each thread made last

    def launch(
        self, config: LaunchConfig, *arguments: object, stream: Any = None, **named: object
    ) -> None:
        if capture.takers:
            super().launch(config, *arguments, stream=stream, **named)
            return
        given = dict(zip(self._argument_names, arguments, strict=False)) | named
        call: CudaPreparedLaunch | None = getattr(self._own, "call", None)
        distinct = len(given) == len(arguments) + len(named)
        if call is not None and distinct and call.launch_as(config, stream, given):
            return
        # Not as the thread launched it before: all of it is looked at.
        invocation = self._marshal_seen(config, arguments, named)
        self._own.call = CudaPreparedLaunch(self, invocation, lent=given)
        self.issue(invocation, stream)

    @cached_property
    def _argument_names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.signature.arguments)

    def require_possible(self, config: LaunchConfig) -> None:
        super().require_possible(config)
        device = self.device
        self._allow_shared(config.shared_bytes)
        clustered = config.cluster or self.signature.cluster
        if clustered is not None and device.capability < _CLUSTERS_SINCE:
            major, minor = device.capability
            raise DeviceError(
                f"cluster: {device.name} ({device.product}) is sm_{major}{minor}, which has no "
                f"clusters (sm_90 and later), found {clustered}"
            )
        if config.priority is not None:
            with device.current():
                highest, lowest = driver.priorities()
            if not highest <= config.priority <= lowest:
                raise DeviceError(
                    f"priority: {device.name} has {highest} (first) to {lowest} (last), "
                    f"found {config.priority}"
                )

    def _allow_shared(self, nbytes: int) -> None:
        if nbytes <= self._allowed_shared:
            return
        device = self.device
        if nbytes > device.max_shared_bytes:
            raise DeviceError(
                f"shared_bytes: {device.name} ({device.product}) gives a CTA at most "
                f"{device.max_shared_bytes}, found {nbytes}"
            )
        with device.current():
            driver.allow_shared(self._handle, nbytes)
        self._allowed_shared = nbytes

    def resources(self, threads: int | None = None, shared_bytes: int = 0) -> Resources:
        """What the kernel takes of an SM, by the driver.

        threads, shared_bytes: of a CTA, for the number of CTAs that an SM holds.
        """
        device = self.device
        with device.current():
            found = driver.attributes(self._handle)
            ctas = None
            if threads is not None:
                self._allow_shared(shared_bytes)
                ctas = driver.resident_ctas(self._handle, threads, shared_bytes)
        return Resources(
            source=f"the driver, on {device.name} ({device.product})",
            registers=found["registers"],
            shared_bytes=found["shared"],
            local_bytes=found["local"],
            constant_bytes=found["constant"],
            max_threads=found["max_threads"],
            ctas_per_sm=ctas,
        )

    @cached_property
    def owes_scratch(self) -> bool:
        """Whether launches may need memory of the launcher's."""
        declared = any(p.nbytes is not None for p in self.sidecar.params)
        return declared or any(s.size for s in self.sidecar.scratch)

    def packet(
        self, invocation: Invocation, stream: int, arena: ScratchArena | None = None
    ) -> Packet:
        """The launch spelt out for a stream; the context is current.

        arena: where its scratch comes from; the stream's where it is left out.
        """
        if not self.owes_scratch:
            return Packet(self._handle, invocation.config, invocation.block, stream)
        packet = Packet(self._handle, invocation.config, invocation.block.copy(), stream)
        self.provide(packet.block, invocation, arena or self.device.scratch.arena(stream))
        return packet

    def provide(self, block: ParameterBlock, invocation: Invocation, arena: ScratchArena) -> None:
        """Put into a block the addresses of the scratch that the launch needs."""
        block.write(dict.fromkeys((p.name for p in self.signature.scratch), 0))
        block.write(arena.provide(invocation.bound.scratch))

    def facts(self, value: object) -> object:
        return facts_of(value)

    def _enqueue(self, invocation: Invocation, stream: Any) -> None:
        handle = stream_handle(stream)
        device = self.device

        def describe() -> str:
            return self.describe(invocation)

        with device.current():
            if invocation.waits:
                order(handle, invocation.waits)
            driver.launch(self.packet(invocation, handle), describe)
            device.in_flight.keep(stream, handle, describe, invocation.arguments, invocation.nbytes)

    def _prepared(self, invocation: Invocation) -> CudaPreparedLaunch:
        return CudaPreparedLaunch(self, invocation)
