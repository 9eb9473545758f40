"""A recording that cannot go on stops with one warning, and launches go on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import ferrum_numba as fe
from tests.cli.commands import run_python
from tests.devices import canonical

PROGRAM = """
import sys, resource, warnings
import numpy as np
import ferrum_numba as fe
from tests.devices import canonical

device = fe.open_device("cpu")
kernel = canonical.kernel(device)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    with fe.record(sys.argv[1], arrays="{arrays}"):
        for _ in range(300):
            arguments = canonical.arguments(device)
            kernel.launch(canonical.CONFIG, **arguments)
result = device.to_host(arguments["c"]).astype(np.float32)
assert np.allclose(result, canonical.EXPECTED, atol=0.05), "the launches went on"
print(len(said), said[0].message if said else "")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of POSIX")
@pytest.mark.parametrize("arrays", ["contents", "digest", "none"])
@pytest.mark.parametrize("limit", [60_000, 200_000])
def test_a_full_disk(tmp_path: Path, arrays: str, limit: int) -> None:
    path = tmp_path / "run.ferrum"
    done = run_python("-c", PROGRAM.format(limit=limit, arrays=arrays), str(path))
    assert done.returncode == 0, done.stderr
    count, _, message = done.stdout.partition(" ")
    assert int(count) <= 1
    if int(count):
        assert "run.ferrum: cannot be written: File too large; recording stops here" in message
    if path.exists() and int(count) == 0:
        assert fe.Recording(path).complete
    elif limit > 60_000:
        assert not fe.Recording(path).complete


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be cut there")
@pytest.mark.parametrize("arrays", ["contents", "none"])
def test_another_process_cuts_the_file(tmp_path: Path, arrays: str) -> None:
    device, path = fe.open_device("cpu"), tmp_path / "run.ferrum"
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    with fe.record(path, arrays=arrays):
        kernel.launch(canonical.CONFIG, **arguments)
        os.truncate(path, 100)
        with pytest.warns(RuntimeWarning, match="another process has cut it; recording stops"):
            kernel.launch(canonical.CONFIG, **arguments)
        for _ in range(3):
            kernel.launch(canonical.CONFIG, **arguments)
    assert path.stat().st_size == 100
    with fe.record(tmp_path / "next.ferrum"):
        kernel.launch(canonical.CONFIG, **arguments)
    assert len(fe.Recording(tmp_path / "next.ferrum")) == 1
