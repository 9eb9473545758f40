"""`ferrum-numba warm`: compile a model's kernels once, and carry the code along."""

from __future__ import annotations

import time
from pathlib import Path

import click

from .. import kernels
from ..devices import Device
from ..errors import DeviceError
from ..gptq import Checkpoint
from ..kernels import Artefact
from ..models.builds import needed
from ..models.config import ModelConfig
from ..models.names import ModelNames
from ..models.operations import Operations
from ..models.shared import CHUNK
from .console import json_option, standard_error, standard_output, write_json
from .devices import describe_device, device_line, device_option, find_device
from .options import examples


@click.command(
    epilog=examples(
        "ferrum-numba warm example --into compiled",
        "FERRUM_COMPILED=compiled ferrum-numba generate example --prompt Hello",
    )
)
@click.argument("model_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--into",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the compiled code goes; what is there already is kept.",
)
@device_option("The GPU to compile for; the default is cuda.", default="cuda")
@json_option
def warm(model_dir: Path, folder: Path, device: str, as_json: bool) -> None:
    """Compile the kernels that a model needs for this GPU.

    A process that is started with FERRUM_COMPILED=FOLDER loads what is there in place of PTX that
    the driver would compile: in a fresh container, which has no cache of the driver's, that takes
    seconds. For another GPU or another driver it compiles as ever. Whoever may write to FOLDER
    decides what runs on the GPU.
    """
    found = find_device(device)
    builds = builds_of(model_dir, found)
    start = time.perf_counter()
    files, nbytes, left = _compile(builds, found, folder)
    seconds = time.perf_counter() - start
    described = describe_device(found)
    if as_json:
        write_json(
            {
                "model": str(model_dir),
                "device": described,
                "folder": str(folder),
                "files": files,
                "bytes": nbytes,
                "seconds": seconds,
                "left": left,
            }
        )
        return
    standard_output().print(
        f"{folder}: {len(files)} kernels, {nbytes / 1e6:.1f} MB, compiled in {seconds:.1f} s for "
        f"{device_line(described)}; start with FERRUM_COMPILED={folder}"
    )
    for name, reason in left.items():
        standard_error().print(f"{name} is left to the driver: {reason}")


def builds_of(model_dir: Path, device: Device) -> set[Artefact]:
    """The builds that a model needs, for any number of rows.  Raises CheckpointError."""
    config, checkpoint = ModelConfig.load(model_dir), Checkpoint.open(model_dir)
    names = ModelNames.find(config, checkpoint)
    rows = {kernels.m_class(m) for m in range(1, CHUNK + 1)}
    return needed(names, checkpoint, Operations(config, device), rows)


def _compile(
    builds: set[Artefact], device: Device, folder: Path
) -> tuple[list[str], int, dict[str, str]]:
    """The files' names, their bytes together, and builds that no ptxas compiles, with reasons."""
    from ..devices.cuda.compiled import CompiledCode
    from ..devices.cuda.device import CudaDevice

    if not isinstance(device, CudaDevice):
        raise DeviceError(
            "device", "a GPU", device.name, "the CPU device keeps what it compiles by itself"
        )
    folder.mkdir(parents=True, exist_ok=True)
    compiled = CompiledCode(folder, device.capability, device.cuda_version)

    left: dict[str, str] = {}

    def compile_one(build: Artefact) -> None:
        try:
            code = device.compile(build.text)
        except DeviceError as error:
            if error.field != "ptxas":
                raise
            left[build.name] = str(error)
        else:
            compiled.store(build.text, code)

    kernels.load_together(builds, device, compile_one)
    paths = sorted({compiled.path(build.text) for build in builds if build.name not in left})
    return [path.name for path in paths], sum(path.stat().st_size for path in paths), left
