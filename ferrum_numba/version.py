"""Versions of installed packages, this one's among them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def version_of(distribution: str) -> str | None:
    """The version of a package on PyPI, as it is installed; None where it is not."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


# A checkout that was never installed has none.
__version__ = version_of("ferrum-numba") or "0+unknown"
