"""Rate at which a checkpoint's layers come onto a device, beside safetensors' own loader.

    python scripts/bench_load.py [--folder FOLDER] [--layers N] [--device cpu] [--json]

The checkpoint is synthetic, of Llama-3.1-8B's shapes in four files, unless --folder names another.
Warm: the system has the files' pages.  Cold: it was told to forget them before each run.  Peak:
host memory of the process beyond that, pages of files not counted.  Contenders go by turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ferrum_numba as fe
from ferrum_numba.gptq.recipe import Recipe
from ferrum_numba.gptq.synthesis import make_checkpoint

REPEATS = 5

Load = Callable[[], object]


def loaders(folder: Path, device: fe.Device) -> dict[str, Load]:
    """Ways to load the folder, by name; the checkpoint is opened each time."""

    def one_by_one() -> object:
        checkpoint = fe.Checkpoint.open(folder)
        return [fe.GptqLinear.load(checkpoint, name, device=device) for name in checkpoint.layers]

    found: dict[str, Load] = {
        "load_layers": lambda: fe.load_layers(folder, device=device),
        "GptqLinear.load, each": one_by_one,
    }
    with contextlib.suppress(ImportError):
        package = importlib.import_module("safetensors.torch")
        found["safetensors load_file"] = lambda: [
            package.load_file(file, device=device.name) for file in _files(folder)
        ]
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def forget(folder: Path) -> None:
    """Ask the system to forget what it keeps of the files."""
    for file in _files(folder):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Peak:
    """The most memory of this process, pages of files not counted, while a block runs."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._done = threading.Event()

    def _look(self) -> None:
        start = _private()
        while not self._done.wait(0.002):
            self.nbytes = max(self.nbytes, _private() - start)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """A block that is watched."""
        watcher = threading.Thread(target=self._look)
        watcher.start()
        try:
            yield
        finally:
            self._done.set()
            watcher.join()


def _private() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


def measure(folder: Path, device: fe.Device) -> dict[str, Any]:
    """Gigabytes a second, warm and cold, and the peak, by loader."""
    total, contenders = sum(file.stat().st_size for file in _files(folder)), loaders(folder, device)
    times: dict[str, dict[str, list[float]]] = {
        name: {"warm": [], "cold": []} for name in contenders
    }
    peaks: dict[str, int] = {}
    for name, load in contenders.items():  # contexts, pools, buffers and threads
        load()
        peak = Peak()
        with peak.watched():
            load()
        peaks[name] = peak.nbytes
    for turn in ("warm", "cold"):
        for _ in range(REPEATS):
            for name, load in contenders.items():
                if turn == "cold":
                    forget(folder)
                device.synchronize()
                start = time.perf_counter()
                kept = load()
                device.synchronize()
                times[name][turn].append(time.perf_counter() - start)
                del kept
    rates = {
        name: {turn: total / statistics.median(taken) / 1e9 for turn, taken in found.items()}
        for name, found in times.items()
    }
    return {
        "bytes": total,
        "loaders": {name: {**rates[name], "peak MiB": peaks[name] / 2**20} for name in rates},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a checkpoint; left out, one is made")
    parser.add_argument("--layers", type=int, default=16, help="decoder layers of one that is made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = fe.open_device(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch) / "checkpoint"
            make_checkpoint(
                folder,
                Recipe(like="llama-3.1-8b", layers=options.layers, layers_only=True, shards=4),
            )
        found = measure(folder, device)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['bytes'] / 1e9:.2f} GB on {device.name}")
    print(f"{'loader':<24}{'warm GB/s':>12}{'cold GB/s':>12}{'peak MiB':>12}")
    for name, row in found["loaders"].items():
        print(f"{name:<24}{row['warm']:>12.2f}{row['cold']:>12.2f}{row['peak MiB']:>12.0f}")


if __name__ == "__main__":
    main()
