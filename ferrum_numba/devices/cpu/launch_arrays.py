"""A launch on the CPU as the emulator takes it; its arrays and integers, for checks and traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...emulator import Job
from ..addresses import reached_from
from ..arrays import describe
from ..invocation import Invocation, Launchable
from ..tensor_map import TensorMap

if TYPE_CHECKING:  # plain launches need no checks
    from ...emulator.checks import LaunchArray


def job_of(kernel: Launchable, invocation: Invocation, threads: int) -> Job:
    """The launch as the emulator is given it; a cluster is the launch's, or the PTX's."""
    config = invocation.bound.config
    x, y, z = (*(config.cluster or kernel.signature.cluster or ()), 1, 1, 1)[:3]
    return Job(
        grid=config.grid,
        block=config.block,
        shared_bytes=config.shared_bytes,
        parameter_block=invocation.block.to_bytes(),
        threads=threads,
        cluster=(x, y, z),
    )


def launch_integers(kernel: Launchable, invocation: Invocation) -> dict[str, int]:
    """The integers of a launch that the sidecar's rules may read."""
    values = invocation.bound.values.items()
    integers = {name: value for name, value in values if type(value) is int}
    return {**(kernel.sidecar.tile or {}), **integers}


def launch_arrays(
    kernel: Launchable, invocation: Invocation, scratch: Mapping[str, int]
) -> list[LaunchArray]:
    """The arrays of a launch; of an output that part which the sidecar says is computed.

    scratch: the addresses of the buffers that the device lends, by the names of their parameters.
    """
    from ...emulator.checks import LaunchArray

    arrays = [
        # Counters may be read before anybody writes them: they are zero.
        LaunchArray(d.name, scratch[d.name], d.nbytes, role="" if d.zeroed else "scratch")
        for d in invocation.bound.scratch
    ]
    declared = {p.name: p for p in kernel.sidecar.params}
    integers = launch_integers(kernel, invocation)
    for name, reference in invocation.bound.arrays.items():
        shape, strides = reference.shape, reference.strides or ()
        if name in declared and declared[name].shape:
            shape = tuple(rule(integers) for rule in declared[name].shape)
            steps = (rule(integers) for rule in declared[name].strides)
            strides = tuple(step * reference.itemsize for step in steps)
        role = kernel.signature[name].role
        arrays.append(
            LaunchArray(
                name,
                reference.address,
                reference.available,
                reference.itemsize,
                role if role in ("input", "output") else "",
                not reference.readonly,
                shape,
                strides,
            )
        )
        for inner, array in reached_from(reference.address).items():
            there = describe(inner, array)
            size, writable = there.itemsize, not there.readonly
            arrays.append(
                LaunchArray(
                    f"{name}.{inner}", there.address, there.available, size, "input", writable
                )
            )
    for name, value in invocation.arguments.items():
        if isinstance(value, TensorMap):
            there = describe(name, value.tensor_map_of)
            writable = not there.readonly
            arrays.append(
                LaunchArray(
                    name, there.address, there.available, there.itemsize, "", writable, there.shape
                )
            )
    return arrays
