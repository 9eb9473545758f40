"""One launch to be explained: all that is known of it, with nothing of it believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..abi import ArrayReference, LaunchConfig, Parameter, Sidecar, Signature
from ..abi.block import decode
from ..errors import AbiError, FerrumError, RecordingError
from .recording import RecordedLaunch, Recording

Version = tuple[int, int]


@dataclass(frozen=True, eq=False)
class CaseArray:
    """An array of the launch: its contents before it, and where it lay.

    values: in its own shape and strides.  device: where it lay, empty where the launch ran.
    """

    values: NDArray[Any]
    address: int
    device: str = ""

    @cached_property
    def nbytes(self) -> int:
        """Bytes from the first element to the end of the last."""
        if not self.values.size:
            return 0
        steps = zip(self.values.shape, self.values.strides, strict=True)
        last = sum((n - 1) * stride for n, stride in steps if stride > 0)
        return int(last) + self.values.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in elements."""
        return tuple(stride // self.values.itemsize for stride in self.values.strides)

    def holds(self, address: int) -> bool:
        """True if an address lies in it."""
        return 0 <= address - self.address < max(self.nbytes, 1)

    def reference(self, device: str) -> ArrayReference:
        """Description of the array as the ABI has it."""
        values = self.values
        return ArrayReference(
            address=self.address,
            shape=values.shape,
            strides=values.strides,
            dtype=values.dtype.name,
            itemsize=values.itemsize,
            available=self.nbytes,
            device=self.device or device,
        )

    def __str__(self) -> str:
        return f"{self.values.dtype.name} {list(self.values.shape)}"


@dataclass(frozen=True, eq=False)
class Case:
    """One launch.  arrays, expected, found: by the name of the parameter that takes the array.

    block: the parameter block's bytes, as they were handed over.
    sidecar: as it was given: a mapping, JSON text, or nothing.
    expected: what outputs should be.  found: what they were.  error: what the launch raised.
    capability, driver: of the device, where it is a GPU.
    """

    ptx: str
    block: bytes
    config: LaunchConfig
    arrays: Mapping[str, CaseArray]
    entry: str | None = None
    sidecar: Sidecar | Mapping[str, Any] | str | None = None
    expected: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    found: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    device: str = "cpu"
    capability: Version | None = None
    driver: Version | None = None
    error: str = ""

    @classmethod
    def from_recording(cls, recording: Recording, launch: RecordedLaunch) -> Case:
        """A recorded launch.  Raises RecordingError where its arrays were not recorded."""
        call, arrays, found = launch.call, {}, {}
        for name, layout in call.arrays.items():
            digest = launch.before.get(name)
            if digest is None:
                raise RecordingError(
                    name,
                    "its contents before the launch",
                    "none",
                    "record it with arrays='contents'",
                    where=f"launch {launch.number}",
                )
            arrays[name] = CaseArray(
                layout.view(recording.contents(digest, layout)), layout.address, call.device
            )
            after = (launch.after or {}).get(name)
            if after is not None and recording.holds(after):
                found[name] = layout.view(recording.contents(after, layout))
        return cls(
            ptx=call.ptx,
            block=call.block,
            config=call.config,
            arrays=arrays,
            entry=call.signature.entry,
            sidecar=call.sidecar,
            found=found,
            device=call.device,
            capability=call.capability,
            driver=call.driver,
            error=launch.error,
        )

    @cached_property
    def declared(self) -> Sidecar:
        """The sidecar as far as it can be read and agrees with the PTX in its parameters."""
        try:
            sidecar = Sidecar.read(self.sidecar)
            sidecar.declare(self._plain)
            return sidecar
        except FerrumError:
            return Sidecar()

    @cached_property
    def signature(self) -> Signature:
        """Signature with the sidecar's names where those fit.  Raises PtxError, AbiError."""
        return self.declared.declare(self._plain)

    @cached_property
    def _plain(self) -> Signature:
        entry = self.entry
        if entry is None:
            try:
                named = Sidecar.read(self.sidecar).entry
            except FerrumError:
                named = None
            entry = named if named in _entries(self.ptx) else None
        return _signature(self.ptx, entry)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The block's values by name; empty for a block of another length."""
        if len(self.block) != self.signature.nbytes:
            return {}
        return read_block(self.block, self.signature.params)

    def with_values(self, **values: int) -> Case:
        """Case with some values of the block replaced, and what follows from them by the sidecar's
        rules: derived integers and the grid."""
        changed = self._with(values)
        try:
            derived = changed.declared.derived(changed.sizes)
        except AbiError:
            derived = {}
        return changed._with({**derived, **values}).with_grid()

    def _with(self, values: Mapping[str, int]) -> Case:
        if not values:
            return self
        block = bytearray(self.block)
        for name, value in values.items():
            p = self.signature[name]
            block[p.offset : p.offset + p.size] = (value % (1 << 8 * p.size)).to_bytes(
                p.size, "little"
            )
        return replace(self, block=bytes(block))

    @property
    def sizes(self) -> dict[str, int]:
        """The integers of the block."""
        return {name: value for name, value in self.values.items() if type(value) is int}

    def with_grid(self) -> Case:
        """Case with the grid that the sidecar's rule gives for the block's sizes, if it can."""
        try:
            grid = self.declared.grid_for(self.sizes)
            if grid is None or grid == self.config.grid:
                return self
            return self.with_config(grid=grid)
        except AbiError:
            return self

    def with_config(self, **changes: Any) -> Case:
        """Case with grid, block or shared_bytes replaced."""
        return replace(self, config=replace(self.config, **changes))

    def with_array(self, name: str, values: NDArray[Any]) -> Case:
        """Case with another array in its place, the block's address for it moved along."""
        old = self.arrays[name]
        address = old.address
        if values.nbytes > old.values.nbytes:  # where nothing else lies
            address = max(a.address + a.nbytes for a in self.arrays.values()) + 4096 & ~255
        changed = replace(
            self, arrays={**self.arrays, name: CaseArray(values, address, old.device)}
        )
        return changed.with_values(**{name: address}) if address != old.address else changed


# Each fix that is tried is a case of its own, of the same text.
_signature = lru_cache(maxsize=64)(Signature.from_ptx)
_entries = lru_cache(maxsize=64)(Signature.entries)


def read_block(block: bytes, params: tuple[Parameter, ...]) -> dict[str, Any]:
    """The values of a block of the signature's length."""
    return {p.name: decode(p, block[p.offset : p.offset + p.size]) for p in params}


def read_array(path: Path) -> NDArray[Any]:
    """An array from an .npy file.  Raises RecordingError."""
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordingError(path, "an .npy file", f"{error!s:.120}") from None
    if array.dtype.kind not in "biuf":
        raise RecordingError(path, "real numbers", array.dtype)
    return array
