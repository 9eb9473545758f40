"""List the examples, or copy one with its files into the current folder.

python -m ferrum_numba.examples [--copy NAME]
"""

import argparse
import ast
import shutil
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = {path.stem: path for path in sorted(HERE.glob("[!_]*.py"))}


def main() -> None:
    """Print a line for each example, or copy one."""
    parser = argparse.ArgumentParser(
        prog="python -m ferrum_numba.examples",
        description="List the programs to start from. Run one by its name behind a dot.",
    )
    parser.add_argument("--copy", metavar="NAME", choices=EXAMPLES, help="copy NAME here")
    name = parser.parse_args().copy
    if name is None:
        for name, path in EXAMPLES.items():
            first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split(
                "\n"
            )
            print(f"{name:16} {first[0]}")
        return
    for path in sorted(HERE.glob(f"{name}.*")):
        if Path(path.name).exists():
            raise SystemExit(f"{path.name}: expected no such file here, found one; move it away")
        print(shutil.copy(path, path.name))


if __name__ == "__main__":
    main()
