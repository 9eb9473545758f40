"""Target of `trace`: a shipped kernel or PTX on random arrays, or a launch of a recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from ..abi import Sidecar
from ..devices import Device
from ..errors import AbiError, LaunchError
from ..kernels.sample import sample
from .ptx_file import open_ptx

# With these every tile of the shipped kernels has a tail.
SIZES = {"M": 5, "N": 72, "K": 272}


@dataclass(frozen=True)
class Target:
    """One launch.  described: in one line; text: the PTX.

    prepare: does what has to be done before; launch: launches.  Both take the device.
    """

    described: str
    text: str
    entry: str
    launch: Callable[[Device], None]
    prepare: Callable[[Device], None] = lambda device: None


def kernel_target(
    target: str, sidecar_path: Path | None, entry: str | None, sizes: Mapping[str, int], seed: int
) -> Target:
    """PTX, by path or by the name of a shipped kernel, on random arrays.

    Raises PtxError or AbiError for what cannot be launched like this.
    """
    file = open_ptx(target, sidecar_path)
    signature, sidecar = file.declared(entry)
    names = sizes_of(sidecar)
    if not names:
        raise AbiError(
            target,
            "no sidecar declares its arrays, so there is nothing to launch it on",
            remedy="trace a launch of your own in Python: with device.trace() as trace: "
            "kernel.launch(…)",
        )
    refuse_unknown(target, sizes, names)
    known = {**SIZES, **sizes}
    drawn = sample(sidecar, {"group_size": known["K"], **known}, seed)
    # Some outputs are added to: from NaN nothing but NaN would come.
    random = np.random.default_rng(seed + 1)
    for array in drawn.arrays.values():
        if np.isnan(array.reshape(-1)[:1].astype(np.float64)).any():
            array[...] = random.standard_normal(array.shape)

    def launch(device: Device) -> None:
        kernel = device.load_module(file.text, sidecar).get_kernel(signature.entry)
        kernel.launch(drawn.config, **drawn.arrays, **drawn.integers)

    values = ", ".join(f"{name} = {drawn.integers[name]}" for name in names)
    return Target(f"{file.title} at {values}", file.text, signature.entry, launch)


def recorded_target(target: str, number: int | None) -> Target:
    """A launch of a recording.  Raises RecordingError, and UsageError for one it does not have."""
    from ..debug.recording import Recording
    from ..debug.replay import replay

    recording = Recording(target)
    count = len(recording.launches)
    if number is None and count == 1:
        number = 0
    if number is None or not 0 <= number < count:
        raise click.UsageError(f"--launch: {target} has launches 0 to {count - 1}; choose one")
    recorded = recording.launches[number]
    # What is recorded by its digest alone is what earlier launches left.
    whole = all(recording.holds(digest) for digest in recorded.before.values())
    earlier = [] if whole else recording.launches[:number]
    recording.launches = [*earlier, recorded]
    steps = None

    def prepare(device: Device) -> None:
        nonlocal steps
        steps = replay(recording, device)
        for _ in earlier:
            next(steps)

    def launch(device: Device) -> None:
        assert steps is not None
        result = next(steps)
        if result.verdict in ("fails", "left out"):
            raise LaunchError(f"launch {number} of {target}", result.reason)

    call = recorded.call
    described = f"{call.signature.entry}, launch {number} of {Path(target).name}"
    return Target(described, call.ptx, call.signature.entry, launch, prepare)


def sizes_of(sidecar: Sidecar) -> list[str]:
    """The names of the sizes that a kernel takes."""
    return [p.name for p in sidecar.params if p.role == "size"]


def refuse_unknown(target: str, sizes: Mapping[str, int], names: Sequence[str]) -> None:
    """Raise AbiError for a size that is none of the target's."""
    unknown = sorted(set(sizes) - set(names) - {"groups"})
    if unknown:
        raise AbiError(
            "--size", f"names among {', '.join(names)}, which {target} has", ", ".join(unknown)
        )


def read_sizes(texts: Sequence[str]) -> dict[str, int]:
    """`M=1` and its like.  Raises AbiError."""
    sizes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value.isdecimal() or not name.isidentifier():
            raise AbiError("--size", "NAME=N, such as M=1", f"{text!r}")
        sizes[name] = int(value)
    return sizes
