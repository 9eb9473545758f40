"""Embed quantised layers in a decode loop: load, warm up, capture once, replay for each token.

    python -m ferrum_numba.examples.decode_loop [CHECKPOINT]

No torch, no Triton, no compiler.  The same on the GPU and, where there is none, on the CPU.
"""

import sys

import numpy as np

import ferrum_numba as fe

TOKENS = 8

# ---- load: packed weights go to the device as they lie in the file ----
device = fe.open_device()
checkpoint = fe.Checkpoint.open(sys.argv[1] if len(sys.argv) > 1 else fe.example_checkpoint())
names = [f"model.layers.0.mlp.{part}" for part in ("up_proj", "down_proj")]
up, down = (fe.GptqLinear.load(checkpoint, name, device=device) for name in names)

# Buffers once, for one token at a time.  With `out=` a layer allocates nothing.
x = device.to_device(np.zeros((1, up.K), np.float16))
middle = device.empty((1, up.N), np.float16)
y = device.empty((1, down.N), np.float16)


def step(stream):
    """y = down(up(x)).  Launches do not wait for each other on the host, only on the stream."""
    up(x, out=middle, stream=stream)
    down(middle, out=y, stream=stream)


# ---- warm up: the first call loads the PTX, which a capture must not do ----
step(None)
device.synchronize()

# ---- capture: nothing runs here; the graph holds both layers' launches ----
with device.capture() as graph:
    step(graph.stream)
print(f"{graph}: {len(graph)} launches, one call")

# ---- decode ----
# In place of a model's other parts: a residual connection and a norm, in NumPy.
hidden = np.random.default_rng(0).standard_normal((1, up.K)).astype(np.float16)
reference = hidden.astype(np.float64)
weights = [checkpoint.load(name).dequantize().astype(np.float64) for name in names]
for token in range(TOKENS):
    device.write(x, hidden)
    graph.launch(graph.stream)  # reads what x holds now
    summed = hidden + device.to_host(y).astype(np.float64)  # to_host waits for the device
    hidden = (summed / np.sqrt((summed**2).mean())).astype(np.float16)

    expected = reference + reference @ weights[0] @ weights[1]
    reference = expected / np.sqrt((expected**2).mean())
    error = np.linalg.norm(hidden - reference) / np.linalg.norm(reference)
    print(f"token {token}: relative error {error:.1e}")
    if not error < 0.02:
        raise SystemExit("the layers and NumPy differ")
