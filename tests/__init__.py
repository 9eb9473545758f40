"""Tests.  What is set here is set before NumPy is imported."""

import os

# Processes share the cores (pytest -n), and so do the CPU device's threads: those of BLAS would
# wait for work by spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
