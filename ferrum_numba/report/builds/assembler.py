"""NVIDIA's ptxas, where one is installed: what it says of registers and memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ...devices.resources import Resources
from ...errors import DeviceError

_MOST_ENTRIES = 500
_TIMEOUT = 20.0  # seconds; a stranger's text can keep ptxas busy for ever
_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")
_PLACE = re.compile(r"^ptxas\S* (?:.*kernel\.ptx, (?=line)|fatal\s*: )")
_RELEASE = re.compile(r"release (\d+\.\d+)")


def assemble(text: str, target: str) -> dict[str, Resources]:
    """Resources of each entry of a PTX, assembled for its target.

    Raises DeviceError where there is no ptxas, or none that takes the text, with its reason.
    """
    entries = text.count(".entry")
    if entries > _MOST_ENTRIES:
        raise DeviceError("ptxas", f"at most {_MOST_ENTRIES} entries", entries)
    problem = ""
    for program in find_assemblers():
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "kernel.ptx"
            source.write_text(text, encoding="utf-8")
            options = ["-v", f"-arch={target}", "-o", str(source.with_suffix(".cubin"))]
            try:
                done = subprocess.run(
                    [program, *options, source],
                    capture_output=True,
                    text=True,
                    timeout=_TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise DeviceError(program, f"took more than {_TIMEOUT:.0f} s") from None
            except (OSError, subprocess.SubprocessError) as error:
                problem = problem or f"{program} cannot be run: {error}"
                continue
        if done.returncode == 0:
            return read_log(done.stderr + done.stdout, f"ptxas {_release(program)} for {target}")
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = _PLACE.sub("", said[0])
        problem = problem or f"ptxas {_release(program)} refuses it: {reason}"
    raise DeviceError(
        "ptxas", "one on PATH, in CUDA_HOME or in an installed triton", problem or "none"
    )


def find_assemblers() -> Iterator[Path]:
    """Every ptxas that is installed: on PATH, in CUDA_HOME, inside Triton."""
    found = []
    if on_path := shutil.which("ptxas"):
        found.append(Path(on_path))
    found += [
        Path(os.environ[key], "bin/ptxas")
        for key in ("CUDA_HOME", "CUDA_PATH")
        if key in os.environ
    ]
    triton = find_spec("triton")  # looked up, never imported
    if triton is not None and triton.origin is not None:
        folder = Path(triton.origin).parent / "backends/nvidia/bin"
        found += [folder / name for name in ("ptxas", "ptxas-blackwell")]
    yield from dict.fromkeys(path for path in found if path.is_file())


def read_log(log: str, source: str) -> dict[str, Resources]:
    """The resources of each entry, from what `ptxas -v` writes."""
    found: dict[str, Resources] = {}
    entry = properties = ""
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            entry = match[1]
            found[entry] = Resources(source, shared_bytes=0)
        elif match := _PROPERTIES.search(line):
            properties = match[1]
        elif (match := _FRAME.search(line)) and properties in found:
            local, stores, loads = map(int, match.groups())
            found[properties] = replace(
                found[properties],
                local_bytes=local,
                spill_store_bytes=stores,
                spill_load_bytes=loads,
            )
        elif (match := _USED.search(line)) and entry in found:
            shared, constant = _memory(match[2])
            found[entry] = replace(
                found[entry],
                registers=int(match[1]),
                shared_bytes=shared,
                constant_bytes=constant,
            )
    return found


def _memory(text: str) -> tuple[int, int]:
    """Bytes static shared and constant; bank 0 holds the parameters, and every kernel has it."""
    shared = re.search(r"(\d+) bytes smem", text)
    constants = re.findall(r"(\d+) bytes cmem\[[1-9]\d*\]", text)
    return int(shared[1]) if shared else 0, sum(map(int, constants))


@lru_cache(maxsize=8)
def _release(program: Path) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    match = _RELEASE.search(done.stdout)
    return match[1] if match else ""
