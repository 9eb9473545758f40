"""Programs to start from: `python -m ferrum_numba.examples` lists them."""
