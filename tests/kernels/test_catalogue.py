"""The catalogue of shipped builds, and the archives that their texts lie in."""

from __future__ import annotations

import json
import lzma
import shutil
import tracemalloc
from pathlib import Path

import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.kernels import catalogue
from ferrum_numba.kernels.archive import pack, unpack
from tests.campaigns.layers import random_tensors

CODE = "$L__BB0_3:\n\tadd.s32 %r12, %r7, %r123456;\n$L__tmp31:\n\tld.b32 %r8, [%rd5+16+%r0];\n"
TEXTS = {"b.sm_80": "// second\n" * 3, "a.sm_90": "// first\n", "empty": "", "code": CODE}


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ptx/ to damage, which the catalogue then reads."""
    copy = tmp_path / "ptx"
    shutil.copytree(kernels.folder(), copy)
    monkeypatch.setattr(catalogue, "folder", lambda: copy)
    return copy


def test_texts_come_back_as_they_were() -> None:
    packed = pack(TEXTS)
    assert unpack(packed, "x.xz") == TEXTS
    assert pack(dict(reversed(TEXTS.items()))) == packed


@pytest.mark.parametrize("text", ["mov.b32 %r, %r+4;", "mov.b32 %r007, 0;"])
def test_a_text_that_would_not_come_back(text: str) -> None:
    with pytest.raises(fe.AbiError, match="a.sm_80: expected registers such as %r12"):
        pack({"a.sm_80": text})


def test_every_build_is_found_by_its_fields() -> None:
    for build in kernels.builds():
        assert kernels.find(**build.fields) is build
        assert build.fields["kernel"] == build.sidecar.entry
        assert kernels.artefact(build.name) is build
    assert [build.name for build in kernels.builds()] == list(kernels.names())
    hopper = kernels.builds(kernel="w4a16_gptq_gemm_wgmma", dtype="bfloat16", GROUP=64)
    assert {build.fields["target"] for build in hopper} == {"sm_90a"}
    assert kernels.builds(kernel="w4a16_gptq_gemm_wgmma", BLOCK_M=7) == ()


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"kernel": "add_bias"}, "found add_bias.bf16.sm_80, add_bias.sm_80"),
        ({"kernel": "add_bias", "dtype": "float32"}, "dtype float32, found none"),
    ],
)
def test_not_one_build_but_none_or_several(fields: dict[str, str], found: str) -> None:
    with pytest.raises(fe.AbiError, match=f"kernel: expected one build with kernel .*{found}"):
        kernels.find(**fields)


def test_a_build_of_another_dtype() -> None:
    build = kernels.artefact("w4a16_gptq_gemm_decode.m8n32w4.g128.sm_90")
    other = kernels.of_dtype(build, "bfloat16")
    assert other.name == "w4a16_gptq_gemm_decode.bf16.m8n32w4.g128.sm_90"
    assert kernels.of_dtype(other, "float16") is build
    assert [p.type for p in build.sidecar.params[:3]] == ["*fp16", "*i32", "*fp16"]
    assert [p.type for p in other.sidecar.params[:3]] == ["*bf16", "*i32", "*bf16"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no xz", "cannot be unpacked"),
        (b"", "cannot be unpacked"),
        (pack({"another": "text"}), "expected w4a16_gptq_gemm_mma.* in it"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_archive(moved: Path, content: bytes | None, message: str) -> None:
    path = moved / "w4a16_gptq_gemm_mma.xz"
    path.unlink() if content is None else path.write_bytes(content)
    build = kernels.builds(kernel="w4a16_gptq_gemm_mma")[0]
    with pytest.raises(fe.AbiError, match=rf"{path.name}: {message}.*reinstall ferrum-numba"):
        _ = build.text
    assert kernels.canonical(1).text == fe.W4A16_PTX


def test_an_archive_holds_its_texts_deflated() -> None:
    content = (catalogue.folder() / "models.xz").read_bytes()
    size = len(lzma.decompress(content))
    tracemalloc.start()
    try:
        texts = unpack(content, "models.xz")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < size / 3
    assert sum(map(len, texts.values())) > size / 2


def test_an_archive_of_more_than_its_index() -> None:
    with pytest.raises(fe.AbiError, match=r"x.xz: expected 4 characters of PTX, found 6"):
        unpack(lzma.compress(b'{"a": 4}\n123456'), "x.xz")


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"k": {"builds": {"k": {}}}})])
def test_a_damaged_catalogue(moved: Path, content: str) -> None:
    (moved / "catalogue.json").write_text(content)
    with pytest.raises(fe.AbiError, match="catalogue.json: cannot be read as a catalogue"):
        kernels.names()


@pytest.mark.parametrize("zero_bias", [2, -1])
def test_a_zero_bias_that_no_format_has(zero_bias: int) -> None:
    tensors = random_tensors(64, 64, 64)
    device = fe.open_device("cpu")
    kernel = kernels.artefact("w4a16_gptq_gemm_decode.m8n32w4.g32.sm_80").kernel(device)
    arrays = (tensors.qweight, tensors.scales, tensors.qzeros)
    weight = fe.W4A16Weight(*arrays, 64, 64, 64, zero_bias)
    a, c = (device.empty((1, 64), tensors.scales.dtype) for _ in range(2))
    with pytest.raises(fe.AbiError, match="expected zero_bias == 0 or zero_bias == 1, found zero_"):
        fe.launch_w4a16_gptq(None, kernel, a, weight, c, 1)
