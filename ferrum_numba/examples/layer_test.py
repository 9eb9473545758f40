"""Test single layers of a checkpoint against their own dequantised weights.

    python -m ferrum_numba.examples.layer_test [CHECKPOINT [LAYER ...]]

`ferrum-numba verify CHECKPOINT` does the same with more care and a report; this is what to start
from for a test of your own.
"""

import sys

import numpy as np

import ferrum_numba as fe

TOLERANCE = 1e-3  # relative: one rounding to float16 is 2**-11, about half of it


def error_of(layer: fe.GptqLinear, tensors: fe.GptqTensors, rows: int) -> float:
    """|y - reference| / |reference|, for `rows` random rows of x."""
    x = np.random.default_rng(rows).standard_normal((rows, layer.K)).astype(np.float16)
    y = layer(x)  # NumPy in, NumPy out, on any device
    # The reference: dequantised in NumPy, multiplied in float64.  It shares no code with the
    # kernels, so it is right even where they are wrong.
    reference = x.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    if tensors.bias is not None:
        reference += tensors.bias
    return float(np.linalg.norm(y - reference) / np.linalg.norm(reference))


device = fe.open_device()
checkpoint = fe.Checkpoint.open(
    sys.argv[1] if len(sys.argv) > 1 else fe.example_checkpoint(act_order=True, bias=True)
)
failed = 0
for name in sys.argv[2:] or checkpoint.layers:
    tensors = checkpoint.load(name)
    layer = fe.GptqLinear(tensors, device=device)
    # One row is a decode step, many are a prompt: the catalogue chooses kernels by the number.
    for rows in (1, 5, 64):
        error = error_of(layer, tensors, rows)
        verdict = "ok" if error <= TOLERANCE else "WRONG"
        failed += verdict != "ok"
        print(f"{verdict:5} {error:.1e} {name}: {rows} x {layer.K} @ {layer.K} x {layer.N}")
print(f"{device.name}: {failed} wrong")
sys.exit(failed > 0)
