"""Look for PTX text that the translation to native code cannot refuse in an orderly way.

    python scripts/fuzz_ptx.py --seconds 60 [--seed 0] [--workers 2] [--found fuzz-found]

Mutates the shipped PTX and the tests' PTX (characters, tokens, operands, opcodes, lines).  Half of
the results are compiled for several CPUs, where only PtxError and AbiError may come out; half are
launched with checks on and few steps, where LaunchError may too.  Each worker is a process of its
own, so a crash of LLVM or of a kernel is seen, and one that hangs is ended; the text is saved.
Exits 1 where anything was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from ferrum_numba import kernels
from ferrum_numba.abi import Signature
from ferrum_numba.emulator import Job, Program
from ferrum_numba.emulator.checks import CHECKS, CheckedProgram, LaunchArray
from ferrum_numba.emulator.host import Host
from ferrum_numba.errors import AbiError, FerrumError, LaunchError, PtxError

ROOT = Path(__file__).resolve().parent.parent
# What one text may take: the longest of the corpus needs 4 s with all checks on an idle machine.
HANG_SECONDS = 120.0
DATA = ROOT / "tests" / "emulator" / "data"

# -- mutations: text -> text ------------------------------------------------------------------

Mutation = Callable[[str, random.Random], str]
_TOKEN = re.compile(r"[%$\w.]+|[^\s\w]")
_OPERAND = re.compile(r"%[\w.]+|(?<![\w.%])-?\d\w*|\[[^\]\n]*\]|\{[^}\n]*\}|\$\w+")
_OPCODE = re.compile(r"^(\s*(?:@!?%\w+\s+)?)([a-z][\w.:]*)", re.M)
_ODD_NUMBERS = [0, 1, -1, 31, 32, 33, 255, 65535, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 64, 10**30]
_ODD_TEXT = ["", "_", "0", "%p1", "%tid.x", "{", "}", "[", "]", ";", ",", "\0", "é", "0f7FC00000"]
_SUFFIXES = "u8 s16 b16 u32 s32 f32 b64 u64 f64 f16 f16x2 bf16 bf16x2 pred b128 v2 v4 v8 wide lo hi"
_SUFFIXES += " sat ftz rn rz rni rzi approx sync aligned shared global param x1 x4 trans eq ltu NaN"


def _replace(text: str, found: re.Match[str], by: str) -> str:
    return text[: found.start()] + by + text[found.end() :]


def _pick(pattern: re.Pattern[str], text: str, rng: random.Random) -> re.Match[str] | None:
    """A match, most often from the body, where the instructions are."""
    brace = text.find("{")
    start = rng.randrange(max(brace, 0), len(text)) if text else 0
    return pattern.search(text, start) or pattern.search(text)


def character(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    new = rng.choice(["", chr(rng.randrange(32, 127)), rng.choice(_ODD_TEXT), "\n"])
    return text[:at] + new + text[at + rng.randrange(2) :]


def token(text: str, rng: random.Random) -> str:
    a, b = _pick(_TOKEN, text, rng), _pick(_TOKEN, text, rng)
    if a is None or b is None:
        return text
    return _replace(text, a, rng.choice([b[0], "", a[0] * 2, rng.choice(_ODD_TEXT)]))


def operand(text: str, rng: random.Random) -> str:
    a, b = _pick(_OPERAND, text, rng), _pick(_OPERAND, text, rng)
    if a is None or b is None:
        return text
    for _ in range(rng.choice([0, 8])):  # most often of the same kind, so that it compiles
        if b[0][:3].rstrip("0123456789") != a[0][:3].rstrip("0123456789"):
            b = _pick(_OPERAND, text, rng) or b
    return _replace(text, a, rng.choice([b[0], str(rng.choice(_ODD_NUMBERS)), b[0], f"-{a[0]}"]))


def opcode(text: str, rng: random.Random) -> str:
    a, b = _pick(_OPCODE, text, rng), _pick(_OPCODE, text, rng)
    if a is None or b is None:
        return text
    parts = a[2].split(".")
    at = rng.randrange(len(parts))
    changed = rng.choice(
        [
            b[2],
            ".".join([*parts[:at], rng.choice(_SUFFIXES.split()), *parts[at + 1 :]]),
            ".".join([*parts[:at], *parts[at + 1 :]]),
            f"{a[2]}.{rng.choice(_SUFFIXES.split())}",
            ".".join([b[2].split(".")[0], *parts[1:]]),
        ]
    )
    return _replace(text, a, a[1] + changed)


def line(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[a]
    elif kind == 1:
        lines.insert(b, lines[a])
    elif kind == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 3:
        del lines[min(a, b) : max(a, b)]
    else:
        return text[: rng.randrange(len(text) + 1)]
    return "\n".join(lines)


def excerpt(text: str, rng: random.Random) -> str:
    """Few of the body's lines, with all declarations: what is left compiles fast."""
    lines = text.split("\n")
    start = next((i for i, t in enumerate(lines) if t.startswith("{")), 0)
    end = next((i for i, t in enumerate(lines) if t.startswith("}")), len(lines))
    body = [t for t in lines[start + 1 : end] if not t.lstrip().startswith((".loc", "//"))]
    first, count = rng.randrange(len(body) + 1), rng.choice([5, 20, 60])
    chosen = set(rng.sample(body, min(len(body), rng.choice([0, 10]))))
    kept = [
        t
        for i, t in enumerate(body)
        if ".reg" in t or first <= i < first + count or t in chosen or t.rstrip().endswith(":")
    ]
    return "\n".join([*lines[: start + 1], *kept, "ret;", *lines[end:]])


MUTATIONS: list[Mutation] = [character, token, operand, operand, opcode, opcode, line]


def mutate(corpus: list[str], rng: random.Random) -> str:
    text = rng.choice(corpus)
    if rng.random() < 0.9:
        text = excerpt(text, rng)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        text = rng.choice(MUTATIONS)(text, rng)
    return text


# -- trying one text --------------------------------------------------------------------------


def hosts() -> list[Host]:
    """This machine, and on x86 also older ones."""
    this = Host.this()
    if not this.triple.startswith("x86_64"):
        return [this]
    haswell = Host.of("haswell", {"avx2": True, "f16c": True, "fma": True}, this.triple)
    return [this, this, haswell, Host.of("x86-64", {}, this.triple)]


def compile_entry(text: str, entry: str, rng: random.Random) -> str:
    Program.compile(text, entry, rng.choice(hosts()))
    return "compiled"


def launch_entry(text: str, entry: str, rng: random.Random) -> str:
    """Launch with checks on; 64-bit parameters lead to an array, others are small numbers."""
    checks = rng.choice([("memory",), ("memory", "init", "race"), tuple(CHECKS)])
    program = CheckedProgram(text, entry, checks)
    memory = np.zeros(1 << 16, np.uint8)
    block = bytearray(program.signature.nbytes)
    for p in program.signature.params:
        value = memory.ctypes.data if p.size == 8 else rng.choice([0, 1, 16, 64, 255])
        if p.size in (1, 2, 4, 8):
            block[p.offset : p.offset + p.size] = value.to_bytes(p.size, "little")
    size = (*(program.signature.reqntid or (rng.choice([32, 128, 100]),)), 1, 1)[:3]
    job = Job(
        grid=(2, 1, 1),
        block=size,
        shared_bytes=rng.choice([0, 1024, 49152]),
        parameter_block=bytes(block),
    )
    findings = program.run(job, [LaunchArray("memory", memory.ctypes.data, memory.nbytes, 1)])
    return "ran, with findings" if findings else "ran"


def work(pipe: Connection, seed: int) -> None:
    """Mutate and try for ever; tell the parent of each text before and after."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["FERRUM_CACHE_DIR"] = ""
    os.environ["FERRUM_CPU_STEPS"] = "300000"
    rng = random.Random(seed)
    shipped = [build.text for build in kernels.builds()]
    corpus = [*shipped, *(path.read_text() for path in sorted(DATA.rglob("*.ptx")))]
    while True:
        text = mutate(corpus, rng)
        pipe.send(("text", text))
        job = rng.choice([compile_entry, launch_entry])
        try:
            outcomes = {job(text, entry, rng) for entry in Signature.entries(text)}
            pipe.send(("done", ", ".join(sorted(outcomes)) or "no entry"))
        except FerrumError as error:
            kind = type(error).__name__
            expected = (PtxError, AbiError) if job is compile_entry else (PtxError, LaunchError)
            if not isinstance(error, expected) or "internal error" in str(error):
                pipe.send(("found", f"{kind} {str(error)[:40]}", traceback.format_exc()))
            else:
                pipe.send(("done", kind))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(place.filename).name}:{place.name}"
            pipe.send(("found", kind, traceback.format_exc()))


# -- the parent -------------------------------------------------------------------------------


class Worker:
    """A process that tries texts; what it is at, and since when."""

    def __init__(self, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, seed), daemon=True)
        self.process.start()
        theirs.close()
        self.text = ""
        self.since = time.monotonic()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Campaign:
    """Counts outcomes; keeps the first text of each kind of finding."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts = 0
        self.outcomes: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()

    def note(self, worker: Worker) -> bool:
        """Take a worker's message. False where the worker has died."""
        try:
            kind, *rest = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            if not worker.text:
                sys.exit("a worker ended before its first text")
            self.found(f"crash, exit code {worker.process.exitcode}", worker.text)
            return False
        if kind == "text":
            worker.text, worker.since = rest[0], time.monotonic()
            self.texts += 1
        elif kind == "done":
            self.outcomes[rest[0]] += 1
        else:
            self.found(rest[0], worker.text, rest[1])
        return True

    def found(self, kind: str, text: str, trace: str = "") -> None:
        self.findings[kind] += 1
        # Crashes look alike from outside, so each is kept.
        if self.findings[kind] > 1 and not kind.startswith(("crash", "hang")):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"\W+", "-", kind) + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
        (self.folder / f"{name}.ptx").write_text(text)
        if trace:
            (self.folder / f"{name}.txt").write_text(trace)
        print(f"found: {kind}: {self.folder / name}.ptx", file=sys.stderr)


def fuzz(seconds: float, seed: int, workers: int, folder: Path) -> Campaign:
    campaign = Campaign(folder)
    seeds = iter(range(seed * 1_000_003, (seed + 1) * 1_000_003))
    team = [Worker(next(seeds)) for _ in range(workers)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ready = wait([worker.pipe for worker in team], timeout=1.0)
        for i, worker in enumerate(team):
            alive = campaign.note(worker) if worker.pipe in ready else True
            if alive and time.monotonic() - worker.since > HANG_SECONDS:
                campaign.found(f"hang of {HANG_SECONDS:.0f} s", worker.text)
                alive = False
            if not alive:
                worker.end()
                team[i] = Worker(next(seeds))
    for worker in team:
        worker.end()
    return campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where texts go")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    campaign = fuzz(arguments.seconds, arguments.seed, arguments.workers, arguments.found)
    if arguments.json:
        counts = {"texts": campaign.texts, "outcomes": campaign.outcomes}
        print(json.dumps(counts | {"findings": campaign.findings}, indent=1))
    else:
        outcomes = ", ".join(f"{n} {kind}" for kind, n in campaign.outcomes.most_common())
        print(f"{campaign.texts} texts: {outcomes}; {campaign.findings.total()} findings")
        for kind, n in campaign.findings.most_common():
            print(f"  {n} × {kind}")
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    sys.exit(main())
