"""Compile the Triton and Gluon sources in scripts/kernels/ ahead of time into ptx/.

    python scripts/compile_ptx.py            # write all of ptx/
    python scripts/compile_ptx.py --check    # rebuild in memory, compare byte for byte
    python scripts/compile_ptx.py decode     # either of them for builds named so alone
    python scripts/compile_ptx.py models     # or for those of an archive

What is built is listed in scripts/ptx_builds/.  A build's text becomes a file of ptx/ or a part of
an archive; what its launcher must know becomes a row of ptx/catalogue.json.

Needs triton==3.6.0 (`pip install .[compile]`), no GPU and no torch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ptx_builds import BUILDS, Build
from ptx_builds.source import SOURCES, digest, load

from ferrum_numba.abi import Sidecar, Signature, driver_for_ptx, ptx_digest
from ferrum_numba.abi.expression import expression
from ferrum_numba.errors import AbiError
from ferrum_numba.kernels import Artefact, artefact, names
from ferrum_numba.kernels.archive import pack, unpack
from ferrum_numba.kernels.catalogue import typed

ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = ROOT / "ptx"
CATALOGUE = "catalogue.json"
TUNING = "w4a16_tuning.json"  # measured by scripts/tune.py, not compiled
TRITON_VERSION = "3.6.0"
_BITS = {"fp16": 16, "bf16": 16, "i32": 32}  # of an array's element that comes by a tensor map
# A barrier of warps, up to the next line that reaches shared memory, or jumps.
_MEETING = r"\tbar\.sync.*\n((?:(?!.*(?:bar\.sync|shared|global|\bbra\b)|\$L__BB).*\n)*?.*"
_AT_STAGES = re.compile(_MEETING + r"(?:wgmma\.fence|arrive\.expect_tx|cp\.async|mbarrier\.init))")
_BEFORE_ARRIVAL = re.compile(_MEETING + r"mbarrier\.arrive\.shared)")
# An arrival by a partition's first thread, behind a barrier of all, which the kernel has noted as
# one by each of its warps (release in wgmma_rings.py).
_NOTED = "// the next arrival: by warps"
_BY_WARPS = re.compile(
    rf"({_NOTED}\n(?:(?!.*\bbar\.sync).*\n)*?)\tbar\.sync.*\n"
    r"((?:\t//.*\n)?(?:\tand\.pred\s+%p\d+, |\t@))%p\d+"
    r"((?:, .*\n(?:\t//.*\n)?\t@%p\d+)? mbarrier\.arrive\.shared)"
)
_THREAD = re.compile(r"\tmov\.u32 \t%r\d+, %tid\.x;\n")
# The rows that a product takes, as wgmma_products.py notes them ahead of it, and the product.
_CROP = re.compile(r"// the next product: (?P<rows>\d+) rows$", re.MULTILINE)
_PRODUCT = re.compile(
    r"(\twgmma\.mma_async\S*?\.m64n)(\d+)(k16\.f32\S* \{)([^}]*)(\}.*)", re.DOTALL
)
# The first use of a kernel's table: store(global_smem + 4 * thread, 0).
_TABLE = re.compile(
    r"mov\.u32\s+(?P<tid>%r\d+), %tid\.x;\s+"
    r"and\.b32\s+(?P<thread>%r\d+), (?P=tid), (?P<last>\d+);"
    r"(?:(?!\bst\.shared|global_smem).)*"
    r"shl\.b32\s+(?P<offset>%r\d+), (?P=thread), 2;\s+"
    r"mov\.b32\s+(?P<base>%r\d+), global_smem;\s+"
    r"add\.s32\s+(?P<place>%r\d+), (?P=base), (?P=offset);\s+"
    r"st\.shared\.b32\s+\[(?P=place)\], 0;",
    re.DOTALL,
)


class Built(NamedTuple):
    """A build's place in ptx/: its archive, PTX, and its row, which is a sidecar and the dtype."""

    name: str
    archive: str | None
    text: str
    row: dict[str, Any]


def compile_build(build: Build) -> Built:
    """The PTX of a build, and what the catalogue says of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    if triton.__version__ != TRITON_VERSION:
        raise SystemExit(f"triton: expected {TRITON_VERSION}, found {triton.__version__}")
    source = SOURCES / f"{build.kernel}.py"
    kernel = getattr(load(source.stem), build.kernel)
    constants = build.tile | build.constants
    params = typed(build.params, build.dtype)
    arguments = _arguments(params, build)
    signature = arguments | dict.fromkeys(constants, "constexpr")
    aligned = {
        (list(arguments).index(p["name"]),): [["tt.divisibility", p["align"]]]
        for p in params
        if "align" in p
    }
    language = GluonASTSource if kernel.is_gluon() else ASTSource
    compiled = triton.compile(
        language(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", int(re.sub(r"\D", "", build.target)), 32),
        options={
            "num_warps": build.num_warps,
            "num_stages": build.num_stages,
            "ptx_version": int(build.ptx_version.replace(".", "")),
            "maxnreg": build.max_registers,
        },
    )
    text = compiled.asm["ptx"]
    if build.even_registers:  # Triton moves registers to and fro all the same, which takes time
        text = re.sub(r"^\tsetmaxnreg\..*\n", "", text, flags=re.MULTILINE)
    text = _cropped(text, build)
    if build.own_order:
        text = _own_order(text, build)
    text = _portable(text, build, compiled.metadata.shared)
    row = {"dtype": build.dtype, **_sidecar(build, text, compiled.metadata, source)}
    _check(Artefact(build.name, build.archive, {}, row).sidecar, text, build)
    return Built(build.name, build.archive, text, row)


def _arguments(params: Sequence[Mapping[str, Any]], build: Build) -> dict[str, str]:
    """The kernel's arguments and their types, in Triton's terms.

    A tensor map is one, and stands for itself and what Triton puts behind it in the PTX.
    """
    types = {p["name"]: p["type"] for p in params}
    found = dict(types)
    names = list(types)
    for p in params:
        if p["role"] == "tensor_map":
            box = [expression(rule)(build.tile) for rule in p["box"]]
            element = types[p["of"]].removeprefix("*")
            layout = f"NVMMASharedLayout({p['swizzle']}, {_BITS[element]}, {len(box)})"
            found[p["name"]] = f"tensordesc<{element}{box},{layout}>"
            after = names.index(p["name"]) + 1
            for name in names[after : after + 2 * len(box)]:
                del found[name]
    return found


def _cropped(text: str, build: Build) -> str:
    """The PTX with products of as many rows as the kernel has noted (wgmma_products.py).

    Sums lie by rows, so that those of the others are in the last registers.
    """
    lines = text.splitlines(keepends=True)
    rows = 0
    for i, line in enumerate(lines):
        if note := _CROP.search(line):
            rows = int(note["rows"])
        elif "wgmma.commit_group" in line:
            rows = 0
        elif rows and (product := _PRODUCT.match(line)):
            head, _, kind, sums, rest = product.groups()
            own = sums.split(",")
            if not 0 < rows // 2 < len(own) or rows % 8:
                raise SystemExit(f"{build.name}: expected a product of over {rows} rows")
            lines[i] = f"{head}{rows}{kind}{','.join(own[: rows // 2])}{rest}"
    text = "".join(lines)
    return _without_zeros(text) if _CROP.search(text) else text


def _without_zeros(text: str) -> str:
    """The PTX without registers that are never anything but zero: sums that no product adds to."""
    text = re.sub(r"^\t// wait for regs:.*\n", "", text, flags=re.MULTILINE)
    moves = re.compile(r"^\tmov\.b32 \t(%r\d+), (%r\d+|0);$", re.MULTILINE)
    others = set(re.findall(r"%r\d+", moves.sub("", text)))
    known: dict[str, list[str]] = {}
    for to, source in moves.findall(text):
        known.setdefault(to, []).append(source)
    found = known.keys() - others
    while left := {to for to in found if not all(s == "0" or s in found for s in known[to])}:
        found -= left
    # What others are set to stays.
    while needed := {s for to, of in known.items() if to not in found for s in of} & found:
        found -= needed
    return re.sub(
        r"^\tmov\.b32 \t(%r\d+), (?:%r\d+|0);\n",
        lambda move: "" if move[1] in found else move[0],
        text,
        flags=re.MULTILINE,
    )


def _own_order(text: str, build: Build) -> str:
    """The PTX without the barriers that Triton puts at the stages of a ring.

    In front of products and of copies into the ring it makes all warps of a partition meet, since
    it does not see that the ring's mbarriers order these already: each thread that reads a stage or
    fills one waits for its mbarrier itself, and each that fills one arrives itself.  Such barriers
    hold up warps that would run ahead.  So do those between initialisations of mbarriers, all of
    which one thread does.  Where one thread arrives for its whole partition, the others have to be
    done before, and the barrier stays; or the first lane of each warp arrives, as soon as its warp
    is done, where the kernel has noted so.
    """
    text, stripped = _AT_STAGES.subn(r"\1", text)
    text, released = _BY_WARPS.subn(r"\1\2%first_lane\3", text)
    if released:
        text = text.replace("\n{\n", "\n{\n\t.reg .pred \t%first_lane;\n\t.reg .b32 \t%lane;\n", 1)
        first = "\tmov.u32 \t%lane, %laneid;\n\tsetp.eq.b32 \t%first_lane, %lane, 0;\n"
        text = _THREAD.sub(lambda found: found[0] + first, text, count=1)
    arrivals = text.count("mbarrier.arrive.shared") - released
    if released != text.count(_NOTED):
        raise SystemExit(
            f"{build.name}: expected {text.count(_NOTED)} arrivals by warps: {released}"
        )
    if not stripped or len(_BEFORE_ARRIVAL.findall(text)) != arrivals:
        raise SystemExit(
            f"{build.name}: expected barriers at the ring's stages, and one in front of each of "
            f"{arrivals} arrivals; took out {stripped}"
        )
    return text


def _portable(text: str, build: Build, shared: int) -> str:
    """The PTX with nothing in it that depends on where it was compiled.

    `.loc` lines stay, but for comments that say the same again, and `.file` names the source
    relative to the repository: they map PTX back to the kernel's source.  The DWARF sections go,
    since their bytes spell out absolute folders; `.loc` works without them.  Triton writes sm_90a
    wherever it compiles for sm_90; what needs no more than sm_90 runs on later GPUs, too.
    """
    text = re.sub(r"^\.target \S+", f".target {build.target}", text, flags=re.MULTILINE)
    text = re.sub(r"^(\t\.loc\t[^/\n]*?) *//.*", r"\1", text, flags=re.MULTILINE)
    if build.archive is not None:  # comments of the back end take room
        text = re.sub(r"^\s*//.*\n|[ \t]*//.*", "", text, flags=re.MULTILINE)
    text = re.sub(r'(\.file\s+\d+\s+)"([^"]*)"', lambda m: f'{m[1]}"{_relative(m[2])}"', text)
    text = re.sub(r"\t\.section\s+\.debug_\w+\s*\{.*?\}\n", "", text, flags=re.DOTALL)
    if str(ROOT) in text or re.search(r'"/|\.section', text):
        raise SystemExit(f"{build.name}: an absolute path or a DWARF section is left")
    built = {
        "tile": build.tile,
        "constants": build.constants,
        "num_stages": build.num_stages,
        "shared": shared,
    }
    return f"// ferrum-build: {json.dumps(built)}\n{text}"


def _relative(path: str) -> str:
    """A source file as everyone has it: ours from the repository, Triton's from its package."""
    file = Path(path)
    if file.is_relative_to(SOURCES):  # an environment may lie in the repository, too
        return file.relative_to(ROOT).as_posix()
    if "triton" in file.parts:
        return Path(*file.parts[file.parts.index("triton") :]).as_posix()
    return file.name


def _sidecar(build: Build, text: str, metadata: Any, source: Path) -> dict[str, Any]:
    """The sidecar's JSON, with *T for the dtype."""
    scratch = {
        "global_scratch_size": metadata.global_scratch_size,
        "global_scratch_align": metadata.global_scratch_align,
        "profile_scratch_size": metadata.profile_scratch_size,
        "profile_scratch_align": metadata.profile_scratch_align,
    }
    ptx_version = Signature.from_ptx(text).ptx_version
    return {
        "name": build.kernel,
        "target": build.target,
        "ptx_version": ".".join(map(str, ptx_version)),
        "min_driver": driver_for_ptx(ptx_version),
        "num_warps": metadata.num_warps,  # also those of specialised warps
        "num_ctas": metadata.num_ctas,
        "num_stages": build.num_stages,
        "shared": metadata.shared,
        **scratch,
        **({"launch_pdl": True} if build.programmatic else {}),
        "tile": build.tile,
        "constants": build.constants,
        "grid": build.grid,
        "constraints": build.constraints,
        "params": [
            *build.params,
            {"name": "global_scratch", "type": "*i8", "role": "global_scratch"},
            {"name": "profile_scratch", "type": "*i8", "role": "profile_scratch"},
        ],
        "triton_version": TRITON_VERSION,
        "source": source.relative_to(ROOT).as_posix(),
        "source_sha256": digest(source),
        "ptx_sha256": ptx_digest(text),
    }


def _check(sidecar: Sidecar, text: str, build: Build) -> None:
    """The package itself must accept what is written here, and the kernel find its table."""
    signature = Signature.from_ptx(text, build.kernel)
    sidecar.check(text, signature)
    sidecar.declare(signature)
    if build.table:
        _check_table(text, build)


def _check_table(text: str, build: Build) -> None:
    """The first that is stored to shared memory is the table, from where that begins on."""
    first = _TABLE.search(text.partition("bar.sync")[0])
    if first is None or int(first["last"]) != build.num_warps * 32 - 1:
        raise SystemExit(
            f"{build.name}: expected the first store to shared memory to be the table's, of a zero "
            "a thread from where global_smem begins on, since the kernel's assembly reads the "
            "table there; found none such: allocate and use the table before anything else"
        )


def shipped(name: str) -> Built:
    """A build as it lies in ptx/."""
    known = artefact(name)
    return Built(name, known.archive, known.text, {**known.record, **known.row})


def contents(builds: Mapping[str, Built]) -> dict[str, bytes]:
    """The files of ptx/ by name."""
    files = {CATALOGUE: _catalogue(builds).encode()}
    archives: dict[str, dict[str, str]] = {}
    for build in builds.values():
        if build.archive is None:
            files[f"{build.name}.ptx"] = build.text.encode()
        else:
            archives.setdefault(build.archive, {})[build.name] = build.text
    return files | {f"{name}.xz": pack(texts) for name, texts in archives.items()}


def _catalogue(builds: Mapping[str, Built]) -> str:
    """A record a kernel, of what all its builds say alike, and a row a build of the rest."""

    def kernel_of(build: Built) -> str:
        return str(build.row["name"])

    kernels = []
    ordered = sorted(builds.values(), key=lambda build: (kernel_of(build), build.name))
    for kernel, group in groupby(ordered, kernel_of):
        its = list(group)
        first = its[0].row
        shared = {
            key: value
            for key, value in first.items()
            if key != "dtype" and all(b.row.get(key) == value for b in its)
        }
        rows = {b.name: {k: v for k, v in b.row.items() if k not in shared} for b in its}
        record = [f"    {json.dumps(k)}: {_value(k, v)}" for k, v in shared.items()]
        lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
        kernels.append(
            f' {json.dumps(kernel)}: {{\n  "archive": {json.dumps(its[0].archive)},\n'
            '  "record": {\n' + ",\n".join(record) + "\n  },\n"
            '  "builds": {\n' + ",\n".join(lines) + "\n  }\n }"
        )
    return "{\n" + ",\n".join(kernels) + "\n}\n"


def _value(key: str, value: object) -> str:
    """JSON, with one line a parameter: readable, and diffs stay small."""
    if key != "params" or not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"      {json.dumps(row)}" for row in value) + "\n    ]"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with ptx/, write nothing")
    parser.add_argument("--processes", type=int, help="default: as many as there are cores")
    parser.add_argument(
        "part",
        nargs="?",
        default="",
        help="of the names of the builds to compile, or their archive",
    )
    arguments = parser.parse_args()
    part = arguments.part
    wanted = [build for build in BUILDS if part in build.name or part == build.archive]
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(arguments.processes) as pool,
    ):
        os.environ["TRITON_CACHE_DIR"] = cache  # what is cached elsewhere proves nothing
        fresh = {built.name: built for built in pool.map(compile_build, wanted)}
    listed = {build.name for build in BUILDS}
    kept = listed - fresh.keys() & set(names()) if arguments.part else set()
    files = contents({name: shipped(name) for name in kept} | fresh)
    if arguments.check:
        return compare(files, fresh)
    ARTEFACTS.mkdir(exist_ok=True)
    for path in ARTEFACTS.iterdir():
        if path.name not in {*files, TUNING}:
            path.unlink()
            print(f"{path.name}: removed")
    for name, content in files.items():
        (ARTEFACTS / name).write_bytes(content)
        print(f"{name}: {len(content)} bytes")
    return 0


def compare(files: dict[str, bytes], fresh: Mapping[str, Built]) -> int:
    """Print each file of ptx/, and each text, that differs from its rebuild; 1 if there is any."""
    found = {path.name: path.read_bytes() for path in ARTEFACTS.iterdir() if path.name != TUNING}
    stale = sorted(n for n in found.keys() | files.keys() if found.get(n) != files.get(n))
    texts: dict[str, str] = {}
    for name in stale:
        print(f"{name}: differs from its rebuild from source; run scripts/compile_ptx.py")
        if name.endswith(".xz") and name in found:
            try:
                texts |= unpack(found[name], name)
            except AbiError as error:
                print(error)
    for name, built in fresh.items():
        if name in texts and texts[name] != built.text:
            print(f"  {built.archive}.xz: {name}: other PTX")
    print(f"{len(fresh)} builds rebuilt, {len(stale)} files of ptx/ differ")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
