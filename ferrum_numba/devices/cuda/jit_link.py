"""nvJitLink, where it is installed: the driver's compiler as a library, for many threads at a time.

The driver compiles one PTX at a time, however many threads ask.  nvJitLink of the driver's own
CUDA version makes the same code of it, as many at a time as there are processors, but for what does
not suit a linker.

Source of the prototypes: nvJitLink's reference, "nvJitLink API".
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_void_p
from functools import lru_cache

from ...errors import PtxError
from .. import nvidia_packages

_PTX = 2  # NVJITLINK_INPUT_PTX
_PROTOTYPES = {
    "nvJitLinkVersion": (POINTER(c_uint), POINTER(c_uint)),
    "nvJitLinkCreate": (POINTER(c_void_p), c_uint32, POINTER(c_char_p)),
    "nvJitLinkAddData": (c_void_p, c_int, c_char_p, c_size_t, c_char_p),
    "nvJitLinkComplete": (c_void_p,),
    "nvJitLinkGetErrorLogSize": (c_void_p, POINTER(c_size_t)),
    "nvJitLinkGetErrorLog": (c_void_p, c_char_p),
    "nvJitLinkGetLinkedCubinSize": (c_void_p, POINTER(c_size_t)),
    "nvJitLinkGetLinkedCubin": (c_void_p, c_char_p),
    "nvJitLinkDestroy": (POINTER(c_void_p),),
}


class JitLink:
    """One version of the library.  Safe from any thread."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Raises AttributeError for a library that has not all of its functions."""
        for name, arguments in _PROTOTYPES.items():
            getattr(library, name).argtypes = arguments
        self._library = library
        major, minor = c_uint(), c_uint()
        library.nvJitLinkVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value

    def compile(self, text: str, architecture: str) -> bytes:
        """The cubin of PTX for an architecture, such as "sm_90a".

        Raises PtxError, with its log, for PTX that it refuses.
        """
        library, state = self._library, c_void_p()
        options = (c_char_p * 1)(f"-arch={architecture}".encode())
        code = library.nvJitLinkCreate(ctypes.byref(state), len(options), options)
        if code:
            raise PtxError("ptx", f"nvJitLink takes no {architecture} (error {code})")
        try:
            data, nbytes = text.encode() + b"\0", c_size_t()
            code = library.nvJitLinkAddData(state, _PTX, data, len(data), b"ptx")
            code = code or library.nvJitLinkComplete(state)
            if code:
                library.nvJitLinkGetErrorLogSize(state, ctypes.byref(nbytes))
                log = ctypes.create_string_buffer(nbytes.value + 1)
                library.nvJitLinkGetErrorLog(state, log)
                said = log.value.decode(errors="replace").strip()
                raise PtxError("ptx", f"nvJitLink refused it: {said or code}")
            library.nvJitLinkGetLinkedCubinSize(state, ctypes.byref(nbytes))
            cubin = ctypes.create_string_buffer(nbytes.value)
            library.nvJitLinkGetLinkedCubin(state, cubin)
            return cubin.raw
        finally:
            library.nvJitLinkDestroy(ctypes.byref(state))


def suits(text: str) -> bool:
    """False for PTX of which a linker, the driver's own too, makes slow code.

    It ignores setmaxnreg, since other parts may be linked to it (its remark C7504), and has wgmma
    wait for each product then (C7512): a quarter more time.
    """
    return "setmaxnreg" not in text


@lru_cache(maxsize=4)
def find(cuda: tuple[int, int]) -> JitLink | None:
    """The library of just this CUDA version; None where it is not installed."""
    for name in _names(cuda[0]):
        try:
            found = JitLink(ctypes.CDLL(name))
        except (OSError, AttributeError):
            continue
        if found.version == cuda:
            return found
    return None


def _names(major: int) -> Iterator[str]:
    """Places where it may be: packages of NVIDIA's on PyPI, and where the system looks."""
    library, of_windows = f"*/lib/libnvJitLink.so.{major}", f"*/bin/**/nvJitLink_{major}*.dll"
    yield from nvidia_packages.files(library, of_windows)
    yield f"libnvJitLink.so.{major}"
