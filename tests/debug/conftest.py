"""Devices on which launches are recorded."""

from __future__ import annotations

import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda import driver
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere


@pytest.fixture(params=EVERYWHERE)
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    device = open_anywhere(request.param, monkeypatch)
    if request.param == "emulated":
        monkeypatch.setattr(driver, "version", lambda: (13, 0))
    return device
