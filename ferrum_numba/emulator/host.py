"""The machine that native code is made for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from .cache import Cache, key_of

_TELLING = {"vendor_id", "cpu family", "model", "stepping", "flags"}


@dataclass(frozen=True)
class Host:
    """A CPU in LLVM's terms, and what of it the lowering must know.

    half_conversion: converts binary16 to and from binary32 by itself.  Where it does not, LLVM
    would call library functions that a process may not have.
    half_arithmetic: adds, multiplies and fuses binary16 with one rounding.
    floats: of binary32 that a vector register holds, or two that go together.
    """

    triple: str
    cpu: str
    features: str
    half_conversion: bool
    half_arithmetic: bool
    floats: int

    @classmethod
    def of(cls, cpu: str, features: dict[str, bool], triple: str) -> Host:
        """A CPU with the given features on or off. triple: LLVM's, such as "x86_64-linux-gnu"."""
        arm = triple.startswith(("aarch64", "arm64"))
        # LLVM would rather use half of a 512-bit register on some CPUs; all our vectors are long.
        words = [("+" if on else "-") + name for name, on in features.items()]
        return cls(
            triple=triple,
            cpu=cpu,
            features=",".join([w for w in words if "prefer-256-bit" not in w]),
            half_conversion=arm or features.get("f16c", False),
            half_arithmetic=features.get("fullfp16" if arm else "avx512fp16", False),
            floats=16 if features.get("avx512f", False) else 8,
        )

    @classmethod
    def this(cls) -> Host:
        """The machine that this process runs on."""
        return _this()


@lru_cache(maxsize=1)
def _this() -> Host:
    """Answer of LLVM, or of the cache, which knows what LLVM said here before."""
    processor = _processor()
    cache = Cache.of_user() if processor else None
    key = key_of(compiler_version(), processor, "host")
    content = cache.load(key) if cache else None
    if content is not None:
        return Host(**json.loads(content))
    from .compiler import detect

    host = Host.of(*detect())
    if cache:
        cache.store(key, json.dumps(asdict(host)).encode())
    return host


def _processor() -> str:
    """The lines of /proc/cpuinfo that tell an x86 of one kind from others; "" elsewhere."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    except (OSError, ValueError):
        return ""
    lines = [line for line in first.splitlines() if line.partition("\t")[0].rstrip() in _TELLING]
    return "\n".join(lines) if len(lines) == len(_TELLING) else ""


@lru_cache(maxsize=1)
def compiler_version() -> str:
    """Text by which an llvmlite and its LLVM differ from others, told without loading them."""
    spec = find_spec("llvmlite")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("llvmlite is not installed, or not as files")
    folder = Path(spec.origin).parent
    sizes = [
        f"{file.name}: {file.stat().st_size}" for file in (folder / "binding").glob("*llvm*.*")
    ]
    return "\n".join([(folder / "_version.py").read_text(encoding="utf-8"), *sorted(sizes)])
