"""Fixtures of all tests: the devices, the drawing of examples, reasons of skipped tests."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import ferrum_numba as fe
from ferrum_numba.devices.cuda.numba_cuda import unusable

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FIXTURES = Path(__file__).parent / "fixtures"

# A slow machine is no failure, and a tree that passes once passes again.  What draws other examples
# each time, to find what nobody has seen yet: pytest --hypothesis-profile=search
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs a GPU where there is none."""
    reason = unusable()
    if reason:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no GPU: {reason}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print why tests were skipped, a line a reason; pytest's own `-rs` says where."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} {reason[0].lower()}{reason[1:]}")


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code goes to a directory of this session, not to the user's; output to a pipe.

    Where the session has several processes (pytest -n), they share the directory.
    """
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FERRUM_CACHE_DIR", str(cache))
        for name in ("COLUMNS", "FORCE_COLOR"):  # of the console that the tests are started from
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module", autouse=True)
def _own_garbage() -> None:
    """Leave what was there before a module out of the garbage collections that its tests ask for.

    Each would look through all objects of the libraries, the tests and other modules' devices.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> fe.Device:
    """Each device in turn: the same test runs on all of them."""
    return fe.open_device(request.param)


@pytest.fixture
def gpu() -> fe.Device:
    """The GPU, for tests marked `gpu`."""
    return fe.open_device("cuda")
