from __future__ import annotations

import pytest

from ferrum_numba import kernels
from ferrum_numba.abi import Sidecar
from ferrum_numba.report.builds import compare_builds, inspect_ptx
from tests.corpus import FILES, corpus_sidecar, corpus_text
from tests.ptx import ptx

CANONICAL = "w4a16_gptq_gemm_typed.v1.sm_80"


def inspected(text, sidecar=None):
    return inspect_ptx("k.ptx", text, Sidecar.read(sidecar), "k.json" if sidecar else None, None)


def shipped(name=CANONICAL, **changes):
    """A shipped kernel, its sidecar changed."""
    artefact = kernels.artefact(name)
    fields = artefact.declared | changes
    text = artefact.text
    if changes:  # its build comment and digest are of the unchanged one
        text = "\n".join(line for line in text.splitlines() if "ferrum-build" not in line)
        del fields["ptx_sha256"]
    found = inspected(text, fields)
    assert found.sidecar.verdict == "agrees", found.sidecar.reason
    return found


def of_corpus(name):
    sidecar = corpus_sidecar(name)
    known = sidecar.entry is not None
    return inspect_ptx(name, corpus_text(name), sidecar, name if known else None, None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_build_launches_as_itself(path):
    found = compare_builds(of_corpus(path.stem), of_corpus(path.stem))
    assert found.launches
    assert found.sentence == "yes: the two are the same text"
    assert found.changes == ()
    assert all(c.a == c.b for entry in found.entries for c in entry.families)
    assert not any(entry.opcodes or entry.sources for entry in found.entries)


def test_builds_that_launch_alike():
    found = compare_builds(shipped(), shipped("w4a16_gptq_gemm_typed.v2.sm_80"))
    assert found.launches
    assert found.sentence.startswith("yes: a launcher of A launches B; B computes something else")
    assert [c.subject for c in found.changes] == ["constants"]


@pytest.mark.parametrize(
    ("changes", "launches", "sentence"),
    [
        ({"shared": 16384}, False, "16384 bytes of dynamic shared memory, not 8192"),
        ({"shared": 4096}, True, "A's 8192 bytes of dynamic shared memory are more than B's 4096"),
        ({"grid": ["cdiv(N, BLOCK_N)", "cdiv(M, BLOCK_M)", "1"]}, False, "the grid is (cdiv(N"),
        (
            {"tile": {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32}},
            False,
            "the grid follows from BLOCK_M 128, not BLOCK_M 64",
        ),
        ({"constraints": ["M >= 1", "K % 64 == 0"]}, True, "B is only right for K % 64 == 0"),
        ({"global_scratch_size": 512}, False, "512 bytes of global scratch a CTA, not 0"),
        ({"launch_pdl": True}, False, "B asks for a programmatic launch"),
    ],
)
def test_what_the_sidecar_says(changes, launches, sentence):
    found = compare_builds(shipped(), shipped(**changes))
    assert found.launches == launches
    assert sentence in found.sentence


def test_other_names_and_types_of_parameters():
    fields = kernels.artefact(CANONICAL).declared
    fields["params"][0] |= {"type": "*bf16"}
    fields["params"][1] |= {"role": "output"}
    fields["params"][2] |= {"shape": ["K", "N"]}
    sentence = compare_builds(shipped(), shipped(params=fields["params"])).sentence
    for part in (
        "no: a is *bf16, not *fp16",
        "qweight is output and not input",
        "scales has shape (K, N), not (cdiv(K, group_size), N)",
    ):
        assert part in sentence


def test_triton_releases():
    old, new = (of_corpus(f"scale_add.triton-{v}.sm_80") for v in ("3.2.0", "3.9.0"))
    found = compare_builds(old, new)
    assert not found.launches
    assert found.sentence == (
        "no: parameter 5 (global scratch), parameter 6 (profile scratch) are new; "
        "the block has 48 bytes, not 32"
    )
    assert any(not change.needed and "(driver 575)" in change.what for change in found.changes)
    same = compare_builds(*(of_corpus(f"scale_add.triton-{v}.sm_80") for v in ("3.6.0", "3.9.0")))
    assert same.launches


def test_another_target_runs_the_same_launch():
    found = compare_builds(of_corpus("dot.triton-3.6.0.sm_80"), of_corpus("dot.triton-3.6.0.sm_90"))
    assert found.launches
    assert "B runs where sm_90a does, A where sm_80 does" in found.sentence
    (entry,) = found.entries
    assert {c.name.split()[0] for c in entry.tensor} == {"mma", "ldmatrix", "wgmma.mma_async"}
    assert entry.sources[0].name == "source/triton_kernels.py"


@pytest.mark.parametrize(
    ("params", "tail", "sentence"),
    [
        ([".param .u64 p", ".param .u32 n"], ".reqntid 128", "yes"),
        ([".param .u64 p", ".param .s32 n"], ".reqntid 128, 1, 1", "yes"),  # the same bits
        ([".param .u64 p", ".param .f32 n"], ".reqntid 128", "parameter 1 (.u32) is .f32, not .u"),
        ([".param .u32 n", ".param .u64 p"], ".reqntid 128", "parameter 0 (.u64) is .u32, not .u"),
        ([".param .u64 p"], ".reqntid 128", "parameter 1 (.u32) is gone"),
        ([".param .u64 p", ".param .u32 n"], ".reqntid 256", "256 threads a CTA, not 128"),
        ([".param .u64 p", ".param .u32 n"], ".reqntid 64, 2", "the block is (64, 2, 1), not (128"),
        ([".param .u64 p", ".param .u32 n"], ".maxntid 128", "B does not state its threads a CTA"),
        (
            [".param .u64 p", ".param .u32 n"],
            ".reqntid 128\n.reqnctapercluster 2, 1, 1",
            "clusters of 2 x 1 x 1 CTAs, not of 1 CTA",
        ),
    ],
)
def test_what_the_ptx_says(params, tail, sentence):
    a = inspected(ptx([".param .u64 p", ".param .u32 n"]))
    b = inspected(ptx(params, tail=tail, version="7.1"))
    found = compare_builds(a, b)
    assert sentence in found.sentence
    assert found.launches == (not found.sentence.startswith("no"))


def test_entries_by_name_or_the_only_one():
    two = ptx([], entry="first") + ptx([], entry="second").split("64\n", 1)[1]
    found = compare_builds(inspected(two), inspected(ptx([], entry="second")))
    assert (found.only_a, [e.a for e in found.entries]) == (("first",), ["second"])
    assert found.sentence == "no: B has no entry first"
    renamed = compare_builds(inspected(ptx([], entry="old")), inspected(ptx([], entry="new")))
    assert renamed.sentence == "no: the entry is new, not old"
