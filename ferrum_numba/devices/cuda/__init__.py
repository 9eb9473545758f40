"""NVIDIA GPUs: numba.cuda's arrays and streams, launches through the driver."""
