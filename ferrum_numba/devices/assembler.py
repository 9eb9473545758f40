"""NVIDIA's ptxas, where one is installed: it makes machine code of PTX."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ..errors import DeviceError
from . import nvidia_packages

_MOST_ENTRIES = 500
_TIMEOUT = 20.0  # seconds; a stranger's text can keep ptxas busy for ever
_PLACE = re.compile(r"^ptxas\S* (?:.*kernel\.ptx, (?=line)|fatal\s*: )")
_RELEASE = re.compile(r"release (\d+)\.(\d+)")


class Assembled(NamedTuple):
    """Machine code of a PTX, and what `ptxas -v` wrote.  by: such as "ptxas 12.8 for sm_80"."""

    cubin: bytes
    log: str
    by: str


def assemble(text: str, target: str, newest: tuple[int, int] | None = None) -> Assembled:
    """Machine code of PTX for a target, by the first ptxas that takes it.

    newest: CUDA version beyond which a ptxas is passed over, as a driver takes no later code.
    Raises DeviceError where there is none, or none that takes the text, with its reason.
    """
    entries = text.count(".entry")
    if entries > _MOST_ENTRIES:
        raise DeviceError("ptxas", f"at most {_MOST_ENTRIES} entries", entries)
    problem = ""
    for program in find_assemblers():
        release = _release(program)
        named = f"{program.name} {'.'.join(map(str, release))}"
        if newest is not None and not (0,) < release <= newest:
            problem = problem or f"{named}, whose code the driver does not take"
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "kernel.ptx"
            source.write_text(text, encoding="utf-8")
            cubin = source.with_suffix(".cubin")
            try:
                done = _run(program, "-v", f"-arch={target}", "-o", str(cubin), str(source))
            except subprocess.TimeoutExpired:
                raise DeviceError(str(program), f"took more than {_TIMEOUT:.0f} s") from None
            except (OSError, subprocess.SubprocessError) as error:
                problem = problem or f"{program} cannot be run: {error}"
                continue
            if done.returncode == 0:
                log = done.stderr + done.stdout
                return Assembled(cubin.read_bytes(), log, f"{named} for {target}")
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        problem = problem or f"{named} refuses it: {_PLACE.sub('', said[0])}"
    raise DeviceError(
        "ptxas",
        "one on PATH, in CUDA_HOME, in nvidia-cuda-nvcc or in an installed triton",
        problem or "none",
    )


def find_assemblers() -> Iterator[Path]:
    """Every ptxas that is installed: on PATH, in CUDA_HOME, NVIDIA's package, inside Triton."""
    found = []
    if on_path := shutil.which("ptxas"):
        found.append(Path(on_path))
    homes = [os.environ[key] for key in ("CUDA_HOME", "CUDA_PATH") if key in os.environ]
    found += [Path(home, "bin/ptxas") for home in homes]
    found += map(Path, nvidia_packages.files("*/bin/ptxas"))
    triton = find_spec("triton")  # looked up, never imported
    if triton is not None and triton.origin is not None:
        folder = Path(triton.origin).parent / "backends/nvidia/bin"
        found += [folder / name for name in ("ptxas", "ptxas-blackwell")]
    yield from dict.fromkeys(path for path in found if path.is_file())


@lru_cache(maxsize=8)
def _release(program: Path) -> tuple[int, ...]:
    """The CUDA version that it is of; nothing where it does not say."""
    try:
        match = _RELEASE.search(_run(program, "--version").stdout)
    except (OSError, subprocess.SubprocessError):
        return ()
    return (int(match[1]), int(match[2])) if match else ()


def _run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT, check=False
    )
