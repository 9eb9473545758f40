"""Objects introduce themselves: short reprs, notebook tables, pickling, exported types."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import gptq, models
from ferrum_numba.debug.case import Case
from ferrum_numba.debug.explanation import explain
from ferrum_numba.pickling import NotPickled
from ferrum_numba.report import Plan, compare_checkpoints, verify_layers
from tests.conftest import FIXTURES
from tests.test_package import MODULES

NAME = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One of each class that a program meets, all from one small launch."""
    device = fe.open_device("cpu")
    folder = fe.example_checkpoint()
    checkpoint = fe.Checkpoint.open(folder)
    layer = fe.GptqLinear.load(checkpoint, NAME, device=device)
    x, y = np.ones((1, layer.K), np.float16), device.empty((1, layer.N), np.float16)
    run = tmp_path_factory.mktemp("run") / "run.ferrum"
    with fe.record(run), device.trace() as trace:
        layer(x)
    with device.record_plan() as plan:
        layer(x, out=y)
    with device.capture() as graph:
        layer(x, out=y, stream=graph.stream)
    build = fe.kernels.canonical(1)
    kernel = build.kernel(device)
    recording = fe.Recording(run)
    model = fe.Model.load(folder, device=device)
    found = [
        *(checkpoint, checkpoint.load(NAME), checkpoint[NAME], checkpoint.quantization, layer),
        *(device, device.memory, kernel, kernel.module, kernel.signature, kernel.sidecar, build),
        *(plan, graph, plan[0], trace, trace.launches[0], trace.events[0]),
        *(recording, recording[0], recording[0].call, fe.ParameterBlock(kernel.signature)),
        *(model, model.session(length=16), fe.LaunchConfig(grid=1, block=32)),
        fe.Finding("memory", "out-of-bounds", "reads behind x", instruction="ld", line=3),
        *verify_layers(checkpoint, [(NAME, Plan(m_values=(1,)))], [device]),
        *compare_checkpoints(checkpoint, checkpoint, [NAME]),
        explain(Case.from_recording(recording, recording[0]), seconds=0.1),
    ]
    return {type(each).__name__: each for each in found}


def test_reprs_are_short(objects: dict[str, Any]) -> None:
    long = {name: len(repr(each)) for name, each in objects.items() if len(repr(each)) > 400}
    assert not long
    places = [name for name, each in objects.items() if re.search(r" at 0x[0-9a-f]", repr(each))]
    assert not places, "says where it lies instead of what it is"


def test_notebook_tables_escape_what_strangers_wrote(objects: dict[str, Any]) -> None:
    shown = {name for name, each in objects.items() if hasattr(each, "_repr_html_")}
    expected = {"Checkpoint", "LayerSpec", "GptqLinear", "Signature", "Finding", "Recording"}
    expected |= {"LayerResult", "Comparison", "Diagnosis"}
    assert expected <= shown
    for name in shown:
        html = objects[name]._repr_html_()
        assert html.startswith("<table><caption>")
        assert len(html) < 20_000
    html = fe.Finding("memory", "kind", "<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_large_checkpoint_is_cut_in_a_notebook(tmp_path: Path) -> None:
    gptq.make_checkpoint(tmp_path, gptq.Recipe(layers=7, layers_only=True))
    html = fe.Checkpoint.open(tmp_path)._repr_html_()
    assert html.count("<tr>") == 41  # with the header
    assert "and 9 more" in html


def test_a_checkpoint_is_a_mapping_of_its_layers() -> None:
    checkpoint = fe.Checkpoint.open(FIXTURES / "gm_v1_sym_g128")
    assert len(checkpoint) == len(list(checkpoint)) == 7
    assert NAME in checkpoint
    assert "head" not in checkpoint
    assert checkpoint[NAME] is checkpoint.layers[NAME]
    with pytest.raises(fe.CheckpointError, match="did you mean model"):
        checkpoint["down_proj"]


def test_a_recording_is_a_sequence_of_its_launches(objects: dict[str, Any]) -> None:
    recording = objects["Recording"]
    assert len(recording) == len(list(recording)) == 1
    assert recording[0] is recording.launches[0]


def test_what_can_be_pickled_is_and_the_rest_says_what_to_send(objects: dict[str, Any]) -> None:
    for name, each in objects.items():
        if isinstance(each, fe.ParameterBlock):
            each = each.set(*[1] * len(each.signature.arguments))
        if isinstance(each, NotPickled):
            with pytest.raises(fe.FerrumError, match="can be pickled, found <") as caught:
                pickle.dumps(each)
            assert (caught.value.field, caught.value.code) == (name, "not-pickled")
            assert caught.value.remedy
        else:
            assert repr(pickle.loads(pickle.dumps(each))) == repr(each), name
    block = objects["ParameterBlock"]
    assert pickle.loads(pickle.dumps(block)).to_bytes() == block.to_bytes()
    sidecar = objects["Sidecar"]
    assert pickle.loads(pickle.dumps(sidecar)).grid_for({"M": 1, "N": 64}) is not None


CLASSES = {
    name: path
    for path in MODULES.values()
    for name in re.findall(r"^class ([A-Z]\w+)", path.read_text(encoding="utf-8"), re.M)
}
# NumPy's or ctypes' array, and what rooms of the package hand to each other.
ELSEWHERE = {"Array", "PagePool", "Seat", "Site"}


@pytest.mark.parametrize(
    "public", [each for name in fe.__all__ if isinstance(each := getattr(fe, name), type)]
)
def test_types_that_public_methods_return_are_exported(public: type) -> None:
    """And every public class, and each of its public methods, has words for help()."""
    assert len((inspect.getdoc(public) or "").split()) >= 6
    for name, member in inspect.getmembers(public):
        function = getattr(member, "func", None) or getattr(member, "fget", None) or member
        if name.startswith("_") or not inspect.isroutine(function):
            continue
        if not str(getattr(function, "__module__", "")).startswith("ferrum_numba"):
            continue
        assert inspect.getdoc(member), f"{public.__name__}.{name}"
        returned = str(getattr(function, "__annotations__", {}).get("return", ""))
        for word in set(re.findall(r"\b[A-Z]\w+", returned)) & CLASSES.keys():
            exported = word in fe.__all__ or hasattr(models, word) or hasattr(gptq, word)
            assert exported or word in ELSEWHERE, f"{public.__name__}.{name} returns {word}"
