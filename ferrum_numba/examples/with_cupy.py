"""A quantised layer between two steps of CuPy: no copies, one stream, no waiting in between.

    python -m ferrum_numba.examples.with_cupy

torch and JAX work the same way.  Without CuPy, or without a GPU, NumPy and the CPU device take
their place.
"""

import numpy as np

import ferrum_numba as fe

try:
    import cupy as xp

    device = fe.open_device("cuda")
    stream = xp.cuda.Stream(non_blocking=True)
except (ImportError, fe.DeviceError) as reason:
    print(f"on the CPU, with NumPy, since there is no CuPy or no GPU: {reason}")
    xp = np
    device, stream = fe.open_device("cpu"), None

NAME = "model.layers.0.mlp.up_proj"
tensors = fe.Checkpoint.open(fe.example_checkpoint()).load(NAME)
layer = fe.GptqLinear(tensors, device=device)


def feed(x, out):
    """silu(normalise(x) @ W), all on the stream that is CuPy's current one."""
    scaled = x / xp.sqrt(xp.mean(x.astype(np.float32) ** 2, axis=-1, keepdims=True) + 1e-6)
    # The layer reads CuPy's array where it lies and writes into CuPy's array.  `stream` is CuPy's
    # own; with another one the GPU, not the host, would wait for what CuPy still has to do.
    layer(scaled.astype(np.float16), out=out, stream=stream)
    return out / (1 + xp.exp(-out))


x = xp.asarray(np.random.default_rng(0).standard_normal((4, layer.K)), dtype=np.float16)
out = xp.empty((4, layer.N), np.float16)
if stream is None:
    y = feed(x, out)
else:
    stream.wait_event(xp.cuda.get_current_stream().record())  # x was made on the default stream
    with stream:
        y = feed(x, out)
    stream.synchronize()

# The same in NumPy, with the weight dequantised.
x, y = (np.asarray(a if stream is None else a.get(), np.float64) for a in (x, y))
gate = (x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)) @ tensors.dequantize()
expected = gate / (1 + np.exp(-gate))
error = np.linalg.norm(y - expected) / np.linalg.norm(expected)
print(f"{layer}: relative error {error:.1e}")
if error > 5e-3:
    raise SystemExit("the layer and NumPy differ")
