"""Kernels with one thing wrong in each, and what the checks find in them."""
