"""Devices, modules and kernels: what is the same everywhere.

A device moves arrays, loads modules and launches kernels.  Marshalling (names, checks, parameter
block) is common; a backend adds where its arrays lie and how it enqueues a finished block.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from ..abi import (
    ArrayReference,
    Binder,
    Bound,
    LaunchConfig,
    Movable,
    ParameterBlock,
    Sidecar,
    Signature,
    TritonBuild,
)
from ..errors import AbiError, DeviceError
from ..machine_code import Cubin, Fatbin, is_machine_code, read_code
from ..pickling import NotPickled
from ..ptx_text import read_module, read_ptx
from . import observer, sequence, tensor_map
from .cache_keys import PlaceOf
from .invocation import Identical, Invocation
from .loaded_modules import LoadedModules
from .memory import DeviceMemory
from .prepared import PreparedLaunch
from .repeated_call import RepeatedCall
from .resources import Occupancy, Resources
from .sequence import LaunchGraph, LaunchPlan

if TYPE_CHECKING:  # it takes llvmlite
    from ..emulator.trace import Selection
    from .trace import Trace


class Device(NotPickled, ABC):
    """A place where kernels run; `open_device` gives it.

        device = fe.open_device()
        x = device.to_device(np.ones((4, 256), np.float16))
        kernel = device.load_module("kernel.ptx", sidecar="kernel.json").get_kernel()
        kernel.launch(fe.LaunchConfig(grid=4, block=128), x, stream=device.create_stream())
        device.synchronize()

    On a GPU arrays are Numba's device arrays, on the CPU NumPy's.  Launches take arrays of other
    libraries as well.  Any number of threads may use a device.

    name: "cpu" or "cuda:<ordinal>".  memory: what this process holds there, and a limit for it.
    """

    name: str
    memory: DeviceMemory
    keeps_modules: ClassVar[int] = 256
    """Number of modules kept loaded that nobody holds."""

    def __init__(self) -> None:
        self._modules: LoadedModules[Module] = LoadedModules(self.keeps_modules)

    def load_module(
        self,
        code: str | bytes | Path,
        sidecar: Sidecar | Mapping[str, Any] | str | Path | None = None,
    ) -> Module:
        """Load PTX, a cubin or a fatbin; the same module for the same content.

        code: PTX as text, a cubin or a fatbin as bytes, or the path of a file of either.  Of a
        fatbin the cubin for this GPU is taken, else its PTX.  A folder of Triton's cache opens as
        one: its PTX says what launches expect, its cubin runs where this GPU takes it, and its
        metadata is the sidecar.  Different code is compiled side by side where threads ask for it.
        sidecar: JSON text, the path of a JSON file, a mapping, or nothing.

        Raises PtxError for code that cannot be read, AbiError where sidecar and code disagree,
        DeviceError where this device cannot run it.
        """
        build = None
        if isinstance(code, (str, Path)) and "\n" not in str(code) and Path(code).is_dir():
            build = TritonBuild.open(Path(code))
            build.check()
            code, sidecar = build.ptx, build.sidecar if sidecar is None else sidecar
        key = self._read(code), Sidecar.read(sidecar), build.cubin if build else None
        return self._modules.get(key, lambda: self._load(*key))

    def _read(self, code: str | bytes | Path) -> str | Cubin:
        if isinstance(code, (str, Path)) and not is_machine_code(code):
            return read_ptx(code)
        found = read_code(code)
        return self._pick(found) if isinstance(found, Fatbin) else found

    @abstractmethod
    def _pick(self, fatbin: Fatbin) -> str | Cubin:
        """The part of a fatbin that this device runs.  Raises DeviceError where there is none."""

    @abstractmethod
    def _load(self, code: str | Cubin, sidecar: Sidecar, assembled: Cubin | None) -> Module:
        """assembled: a cubin of the PTX, for devices that run it."""

    @property
    def compiles_side_by_side(self) -> bool:
        """True if `compile_ahead` gains by being called in several threads at a time."""
        return False

    def compile_ahead(self, text: str) -> None:
        """Compile PTX that is going to be loaded, where that can be done apart from loading it.

        Whatever is wrong with it `load_module` says.
        """

    @abstractmethod
    def to_device(self, array: Any, *, copy: bool = True, align: int = 1) -> Any:
        """C-contiguous copy of an array of the host on this device; an array of a GPU as it is.

        copy: False shares the host's memory where the device can, as the CPU device does: what
        kernels write is then written there.
        align: bytes; host memory that begins at no multiple of them is copied in any case.
        """

    @abstractmethod
    def empty(self, shape: int | Sequence[int], dtype: Any) -> Any:
        """A new C-contiguous array of this device, its contents undefined.

        Raises DeviceError where there is no memory for it; see `memory`.
        """

    @abstractmethod
    def to_host(self, array: Any, *, copy: bool = True) -> Any:
        """NumPy copy of an array of this device, after all work that was enqueued before.

        copy: False shares the memory where that is the host's, as on the CPU device.
        """

    @abstractmethod
    def mapped(self, shape: int | Sequence[int], dtype: Any) -> Any:
        """A new array of zeros in host memory that this device reads and writes in place.

        It is a NumPy array and an array of this device: what a kernel stores the host can watch.
        """

    @abstractmethod
    def write(self, array: Any, host: NDArray[Any]) -> None:
        """Overwrite an array of this device, after all work that was enqueued before.

        host: a NumPy array of its shape and dtype.  Raises AbiError for another one.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work of this device is done.  Raises LaunchError for a failed launch."""

    @abstractmethod
    def create_stream(self) -> Any:
        """A new stream of this device."""

    @abstractmethod
    def order(self, *, before: Any, after: Any) -> None:
        """Let work that `after` is given from now on wait for that of `before` so far.

        Both are streams as `Kernel.launch` takes them; it is the device that waits, not the host.
        """

    def is_capturing(self, stream: Any) -> bool:
        """True if launches on this stream go into a graph instead of being run."""
        return False

    @property
    def is_recording(self) -> bool:
        """True while the calling thread's launches go into a plan or a graph of this package."""
        return sequence.recording_here() is not None

    @contextmanager
    def record_plan(self) -> Iterator[LaunchPlan]:
        """A plan of what the calling thread would launch on this device within the block.

        Nothing is launched there, on whichever stream: a plan has no stream of its own.
        """
        plan = self._new_plan()
        with plan._recording():
            yield plan

    @contextmanager
    def capture(self, stream: Any = None) -> Iterator[LaunchGraph]:
        """A graph of what the calling thread launches on `graph.stream` within the block.

        stream: what is captured; a new one where it is left out, since the default stream cannot
        be.  Nothing of the block runs.  Raises LaunchError where the block launches nothing, or
        what cannot be captured.
        """
        with self._new_graph(stream)._capturing() as graph:
            yield graph

    def trace(
        self,
        *,
        cta: Sequence[int] | None = (0, 0, 0),
        warp: int | Collection[int] | None = None,
        lanes: Collection[int] = range(32),
        lines: Collection[int] = (),
        registers: Collection[str] = (),
        limit: int = 200_000,
    ) -> AbstractContextManager[Trace]:
        """Record what the launches in this block do, on the CPU device; see Trace and Selection.

        cta: (x, y, z), None for all.  warp: its number, or several; None for all.  lanes: whose
        values `Trace.rows` gives.  lines, registers: instructions on these lines of the PTX, or
        that mention these registers; all where they are left out.
        limit: how many events of a launch are kept, the first ones.

        Accesses outside the arrays are left out, and are in the launch's findings.  Raises
        DeviceError for what no launch has, for a GPU, and where the device is traced already.
        """
        from ..emulator.trace import Selection

        return self._trace(Selection.of(cta, warp, lanes, lines, registers, limit))

    def _trace(self, selection: Selection) -> AbstractContextManager[Trace]:
        raise DeviceError("trace", "the CPU device, which alone has it", self.name)

    def _new_plan(self) -> LaunchPlan:
        return LaunchPlan(self)

    def _new_graph(self, stream: Any) -> LaunchGraph:
        return LaunchGraph(self, self.create_stream() if stream is None else stream)

    @abstractmethod
    def describe(self, name: str, array: object) -> ArrayReference:
        """Describe an array argument.  Raises AbiError for one that is not of this device."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Module(NotPickled, ABC):
    """PTX, or a cubin, that a device has loaded; made by `Device.load_module`, and loaded once.

    device: where.  text: the PTX; nothing for a cubin.  sidecar: what it was loaded with; empty
    where there was none.
    """

    def __init__(self, device: Device, code: str | Cubin, sidecar: Sidecar) -> None:
        self.device = device
        self.code = code
        self.text = code if isinstance(code, str) else ""
        self.sidecar = sidecar
        self._kernels: dict[str, Kernel] = {}
        self._compiling = threading.Lock()
        if sidecar.entry is not None:
            declared = Signature.entries(code)
            if declared and sidecar.entry not in declared:
                which = "PTX" if self.text else "cubin"
                raise AbiError(
                    "name",
                    f"one of the {which}'s {', '.join(declared)}",
                    f"{sidecar.entry} in the sidecar",
                    "take the sidecar of this build",
                )
            sidecar.check(code, Signature.of(code, sidecar.entry))

    def get_kernel(self, entry: str | None = None) -> Kernel:
        """The kernel of an entry; it may be left out where the sidecar or the PTX names only one.

        Raises PtxError for an entry that the PTX does not have, AbiError where sidecar and PTX
        disagree.
        """
        signature = Signature.of(self.code, entry or self.sidecar.entry)
        with self._compiling:
            if signature.entry not in self._kernels:
                self.sidecar.check(self.code, signature)
                self._kernels[signature.entry] = self._get(self.sidecar.declare(signature))
            return self._kernels[signature.entry]

    @abstractmethod
    def _get(self, signature: Signature) -> Kernel: ...

    def __repr__(self) -> str:
        names = ", ".join(Signature.entries(self.text))
        return f"<{type(self).__name__} of {names} on {self.device.name}>"


class Kernel(NotPickled, ABC):
    """A loaded entry, ready to launch; made by `Module.get_kernel`.

        kernel.launch(config, a=a, c=c, M=4)          # by name, or by position; checked
        call = kernel.prepare(config, a=a, c=c, M=4)  # checked once
        call(stream)                                  # one call of the driver

    signature: its parameters, as the PTX declares them and the sidecar names them.
    """

    def __init__(self, module: Module, signature: Signature) -> None:
        self.module = module
        self.signature = signature
        sidecar = module.sidecar
        # Without a sidecar nothing says which pointers are scratch; those that are never read need
        # not be given in any case.
        known = sidecar.params or sidecar.scratch or not module.text
        unread = () if known else signature.unread(module.text)
        self._own = threading.local()  # the call that each thread made last
        self._names = tuple(p.name for p in signature.arguments)
        device = module.device
        make_map = partial(tensor_map.encode, device.name)
        self._binder = Binder(signature, sidecar, device.describe, make_map, unread)

    @property
    def sidecar(self) -> Sidecar:
        """The sidecar that the module was loaded with; empty where there was none."""
        return self.module.sidecar

    def launch(
        self, config: LaunchConfig, *arguments: object, stream: Any = None, **named: object
    ) -> None:
        """Launch on `stream` (the default stream where it is left out).

        Arguments go by position or by name; what the sidecar leaves to the launcher is filled in,
        scratch pointers foremost, and without a sidecar pointers at the end that the kernel never
        reads.

        Raises AbiError for an argument that is missing, unknown, mistyped, out of range, too short,
        misaligned or not of this device, and LaunchError where the device refuses the launch.
        """
        if sequence.recordings:
            self._issue(self._marshal_seen(config, arguments, named), stream)
            return
        call: RepeatedCall | None = getattr(self._own, "call", None)
        if call is not None and call.repeat(config, stream, arguments, named):
            return
        # Not as the thread launched it before: all of it is looked at.
        invocation = self._marshal_seen(config, arguments, named)
        launch = self._prepared(invocation, invocation.arguments)
        self._own.call = RepeatedCall(launch, self._names, arguments, named)
        self._issue(invocation, stream)

    def prepare(self, config: LaunchConfig, *arguments: object, **named: object) -> PreparedLaunch:
        """Marshal and check once, launch often: `call = kernel.prepare(...); call(stream)`.

        Raises AbiError as `launch` does.
        """
        return self._prepared(self._marshal_seen(config, arguments, named))

    @property
    def attributes(self) -> Resources:
        """Registers and memory that the kernel takes, by the driver.  Raises DeviceError for the
        CPU device, which has no registers to count."""
        raise self._no_gpu("attributes")

    def occupancy(self, config: LaunchConfig) -> Occupancy:
        """The part of a launch that the GPU holds at once, clusters included, by the driver.

        Raises DeviceError for the CPU device, and for a configuration that the GPU cannot launch.
        """
        raise self._no_gpu("occupancy")

    def _no_gpu(self, what: str) -> DeviceError:
        device = self.module.device.name
        return DeviceError(what, "a kernel of a GPU, whose driver says it", f"one on {device}")

    def _marshal_seen(
        self, config: LaunchConfig, positional: Sequence[object], named: Mapping[str, object]
    ) -> Invocation:
        """Marshal a launch; observers are told of arguments that are refused."""
        try:
            return self._marshal(config, positional, named)
        except AbiError as error:
            observer.show(observer.RefusedLaunch(self, config, positional, named, error))
            raise

    def _issue(self, invocation: Invocation, stream: Any) -> None:
        """Launch what is marshalled already; a plan, a graph or an observer may take it instead."""
        recording = sequence.recording_here() if sequence.recordings else None
        if recording is not None:
            recording._add(self, invocation, stream)
        elif observer.current is None:
            self._enqueue(invocation, stream)
        else:
            observer.current.launch(self, invocation, stream)

    def _prepared(
        self, invocation: Invocation, borrowed: Mapping[str, object] | None = None
    ) -> PreparedLaunch:
        return PreparedLaunch(self, invocation, borrowed)

    def _marshal(
        self, config: LaunchConfig, positional: Sequence[object], named: Mapping[str, object]
    ) -> Invocation:
        if not isinstance(config, LaunchConfig):
            raise AbiError("config", "a LaunchConfig", type(config).__name__)
        self._require_possible(config)
        bound = self._binder.bind(config, positional, named)
        block = ParameterBlock(self.signature)
        block.write(bound.values)
        arguments = {**dict(zip(self._names, positional, strict=False)), **named}
        return Invocation(bound, block, arguments)

    def _remarshal(
        self, invocation: Invocation, changes: Mapping[str, object], hold: bool = True
    ) -> Invocation:
        """The invocation with some arguments changed, in the same block.

        Only what a change can have touched is checked again.  Raises AbiError as `launch` does,
        and then changes nothing.  hold: whether the new invocation keeps what is new alive.
        """
        bound = self._binder.rebind(invocation.bound, changes)
        if bound.config is not invocation.config:
            self._require_possible(bound.config)
        names = (*changes, *self.signature.computed)
        invocation.block.write({name: bound.values[name] for name in names})
        arguments = invocation.arguments
        if hold:
            arguments = {**arguments, **changes}
        elif not arguments.keys().isdisjoint(changes):
            arguments = {n: value for n, value in arguments.items() if n not in changes}
        return Invocation(bound, invocation.block, arguments)

    def _movable(self, bound: Bound) -> Mapping[str, Movable]:
        return self._binder.movable(bound)

    def _holds(self, address: int) -> bool:
        return True

    @property
    def _identical(self) -> Identical:
        return lambda one, other: False

    @property
    def _place_of(self) -> PlaceOf | None:
        return None

    def _require_possible(self, config: LaunchConfig) -> None:
        """Check that kernel and device can do what the configuration asks beyond the grid.

        Raises AbiError for a kernel that was not written for it, DeviceError for a device that
        cannot do it.
        """
        if config.programmatic and not self._waits_for_the_launch_before:
            raise AbiError(
                "programmatic",
                "the kernel never waits for the launch ahead of it (the PTX has no "
                "griddepcontrol.wait, or the cubin's sidecar no launch_pdl), so it would read what "
                "is not written yet",
                remedy="leave it out",
            )

    @cached_property
    def _waits_for_the_launch_before(self) -> bool:
        if not self.module.text:  # of a cubin its sidecar says so
            return self.sidecar.programmatic
        code = read_module(self.module.text).code(self.signature.entry)
        return "griddepcontrol.wait" in code

    @abstractmethod
    def _enqueue(self, invocation: Invocation, stream: Any) -> None: ...

    def describe(self, invocation: Invocation) -> str:
        """The launch in one line, for the messages of errors."""
        config, values = invocation.config, invocation.bound.values
        sizes = ", ".join(
            f"{p.name} = {_shown(values[p.name])}"
            for p in self.signature.arguments
            if p.role != "stride" and p.name not in invocation.bound.arrays and not p.is_pointer
        )
        launch = f"grid {config.grid}, block {config.block}, shared_bytes {config.shared_bytes}"
        return f"{self.signature.entry} on {self.module.device.name}: {launch}, {sizes}".rstrip(
            ", "
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.signature.entry} on {self.module.device.name}>"


def _shown(value: int | float | bytes) -> str:
    """A parameter's value in a message."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
