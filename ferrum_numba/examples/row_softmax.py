"""A Triton kernel that knows nothing of ferrum_numba; launch_any_ptx.py launches it.

Where Triton is installed, this compiles it again, without a GPU, into row_softmax.ptx and
row_softmax.json, Triton's own metadata; line information would name folders of this machine:

    TRITON_DISABLE_LINE_INFO=1 python -m ferrum_numba.examples.row_softmax
"""

import json
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def row_softmax(out, x, columns, BLOCK: tl.constexpr):
    """out[row] = softmax(x[row]), one row a CTA, at most BLOCK columns."""
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    values = tl.load(x + row * columns + column, mask=inside, other=-float("inf"))
    values = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * columns + column, values / tl.sum(values, axis=0), mask=inside)


if __name__ == "__main__":
    types = {"out": "*fp32", "x": "*fp32", "columns": "i32", "BLOCK": "constexpr"}
    kernel = triton.compile(
        ASTSource(row_softmax, signature=types, constexprs={"BLOCK": 1024}),
        target=GPUTarget("cuda", 80, 32),  # runs on every newer GPU, too
        options={"num_warps": 4, "ptx_version": 80},
    )
    metadata = kernel.metadata._asdict()
    metadata["target"] = metadata["target"].__dict__
    del metadata["extern_libs"]  # names a folder of this machine
    files = Path(__file__)
    files.with_suffix(".ptx").write_text(kernel.asm["ptx"])
    files.with_suffix(".json").write_text(json.dumps(metadata, indent=1) + "\n")
