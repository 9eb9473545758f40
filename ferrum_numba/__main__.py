"""`python -m ferrum_numba` is `ferrum-numba`."""

from .cli import main

if __name__ == "__main__":
    main()
