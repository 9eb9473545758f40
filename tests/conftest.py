"""Fixtures that every test folder shares: the devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda import unusable

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FIXTURES = Path(__file__).parent / "fixtures"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs a GPU where there is none."""
    reason = unusable()
    if reason:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no GPU: {reason}"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code goes to a directory of this session, not to the user's.

    Where the session has several processes (pytest -n), they share it.
    """
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FERRUM_CACHE_DIR", str(cache))
        yield


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> fe.Device:
    """Each device in turn: the same test runs on all of them."""
    return fe.open_device(request.param)


@pytest.fixture
def gpu() -> fe.Device:
    """The GPU, for tests marked `gpu`."""
    return fe.open_device("cuda")
