"""Kernels of a GPU: launches through cuLaunchKernelEx, prepared ones by a single call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from ...abi import LaunchConfig, ParameterBlock, Signature
from ...errors import DeviceError
from ..cache_keys import PlaceOf
from ..device import Kernel, Module
from ..invocation import Identical, Invocation
from ..resources import Occupancy, Resources
from ..scratch import ScratchArena
from . import driver, modules, native
from .gpu import Gpu
from .launch_record import LaunchRecord
from .prepared import CudaPreparedLaunch
from .streams import order, stream_handle

_DEFAULT_SHARED_BYTES = 48 * 1024  # beyond it a function must be told first
_WARP = 32
_CLUSTERS_SINCE = (9, 0)  # compute capability


class CudaKernel(Kernel):
    """A function of the driver."""

    def __init__(
        self, module: Module, gpu: Gpu, signature: Signature, function: Any, handle: int
    ) -> None:
        """function: keeps alive what the handle stands for."""
        super().__init__(module, signature)
        self.gpu = gpu
        self._function = function
        self._handle = handle
        self._allowed_shared = _DEFAULT_SHARED_BYTES

    def _require_possible(self, config: LaunchConfig) -> None:
        super()._require_possible(config)
        gpu = self.gpu
        self._allow_shared(config.shared_bytes)
        clustered = config.cluster or self.signature.cluster
        if clustered is not None and gpu.capability < _CLUSTERS_SINCE:
            major, minor = gpu.capability
            raise DeviceError(
                "cluster",
                f"none, as {gpu.name} ({gpu.product}) is sm_{major}{minor}, which has no clusters "
                "(sm_90 and later)",
                clustered,
            )
        if config.priority is not None:
            with gpu.current():
                highest, lowest = driver.priorities()
            if not highest <= config.priority <= lowest:
                raise DeviceError(
                    "priority",
                    f"{highest} (first) to {lowest} (last), which {gpu.name} has",
                    config.priority,
                )

    def _allow_shared(self, nbytes: int) -> None:
        if nbytes <= self._allowed_shared:
            return
        gpu = self.gpu
        if nbytes > gpu.max_shared_bytes:
            raise DeviceError(
                "shared_bytes",
                f"at most {gpu.max_shared_bytes}, which {gpu.name} ({gpu.product}) gives a CTA",
                nbytes,
            )
        with gpu.current():
            modules.allow_shared(self._handle, nbytes)
        self._allowed_shared = nbytes

    @property
    def attributes(self) -> Resources:
        gpu = self.gpu
        with gpu.current():
            found = modules.attributes(self._handle)
        return Resources(
            source=f"the driver, on {gpu.name} ({gpu.product})",
            registers=found["registers"],
            shared_bytes=found["shared"],
            local_bytes=found["local"],
            constant_bytes=found["constant"],
            max_threads=found["max_threads"],
        )

    def occupancy(self, config: LaunchConfig) -> Occupancy:
        self._require_possible(config)
        gpu, cluster = self.gpu, config.cluster or self.signature.cluster
        with gpu.current():
            ctas = modules.resident_ctas(self._handle, config.threads, config.shared_bytes)
            clusters = None
            if cluster is not None:
                x, y, z = (*cluster, 1, 1)[:3]
                record = LaunchRecord(
                    self._handle, replace(config, cluster=(x, y, z)), self._no_block, 0
                )
                clusters = modules.resident_clusters(self._handle, record.row[0])
            sms, threads = driver.sms(gpu.ordinal)
        warps = ctas * -(-config.threads // _WARP)
        return Occupancy(ctas, warps, threads // _WARP, sms, clusters)

    @cached_property
    def _no_block(self) -> ParameterBlock:
        """A block for the record of a launch that is never made."""
        return ParameterBlock.from_bytes(self.signature, bytes(self.signature.nbytes))

    @cached_property
    def owes_scratch(self) -> bool:
        """True if launches may need memory of the launcher's."""
        declared = any(p.nbytes is not None for p in self.sidecar.params)
        return declared or any(s.size for s in self.sidecar.scratch)

    def record(
        self, invocation: Invocation, stream: int, arena: ScratchArena | None = None
    ) -> LaunchRecord:
        """The record of a launch on a stream; the context is current.

        arena: where its scratch comes from; the stream's where it is left out.
        """
        if not self.owes_scratch:
            return LaunchRecord(self._handle, invocation.config, invocation.block, stream)
        record = LaunchRecord(self._handle, invocation.config, invocation.block.copy(), stream)
        self.provide(record.block, invocation, arena or self.gpu.scratch.arena(stream))
        return record

    def provide(self, block: ParameterBlock, invocation: Invocation, arena: ScratchArena) -> None:
        """Put into a block the addresses of the scratch that the launch needs."""
        block.write(dict.fromkeys((p.name for p in self.signature.scratch), 0))
        block.write(arena.provide(invocation.bound.scratch))

    @property
    def _identical(self) -> Identical:
        return native.identical()

    @property
    def _place_of(self) -> PlaceOf:
        return native.place_of()

    def _holds(self, address: int) -> bool:
        return self.gpu.holds(address)

    def _enqueue(self, invocation: Invocation, stream: Any) -> None:
        handle = stream_handle(stream)
        gpu = self.gpu

        def describe() -> str:
            return self.describe(invocation)

        with gpu.current():
            order(handle, invocation.waits)
            self.record(invocation, handle).launch(describe)
            gpu.in_flight.keep(stream, handle, describe, invocation.arguments, invocation.nbytes)

    def _prepared(
        self, invocation: Invocation, borrowed: Mapping[str, object] | None = None
    ) -> CudaPreparedLaunch:
        return CudaPreparedLaunch(self, invocation, borrowed)
