"""The CPU device with checks: it says where a kernel, or a launch, is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import DTypeLike, NDArray

from ...abi import ArrayReference, Sidecar, Signature
from ...emulator.checks import CHECKS, CheckedProgram, Finding, LaunchArray
from ...errors import DeviceError, SanitizerError
from ..invocation import Invocation
from .blanks import Blanks
from .device import CpuDevice, CpuKernel, CpuModule
from .launch_arrays import job_of, launch_arrays, launch_integers

if TYPE_CHECKING:
    from ...emulator.trace import Selection
    from .traced import Tracer

_SHOWN = 8  # findings that an error's message spells out


class CheckedCpuDevice(CpuDevice):
    """A CPU device whose launches are looked at access by access.

    checks: of "memory", "init", "race", "order" and "nan" (`open_device`).
    findings: those of the last launch.  ahead: that launch, whose arrays are kept for as long, and
    what it used and wrote.  blanks: arrays by `empty`.  A launch that has findings raises
    SanitizerError, except within `collect`.
    """

    def __init__(self, threads: int | None = None, checks: Sequence[str] = ("memory",)) -> None:
        super().__init__(threads)
        unknown = sorted(set(checks) - CHECKS.keys())
        if unknown or isinstance(checks, str):
            found = ", ".join(unknown) or checks
            raise DeviceError("checks", f"some of {', '.join(CHECKS)}", found)
        self.checks = tuple(checks)
        self.findings: list[Finding] = []
        self.blanks = Blanks()
        self._collected: list[Finding] | None = None
        self.ahead: tuple[Invocation, Sequence[LaunchArray], Sequence[LaunchArray]] | None = None

    @contextmanager
    def collect(self) -> Iterator[list[Finding]]:
        """Launches in this block do not raise; their findings go to the list that it yields."""
        before, self._collected = self._collected, []
        try:
            yield self._collected
        finally:
            self._collected = before

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Memory that is not zero by chance, but NaN, or an integer that nobody stores."""
        there = super().empty(shape, dtype)
        self.blanks.fill(there)
        return there

    def report(self, launch: str, findings: Sequence[Finding]) -> None:
        """Take the findings of a launch, which is described in one line."""
        self.findings = list(findings)
        if self._collected is not None:
            self._collected += findings
        elif findings:
            count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
            shown = [str(finding) for finding in findings[:_SHOWN]]
            if len(findings) > _SHOWN:
                shown.append(f"and {len(findings) - _SHOWN} more; see the error's .findings")
            raise SanitizerError("\n".join([f"{launch}: {count}", *shown]), findings)

    def _new_tracer(self, selection: Selection) -> Tracer:
        from .traced import Tracer

        return Tracer(selection, self.checks, self.report)

    def _new_module(self, text: str, sidecar: Sidecar) -> CheckedModule:
        return CheckedModule(self, text, sidecar)


class CheckedModule(CpuModule):
    """PTX text whose entries are compiled with checks."""

    def _get(self, signature: Signature) -> CheckedKernel:
        device = self.device
        assert isinstance(device, CheckedCpuDevice)
        program = CheckedProgram(self.text, signature.entry, device.checks)
        return CheckedKernel(self, signature, program)


class CheckedKernel(CpuKernel):
    """An entry compiled to native code that carries checks."""

    def __init__(
        self, module: CheckedModule, signature: Signature, program: CheckedProgram
    ) -> None:
        super().__init__(module, signature, program.program)
        self._checked = program

    def _run(self, device: CpuDevice, invocation: Invocation, scratch: Mapping[str, int]) -> None:
        assert isinstance(device, CheckedCpuDevice)
        if device._tracer is not None:
            super()._run(device, invocation, scratch)
            return
        arrays = launch_arrays(self, invocation, scratch)
        job = job_of(self, invocation, device.threads)
        ahead, written = device.ahead, self._checked.written(arrays, job.parameter_block)
        device.ahead = (invocation, arrays, written)
        if invocation.config.programmatic and ahead is not None:
            arrays = [array.behind(*ahead[1:]) for array in arrays]
        if "init" in device.checks:
            arrays = [replace(array, blank=device.blanks.of(array)) for array in arrays]
        findings = self._checked.run(job, arrays)
        if "memory" in device.checks:
            bound = invocation.bound
            findings += check_layout(self.sidecar, launch_integers(self, invocation), bound.arrays)
        device.report(self.describe(invocation), findings)


def check_layout(
    sidecar: Sidecar, integers: Mapping[str, int], arrays: Mapping[str, ArrayReference]
) -> list[Finding]:
    """Arrays whose shape or strides are not what the launch's integers say.

    Such a launch may stay inside its arrays and still compute nonsense.  Rows of the output, and
    of inputs that have as many, may be left out: a buffer for the largest batch is no mistake.
    """
    rows = {p.shape[0].text for p in sidecar.params if p.role == "output" and p.shape}
    findings = []
    for declaration in sidecar.params:
        array = arrays.get(declaration.name)
        if array is None or len(array.shape) != len(declaration.shape):
            continue
        extents = [rule(integers) for rule in declaration.shape]
        strides = [rule(integers) for rule in declaration.strides]
        actual = [stride // array.itemsize for stride in array.strides or ()]
        free = declaration.shape[:1] and declaration.shape[0].text in rows
        wrong = []
        for axis, (extent, found) in enumerate(zip(extents, array.shape, strict=True)):
            if extent != found and not (free and axis == 0 and extent < found):
                wrong.append(f"{declaration.shape[axis].text} = {extent}, the array has {found}")
            elif array.strides and found > 1 and strides[axis] != actual[axis]:
                text = declaration.strides[axis].text
                wrong.append(f"{text} = {strides[axis]}, the array's stride is {actual[axis]}")
        if wrong:
            findings.append(
                Finding(
                    check="memory",
                    kind="layout",
                    message=f"{declaration.name}: the launch says {'; '.join(wrong)}; look at the"
                    " integers of the launch, or pass the part of the array that is meant",
                    array=declaration.name,
                )
            )
    return findings
