"""Launch a Triton kernel that somebody else compiled: its PTX, its metadata, nothing else.

    python -m ferrum_numba.examples.launch_any_ptx

Both files are as Triton leaves them in its cache (~/.triton/cache, or `kernel.asm["ptx"]` and
`kernel.metadata` of a compiled kernel).  Neither Triton nor torch is needed here.
"""

from pathlib import Path

import numpy as np

import ferrum_numba as fe

HERE = Path(__file__).parent

# The GPU where one is usable, else the CPU: the same PTX runs on both.
device = fe.open_device()

# The sidecar, Triton's JSON, says what PTX does not: warps, shared memory, scratch.
module = device.load_module(HERE / "row_softmax.ptx", sidecar=HERE / "row_softmax.json")
kernel = module.get_kernel("row_softmax")

# What the entry expects, read from the PTX.  The last two pointers are Triton's own; they are
# filled in for us.
for p in kernel.signature.params:
    print(f"byte {p.offset:2}: .{p.ptx_type} {p.name} ({p.role})")

rows, columns = 5, 700
x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
x_there = device.to_device(x)
out = device.empty((rows, columns), np.float32)

# One CTA for each row.  Threads and shared memory have to be what the kernel was compiled for;
# wrong ones are refused, not tried.
config = fe.LaunchConfig(
    grid=rows, block=kernel.sidecar.num_warps * 32, shared_bytes=kernel.sidecar.shared_bytes
)

# By position, since neither file names the arguments.
kernel.launch(config, out, x_there, columns)

# Launches do not wait; to_host does.
found = device.to_host(out)
expected = np.exp(x - x.max(axis=1, keepdims=True))
expected /= expected.sum(axis=1, keepdims=True)
error = np.abs(found - expected).max()
print(f"{kernel.signature.entry} on {device.name}: largest error {error:.2g}")
if error > 1e-6:
    raise SystemExit("row_softmax is wrong")

# An argument that does not fit is refused before anything runs.
try:
    kernel.launch(config, out, x_there, 2**40)
except fe.AbiError as refusal:
    print(f"refused: {refusal}")
