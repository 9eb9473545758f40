"""Layers, faults, mutants and opcodes that both `tests/` and `scripts/` go through.

The tests take a few of each, the scripts all of them.
"""
