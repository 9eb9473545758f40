"""The machine that native code is made for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import llvmlite.binding as llvm


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

    def machine(self, effort: int = 2) -> llvm.TargetMachine:
        """LLVM's code generator for this CPU. effort: its level of optimisation, from 0 to 3."""
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu,
            features=self.features,
            opt=effort,
            reloc="static",
            codemodel="jitdefault",
            jit=True,
        )


@lru_cache(maxsize=1)
def _this() -> Host:
    features = dict(llvm.get_host_cpu_features())
    return Host.of(llvm.get_host_cpu_name(), features, llvm.get_process_triple())
