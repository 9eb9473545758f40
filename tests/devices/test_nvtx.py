"""NVTX ranges: what they are called, and in which order they begin and end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices import nvtx, observer
from tests.devices import canonical


class Marks:
    """An NVTX library that notes what it is told."""

    def __init__(self) -> None:
        self.said = said = []  # type: list[str]

        class Push:
            argtypes: Any = ()

            def __call__(self, name: bytes) -> int:
                said.append(name.decode())
                return 0

        self.nvtxRangePushA = Push()

    def nvtxRangePop(self) -> int:  # noqa: N802 - the library's name
        self.said.append("end")
        return 0


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> Marks:
    marks = Marks()
    monkeypatch.setattr(nvtx, "_library", lambda: marks)
    return marks


def test_launches_layers_and_plans(device: fe.Device, marks: Marks) -> None:
    layer = fe.GptqLinear(canonical.TENSORS, device=device)
    x, y = device.to_device(canonical.A), device.empty((canonical.M, canonical.N), np.float16)
    layer(x, out=y)
    with device.record_plan() as plan:
        for _ in range(2):
            layer(x, out=y)
    entry = layer.artefact(canonical.M).sidecar.entry
    with fe.nvtx_ranges():
        layer(x, out=y)
        plan()
    layer(x, out=y)
    said = [name.split(" ")[0] if name.startswith(str(entry)) else name for name in marks.said]
    first = [f"GptqLinear {layer.K} to {layer.N}", entry, "end", "end"]
    assert said == [*first, "plan of 2", *[entry, "end"] * 2, "end"]
    canonical.check(device, y)


def test_after_an_error_they_end(marks: Marks) -> None:
    cpu = fe.open_device("cpu")
    layer = fe.GptqLinear(canonical.TENSORS, device=cpu)
    with fe.nvtx_ranges(), pytest.raises(fe.AbiError):
        layer(np.zeros((1, 3), np.float16))
    assert marks.said.count("end") * 2 == len(marks.said)
    assert observer.current is None


def test_they_do_not_go_with_a_recording(marks: Marks, tmp_path: Any) -> None:
    with (
        fe.record(tmp_path / "run.ferrum"),
        pytest.raises(fe.DeviceError, match="nvtx: launches go through a Recorder already"),
        fe.nvtx_ranges(),
    ):
        pass


def test_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvtx, "_NAMES", ("libnothing.so.1",))
    monkeypatch.setattr(nvtx, "_library", nvtx._library.__wrapped__)
    with pytest.raises(fe.DeviceError, match="nvtx: expected one of libnothing.so.1, found none"):
        nvtx.begin()
