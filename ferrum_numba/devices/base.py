"""What every device is: the protocol, and the part of a launch that is the same everywhere.

A device moves arrays, loads modules and launches kernels.  Marshalling (names, checks, parameter
block) is common; a device adds where its arrays lie and how it enqueues a finished block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..abi import ArrayReference, Binder, Bound, LaunchConfig, ParameterBlock, Sidecar, Signature
from ..errors import AbiError, PtxError


class Stream(Protocol):
    """An order of launches.  CUDA: a numba stream.  CPU: every launch is done when it returns."""

    def synchronize(self) -> None:
        """Wait until all work of this stream is done."""


class Device(ABC):
    """Where kernels run.  `name` is "cpu" or "cuda:<ordinal>"."""

    name: str

    def __init__(self) -> None:
        self._modules: dict[tuple[str, Sidecar], Module] = {}

    def load_module(
        self, ptx: str | Path, sidecar: Sidecar | Mapping[str, Any] | str | Path | None = None
    ) -> Module:
        """Load PTX, given as text or as the path of a file; the same module for the same content.

        sidecar: JSON text, the path of a JSON file, a mapping, or nothing.

        Raises PtxError for PTX that cannot be read, AbiError where sidecar and PTX disagree,
        DeviceError where this device cannot run it.
        """
        text, described = read_ptx(ptx), Sidecar.read(sidecar)
        key = (text, described)
        if key not in self._modules:
            self._modules[key] = self._load(text, described)
        return self._modules[key]

    @abstractmethod
    def _load(self, text: str, sidecar: Sidecar) -> Module: ...

    @abstractmethod
    def to_device(self, array: Any) -> Any:
        """`array` as a C-contiguous array of this device; one that already lies here as it is."""

    @abstractmethod
    def empty(self, shape: int | Sequence[int], dtype: Any) -> Any:
        """A new C-contiguous array of this device, its contents undefined."""

    @abstractmethod
    def to_host(self, array: Any) -> Any:
        """`array` as a NumPy array, after all work that was enqueued before on the device."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work of this device is done.  Raises LaunchError for a failed launch."""

    @abstractmethod
    def create_stream(self) -> Any:
        """A new stream of this device."""

    @abstractmethod
    def describe(self, name: str, array: object) -> ArrayReference:
        """Where an array argument lies.  Raises AbiError for one that is not of this device."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Module(ABC):
    """PTX that a device has loaded."""

    def __init__(self, device: Device, text: str, sidecar: Sidecar) -> None:
        self.device = device
        self.text = text
        self.sidecar = sidecar
        self._kernels: dict[str, Kernel] = {}
        if sidecar.entry is not None:
            sidecar.check(text, Signature.from_ptx(text, sidecar.entry))

    def get_kernel(self, entry: str | None = None) -> Kernel:
        """The kernel of an entry; it may be left out where the sidecar or the PTX names only one.

        Raises PtxError for an entry that the PTX does not have, AbiError where sidecar and PTX
        disagree.
        """
        signature = Signature.from_ptx(self.text, entry or self.sidecar.entry)
        if signature.entry not in self._kernels:
            self.sidecar.check(self.text, signature)
            self._kernels[signature.entry] = self._get(self.sidecar.declare(signature))
        return self._kernels[signature.entry]

    @abstractmethod
    def _get(self, signature: Signature) -> Kernel: ...


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
        return self.bound.config


class Kernel(ABC):
    """A loaded entry, ready to launch."""

    def __init__(self, module: Module, signature: Signature) -> None:
        self.module = module
        self.signature = signature
        self._binder = Binder(signature, module.sidecar, module.device.describe)

    @property
    def sidecar(self) -> Sidecar:
        """What the sidecar said; empty where there was none."""
        return self.module.sidecar

    def launch(
        self, config: LaunchConfig, *arguments: object, stream: Any = None, **named: object
    ) -> None:
        """Launch on `stream` (the default stream where it is left out).

        Arguments go by position or by name; the scratch pointers are filled in.  Raises AbiError
        for an argument that is missing, unknown, mistyped, out of range, too short, misaligned or
        not of this device, and LaunchError where the device refuses the launch.
        """
        self._enqueue(self._marshal(config, arguments, named), stream)

    def prepare(self, config: LaunchConfig, *arguments: object, **named: object) -> PreparedLaunch:
        """Marshal and check once, launch often: `call = kernel.prepare(...); call(stream)`.

        Raises AbiError as `launch` does.
        """
        return PreparedLaunch(self, self._marshal(config, arguments, named))

    def _marshal(
        self, config: LaunchConfig, positional: Sequence[object], named: Mapping[str, object]
    ) -> Invocation:
        if not isinstance(config, LaunchConfig):
            raise AbiError(f"config: expected a LaunchConfig, found {type(config).__name__}")
        bound = self._binder.bind(config, positional, named)
        block = ParameterBlock(self.signature)
        block.write(bound.values)
        names = (p.name for p in self.signature.arguments)
        return Invocation(bound, block, {**dict(zip(names, positional, strict=False)), **named})

    def _remarshal(self, invocation: Invocation, changes: Mapping[str, object]) -> Invocation:
        """The invocation with some arguments changed, in the same block."""
        bound = self._binder.rebind(invocation.bound, changes)
        invocation.block.write({name: bound.values[name] for name in changes})
        return Invocation(bound, invocation.block, {**invocation.arguments, **changes})

    def _scratch_demands(self, config: LaunchConfig) -> Iterator[tuple[str, int, int]]:
        """(parameter, bytes, alignment) of each scratch buffer that a launch owes.

        One of size 0 stays NULL: the kernel never reads the pointer.
        """
        ctas = config.ctas * self.sidecar.num_ctas
        for parameter in self.signature.scratch:
            for demand in self.sidecar.scratch:
                if demand.role == parameter.role and demand.size:
                    yield parameter.name, ctas * demand.size, demand.align

    @abstractmethod
    def _enqueue(self, invocation: Invocation, stream: Any) -> None: ...

    def _describe(self, invocation: Invocation) -> str:
        """The launch in one line, for the messages of errors."""
        config, values = invocation.config, invocation.bound.values
        sizes = ", ".join(
            f"{p.name} = {values[p.name]!r}"
            for p in self.signature.arguments
            if p.role != "stride" and p.name not in invocation.bound.arrays and not p.is_pointer
        )
        launch = f"grid {config.grid}, block {config.block}, shared_bytes {config.shared_bytes}"
        return f"{self.signature.entry} on {self.module.device.name}: {launch}, {sizes}".rstrip(
            ", "
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.signature.entry} on {self.module.device.name}>"


class PreparedLaunch:
    """A launch that is marshalled and checked, to be repeated and to be changed in place."""

    def __init__(self, kernel: Kernel, invocation: Invocation) -> None:
        self.kernel = kernel
        self._invocation = invocation

    @property
    def config(self) -> LaunchConfig:
        """The launch configuration, as the last update left it."""
        return self._invocation.config

    def __call__(self, stream: Any = None) -> None:
        """Launch on `stream`.  Raises LaunchError where the device refuses the launch."""
        self.kernel._enqueue(self._invocation, stream)

    def update(self, **changes: object) -> PreparedLaunch:
        """Replace some arguments; the grid follows the sidecar's rule.  Returns itself.

        Only what a change can have touched is checked again.  Raises AbiError as `prepare` does,
        and then changes nothing.
        """
        self._invocation = self.kernel._remarshal(self._invocation, changes)
        return self


def read_ptx(source: str | Path) -> str:
    """PTX text, from text or from the path of a file.  Raises PtxError."""
    if not isinstance(source, (str, Path)):
        raise PtxError(f"ptx: expected a path or text, found {type(source).__name__}")
    if isinstance(source, str) and ("\n" in source or ".version" in source):
        return source
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PtxError(f"{str(source)[:200]}: cannot be read as PTX: {error}") from None
