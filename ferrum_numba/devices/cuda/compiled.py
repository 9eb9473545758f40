"""Compiled code that a user carries along: cubins of PTX, by its digest, GPU and driver.

A fresh machine has no cache of the driver's; what is found here need not be compiled.  PTX that is
not there, or was compiled for another GPU or by another driver, is compiled as ever.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from ...abi import ptx_digest
from ...errors import DeviceError

VARIABLE = "FERRUM_COMPILED"


class CompiledCode:
    """A folder of cubins for one kind of GPU and one version of the driver.

    Its files are run as they are: whoever may write to it decides what runs on the GPU.
    """

    def __init__(self, folder: Path, capability: tuple[int, int], cuda: tuple[int, int]) -> None:
        self.folder = folder
        self._kind = "sm_{}{}.cuda{}.{}".format(*capability, *cuda)

    @classmethod
    def named(cls, capability: tuple[int, int], cuda: tuple[int, int]) -> CompiledCode | None:
        """Code of the folder $FERRUM_COMPILED.  Raises DeviceError where it names none."""
        name = os.environ.get(VARIABLE)
        if not name:
            return None
        if not Path(name).is_dir():
            raise DeviceError(
                VARIABLE,
                "a folder that `ferrum-numba warm` has written",
                f"{name!r:.200}, which is none",
                "unset it, or write the folder again",
            )
        return cls(Path(name), capability, cuda)

    def path(self, text: str) -> Path:
        """The file of PTX text, whether it is there or not."""
        return self.folder / f"{ptx_digest(text)}.{self._kind}.cubin"

    def find(self, text: str) -> bytes | None:
        """The cubin of PTX text; None where there is none that can be read."""
        path = self.path(text)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            warnings.warn(f"{path}: {error}; the PTX is compiled instead", stacklevel=2)
            return None

    def store(self, text: str, cubin: bytes) -> Path:
        """Write the cubin of PTX text; it is there once it is whole."""
        path = self.path(text)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(cubin)
        part.replace(path)
        return path
