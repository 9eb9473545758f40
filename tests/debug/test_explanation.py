"""Faults injected into launches, and whether the first line names them; scripts/fault_suite.py
asks about all of them, in launches of several shapes."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import examples
from ferrum_numba.debug.case import Case
from ferrum_numba.debug.causes import CAUSES
from ferrum_numba.debug.explanation import explain
from ferrum_numba.debug.recorder import record
from ferrum_numba.debug.recording import Recording
from tests.campaigns.launch_faults import AREAS
from tests.campaigns.launch_faults.answer import ask, ask_checkpoint
from tests.campaigns.launch_faults.checkpoints import CAUSES as CHECKPOINT_CAUSES
from tests.campaigns.launch_faults.fault import w4a16
from tests.devices import canonical

# What compiles a PTX of its own, or tries much, takes a second or more each.
SLOW = (
    "ptx-",
    "removed",
    "driver",
    "target",
    "big-endian",
    "scales-",
    "-order",
    "-first",
    "-v2-kernel",
    "missing-",
    "too-short",
    "specialised",
    "columns-rolled",
    "alpha-",
    "sign",
    "reference-",
    "overflow",
    "-zero",
    "gemm-a-b",
)
FAULTS = [
    pytest.param(area, fault, id=fault.name)
    for area, faults in AREAS.items()
    for fault in faults
    if not any(word in fault.name for word in SLOW) or fault.name in ("barrier-removed",)
]


@pytest.mark.parametrize(("area", "fault"), FAULTS)
def test_the_first_line_names_the_fault(area, fault) -> None:
    answer = ask(area, fault, 0)
    assert answer.right, answer.first_line


@pytest.mark.parametrize("fault", CHECKPOINT_CAUSES)
def test_the_first_line_names_what_is_wrong_with_a_checkpoint(fault: str) -> None:
    answer = ask_checkpoint(fault)
    assert answer.right, answer.first_line


def test_the_suite_is_large_and_every_cause_is_known() -> None:
    faults = [fault for area in AREAS.values() for fault in area]
    assert len({fault.name for fault in faults}) == len(faults) >= 100
    assert {fault.cause for fault in faults} | set(CHECKPOINT_CAUSES.values()) <= set(CAUSES)


def test_the_answer_for_people() -> None:
    case = w4a16(0).with_values(stride_am=512).case()
    assert str(explain(case)).splitlines()[:2] == [
        "strides-in-bytes: strides are in bytes instead of elements; with stride_am = 256 the "
        "result is right",
        "evidence: stride_am is 512: the bytes of the 256 elements that strides[0] of a has",
    ]


def test_a_sound_launch_is_called_sound() -> None:
    for case in (w4a16(1).case(), w4a16(2).case(expected={})):
        assert explain(case).suspects[0].cause == "none"


def test_a_wrong_result_of_a_sound_launch_is_sought_elsewhere() -> None:
    launch = w4a16(0)
    case = launch.case(found={"c": np.zeros_like(launch.expected)})
    found = explain(case)
    assert found.first_line.startswith("elsewhere: on the CPU the launch as it is computes")


def test_an_unknown_cause_is_called_unknown() -> None:
    launch = w4a16(0)
    found = explain(launch.but(expected=launch.expected[::-1] * 3).case(), seconds=2)
    assert found.first_line == "unknown: no known cause explains it"


def test_without_an_expected_result_the_checks_tell() -> None:
    found = explain(w4a16(0).with_values(M=136, N=5).case(expected={}))
    assert found.suspects[0].cause == "sizes-swapped"
    assert found.suspects[0].verdict == "mended"


def test_nonsense_crashes_nothing() -> None:
    random = np.random.default_rng(0)
    sound = w4a16(0).case()
    for _ in range(12):
        block = random.integers(0, 256, int(random.integers(0, 130)), dtype=np.uint8).tobytes()
        assert explain(replace(sound, block=block), seconds=0.5).suspects
    for text in ("", "x", ".version 7.0\n.target sm_80\n", sound.ptx[:5000]):
        assert explain(replace(sound, ptx=text), seconds=0.5).suspects


@pytest.mark.skipif(not hasattr(BaseException, "add_note"), reason="Python 3.11 brought notes")
def test_errors_say_which_arguments_are_too_many() -> None:
    device = fe.open_device("cpu")
    kernel, given = canonical.kernel(device), list(canonical.arguments(device).values())
    exchanged = [given[1], given[0], *given[2:]]
    for arguments, note in (
        ([*given, 0, 0], "the last 2 are the scratch pointers"),
        ([*given, 64], "a tl.constexpr is compiled in"),
        (exchanged, "pointers-swapped"),
    ):
        with pytest.raises(fe.AbiError) as raised:
            kernel.launch(canonical.CONFIG, *arguments)
        assert note in raised.value.__notes__[0]


def test_a_finer_reference_is_no_error() -> None:
    """People compute references in float32 or float64."""
    launch = w4a16(0)
    for dtype in (np.float32, np.float64):
        found = explain(launch.but(expected=launch.expected.astype(dtype)).case())
        assert found.first_line == "none: nothing is wrong"


def test_a_wrong_part_is_named() -> None:
    launch = w4a16(2)
    expected = launch.expected.copy()
    expected[16:, 3] += 5
    found = explain(launch.but(expected=expected).case(), seconds=0.1)
    assert found.wrong == "rows 16 to 20 of 21, column 3 of 200 of c"


def test_memory_that_an_output_had_before_is_no_input(tmp_path: Path) -> None:
    """Of a kernel that no sidecar describes: what it overwrites may have been anything."""
    folder, device = Path(examples.__file__).parent, fe.open_device("cpu")
    module = device.load_module(folder / "row_softmax.ptx", folder / "row_softmax.json")
    config = fe.LaunchConfig(grid=5, block=128, shared_bytes=16)
    out, x = np.full((5, 700), np.nan, np.float32), np.ones((5, 700), np.float32)
    for poisoned in (False, True):
        if poisoned:
            x[2, 3] = np.inf
        path = tmp_path / f"{poisoned}.ferrum"
        with fe.record(path):
            module.get_kernel().launch(config, out.copy(), x, 700)
        recording = fe.Recording(path)
        found = explain(Case.from_recording(recording, recording[0]), seconds=2)
        assert (found.suspects[0].cause == "input-not-finite") == poisoned


@pytest.mark.parametrize("before", [0, 3, np.nan])
def test_an_input_and_the_output_exchanged(tmp_path: Path, before: float) -> None:
    """Of a kernel that no sidecar describes: the result is looked for where the fix puts it."""
    folder, path = Path(examples.__file__).parent, tmp_path / "run.ferrum"
    device = fe.open_device("cpu")
    module = device.load_module(folder / "row_softmax.ptx", folder / "row_softmax.json")
    x = np.random.default_rng(0).standard_normal((5, 700)).astype(np.float32)
    expected = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    config = fe.LaunchConfig(grid=5, block=128, shared_bytes=16)
    with fe.record(path):  # out comes first
        module.get_kernel().launch(config, x.copy(), np.full_like(x, before), 700)
    recording = fe.Recording(path)
    case = Case.from_recording(recording, recording[0])
    found = explain(replace(case, expected={"row_softmax_param_0": expected}))
    assert found.first_line.startswith("pointers-swapped: two arrays are exchanged; with ")
    assert found.suspects[0].verdict == "proved"


def test_from_a_recording(tmp_path: Path) -> None:
    """A launch that names another group size than the weight's, recorded and explained."""
    device, path = fe.open_device("cpu"), tmp_path / "run.ferrum"
    arguments = canonical.arguments(device) | {"group_size": 2 * canonical.G}
    with record(path):
        canonical.kernel(device).launch(canonical.CONFIG, **arguments)
    recording = Recording(path)
    case = Case.from_recording(recording, recording.launches[0])
    expected = {"c": canonical.EXPECTED.astype(np.float16)}
    found = explain(replace(case, expected=expected))
    assert found.first_line == (
        "group-size-wrong: the group size is not the weight's; with group_size = 64 the result is "
        "right"
    )


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"M": 136, "N": 5}, "sizes-swapped: two integers are exchanged\n  M is 136 and N is 5"),
        ({"stride_am": 512}, "strides-in-bytes: .*\n  stride_am is 512: the bytes of the 256"),
        ({"group_size": 32}, "group-size-wrong: .*\n  group_size is 32, by K / 4 rows of scales"),
        ({"scales": np.zeros((4, 136), np.float32)}, "dtype-wrong: .*\n  scales is float32"),
        ({"Mm": 5}, "likely cause: Mm is misspelt for M"),
        ({"BLOCK_M": 64}, "likely cause: BLOCK_M is a constant of this build"),
        ({"qweight": np.zeros((256, 136), np.int8)}, "dtype-wrong: .*packed into int32, as its"),
    ],
)
@pytest.mark.skipif(not hasattr(BaseException, "add_note"), reason="Python 3.11 brought notes")
def test_errors_name_their_cause(changes, note: str) -> None:
    device = fe.open_device("cpu")
    arguments = canonical.arguments(device) | changes
    if "Mm" in changes:
        del arguments["M"]
    with pytest.raises(fe.AbiError) as raised:
        canonical.kernel(device).launch(canonical.CONFIG, **arguments)
    import re

    assert re.search(note, "\n".join(raised.value.__notes__), re.DOTALL), raised.value.__notes__


def test_the_codes_of_errors_about_files_are_causes() -> None:
    """`explain` goes by them: one that is no cause would be called unknown."""
    package = Path(fe.__file__).parent
    found = {
        keyword.value.value
        for path in [*(package / "gptq").rglob("*.py"), package / "abi" / "sidecar.py"]
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    }
    assert len(found) > 8
    assert found <= set(CAUSES)
