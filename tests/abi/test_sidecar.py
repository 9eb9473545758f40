from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.ptx import ptx

SHIPPED = kernels.artefact("w4a16_gptq_gemm_typed.v1.sm_80").declared
SIGNATURE = fe.Signature.from_ptx(fe.W4A16_PTX)

# What triton 3.6 itself writes beside a kernel, shortened to the keys that differ in kind.
TRITON = {
    "hash": "deadbeef",
    "target": {"backend": "cuda", "arch": 80, "warp_size": 32},
    "num_warps": 4,
    "num_ctas": 1,
    "num_stages": 1,
    "cluster_dims": [1, 1, 1],
    "ptx_version": None,
    "enable_fp_fusion": True,
    "shared": 8192,
    "tmem_size": 0,
    "global_scratch_size": 0,
    "global_scratch_align": 1,
    "profile_scratch_size": 0,
    "profile_scratch_align": 1,
    "name": "w4a16_gptq_gemm_typed",
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**SHIPPED, **changes}


def test_the_shipped_sidecar_fits() -> None:
    sidecar = fe.Sidecar.read(SHIPPED)
    sidecar.check(fe.W4A16_PTX, SIGNATURE)
    signature = sidecar.declare(SIGNATURE)
    assert [p.name for p in signature.params][:9] == [
        "a", "qweight", "scales", "qzeros", "c", "M", "N", "K", "group_size"
    ]  # fmt: skip
    assert [p.name for p in signature.scratch] == ["global_scratch", "profile_scratch"]
    assert len(signature.arguments) == 19


def test_tritons_own_metadata_is_a_sidecar() -> None:
    sidecar = fe.Sidecar.read(TRITON)
    sidecar.check(fe.W4A16_PTX, SIGNATURE)
    signature = sidecar.declare(SIGNATURE)
    assert [p.role for p in signature.params[-3:]] == [
        "argument", "global_scratch", "profile_scratch"
    ]  # fmt: skip
    assert (sidecar.shared_bytes, sidecar.num_warps) == (8192, 4)


def test_older_metadata_has_fewer_scratch_pointers() -> None:
    only_global = {k: v for k, v in TRITON.items() if not k.startswith("profile")}
    declared = fe.Sidecar.read(only_global).declare(SIGNATURE)
    assert [p.role for p in declared.scratch] == ["global_scratch"]
    none = {k: v for k, v in only_global.items() if not k.startswith("global")}
    assert fe.Sidecar.read(none).declare(SIGNATURE).scratch == ()


def test_text_path_mapping_and_cache(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    path.write_text(json.dumps(TRITON))
    from_path = fe.Sidecar.read(path)
    assert fe.Sidecar.read(str(path)) is from_path, "parsed once"
    assert fe.Sidecar.read(path.read_text()) is from_path
    assert fe.Sidecar.read({"shared_mem": 64}).shared_bytes == 64
    assert fe.Sidecar.read(None).params == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "other"},
            "name: expected w4a16_gptq_gemm_typed, as the PTX says, found other in",
        ),
        ({"num_warps": 8}, r"num_warps: expected 128 threads, .*, found 8 \(256 threads\)"),
        ({"target": "sm_90a"}, "target: expected sm_80, as the PTX says, found sm_90a"),
        ({"ptx_version": "8.0"}, r"ptx_version: expected 7\.0, as the PTX says, found 8\.0"),
        ({"ptx_sha256": "0" * 64}, "ptx_sha256: expected .*, found 0000000000000000…"),
        ({"shared": 4096}, "shared: expected 8192, with which the PTX was built, found 4096"),
        ({"num_stages": 3}, "num_stages: expected 1, with which the PTX was built, found 3"),
        (
            {"tile": {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32}},
            "tile: expected .*64.*, with which the PTX was built, found .*128",
        ),
        (
            {"constants": {"ZERO_BIAS": 0}},
            "constants: expected .*1.*, with which the PTX was built, found .*0",
        ),
    ],
)
def test_disagreement_names_both_sides(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(fe.AbiError, match=message):
        fe.Sidecar.read(changed(**changes)).check(fe.W4A16_PTX, SIGNATURE)


def with_params(change: Any) -> dict[str, Any]:
    params = [dict(p) for p in SHIPPED["params"]]
    change(params)
    return changed(params=params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop(0), "expected the PTX's 21 parameters .*, found 20"),
        (lambda p: p.insert(5, p[5]), "found 22"),
        (
            lambda p: p[5].update(type="i64"),
            r"parameter 5 \(M\): .* .u32 \(4 bytes\), found i64 \(8 bytes\)",
        ),
        (
            lambda p: p[0].update(type="i64", shape=[], strides=[]),
            r"\(a\): .*PTX.s .u64 .ptr .*, found i64",
        ),
        (lambda p: p[19].update(name="M"), "M: expected one declaration"),
        (lambda p: p[5].update(type="int"), "found 'int'"),
    ],
)
def test_declared_parameters_against_the_ptx(change: Any, message: str) -> None:
    with pytest.raises(fe.AbiError, match=message):
        fe.Sidecar.read(with_params(change)).declare(SIGNATURE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "sidecar"),
        ({"num_warps": "4"}, "num_warps: expected an integer from 1 to 32, found '4'"),
        ({"num_warps": 0}, "num_warps"),
        ({"shared": -1}, "shared"),
        ({"shared": 1, "shared_mem": 2}, "shared: expected the same number as shared_mem's"),
        ({"target": "hip"} | {"target": {"backend": "hip", "arch": "gfx90a"}}, "target"),
        ({"ptx_version": "new"}, "ptx_version"),
        ({"name": 3}, "name: expected a string"),
        ({"grid": ["1", "1"]}, "grid: expected three"),
        ({"grid": "1"}, "grid: expected a list"),
        ({"constraints": [1]}, "expected an expression"),
        ({"tile": {"BLOCK_M": "64"}}, "tile"),
        (changed(constraint=["M > 0"]), "unknown key constraint"),
        (changed(constraints=["Q > 0"]), "'Q > 0': expected names of integer .*, found Q"),
        (with_params(lambda p: p[0].update(role="in")), "a: role: expected one of"),
        (with_params(lambda p: p[0].update(shape=["M"])), "a: .*1 extents but 2 strides"),
        (with_params(lambda p: p[0].update(dtype="f16")), r"params\[0\]: .*unknown key dtype"),
        (with_params(lambda p: p.__setitem__(0, "a")), r"params\[0\]: expected name, type"),
        ({"name": {1, 2}}, "expected JSON values"),
    ],
)
def test_what_cannot_be_read(content: Any, message: str) -> None:
    with pytest.raises(fe.AbiError, match=message):
        fe.Sidecar.read(content)


def test_a_missing_file() -> None:
    with pytest.raises(fe.AbiError, match=r"nowhere.json: cannot be read"):
        fe.Sidecar.read("nowhere.json")


def test_too_few_parameters_for_scratch() -> None:
    signature = fe.Signature.from_ptx(ptx([".param .u32 n"]))
    with pytest.raises(fe.AbiError, match="global_scratch and profile_scratch"):
        fe.Sidecar.read(TRITON).declare(signature)
