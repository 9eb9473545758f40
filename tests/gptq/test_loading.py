"""Layers that are loaded several at a time, and a checkpoint whose pages are computed with."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.gptq import Recipe, make_checkpoint
from ferrum_numba.gptq.loading import at_a_time
from tests.gptq.fixtures import FOLDER


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two decoder layers in three files; tensors of a megabyte among them."""
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    make_checkpoint(path, Recipe(like="llama-3.1-8b", layers=1, layers_only=True, shards=3))
    return path


def test_each_is_as_one_by_one(device: fe.Device) -> None:
    checkpoint = fe.Checkpoint.open(FOLDER / "gm_v1_sym_g64_sharded")
    seen: list[tuple[int, int]] = []
    found = fe.load_layers(
        checkpoint, device=device, progress=lambda done, total: seen.append((done, total))
    )
    assert list(found) == list(checkpoint.layers)
    assert seen == [(n + 1, len(found)) for n in range(len(found))]
    for name, layer in found.items():
        alone = fe.GptqLinear.load(checkpoint, name, device=device)
        x = np.random.default_rng(0).standard_normal((2, layer.K)).astype(np.float16)
        assert np.array_equal(layer(x), alone(x))
    assert list(fe.load_layers(checkpoint, [name], device=device)) == [name]


def test_the_cpu_copies_nothing(folder: Path) -> None:
    """Its layers multiply by the file's pages."""
    cpu = fe.open_device("cpu")
    before = cpu.memory.in_use
    layers = fe.load_layers(folder, device=cpu)
    assert cpu.memory.in_use == before
    large = [layer for layer in layers.values() if layer.weight.qweight.nbytes >= 1 << 20]
    assert large
    assert not any(layer.weight.qweight.flags.owndata for layer in large)


def test_the_first_that_cannot_be_loaded(folder: Path) -> None:
    with pytest.raises(fe.CheckpointError, match="nothing of the kind"):
        fe.load_layers(folder, ["nothing of the kind"], device=fe.open_device("cpu"))


def test_after_an_error_none_is_begun() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("the second")
        if item > 1:
            go_on.wait(5)
        return item

    results = at_a_time(work, range(100), 2)
    assert next(results) == 0
    go_on.set()
    with pytest.raises(ValueError, match="the second"):
        next(results)
    assert len(begun) < 100
