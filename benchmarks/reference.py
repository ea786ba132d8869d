"""The environments of what Garden is compared with, apart from its own.

python benchmarks/reference.py --setup                Hugging Face Transformers with PyTorch: benchmarks/.reference-venv (1 GB)
python benchmarks/reference.py --setup keras-hub      KerasHub: benchmarks/.keras-hub-venv (2 GB)
python benchmarks/reference.py --setup model-garden   TF Model Garden: benchmarks/.model-garden-venv (3 GB)
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("reference", "keras-hub", "model-garden")
SETUP = "python benchmarks/reference.py --setup"


def environment(name: str = "reference") -> Path:
    """Returns where an environment is made."""
    return HERE / f".{name}-venv"


def interpreter(given: str | None, name: str = "reference") -> Path:
    """Returns an environment's Python: the one given, or that of `--setup`.

    Raises FileNotFoundError when there is none there.
    """
    if given is not None:
        if shutil.which(given) is None:
            raise FileNotFoundError(f"--{name}-python {given}: no such program; leave it out and run: {_setup(name)}")
        return Path(given).absolute()
    if not (environment(name) / "installed").exists():
        raise FileNotFoundError(f"{environment(name)}: not set up; run: {_setup(name)} (or give --{name}-python)")
    return _python(name)


def setup(name: str = "reference") -> None:
    """Makes an environment anew. What fails half-way is not taken for one: the mark is written last."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment(name))], check=True)
    pip = [str(_python(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(HERE / f"{name}-requirements.txt")], check=True)
    (environment(name) / "installed").touch()


def _setup(name: str) -> str:
    return SETUP if name == "reference" else f"{SETUP} {name}"


def _python(name: str) -> Path:
    return environment(name) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--setup", nargs="?", const="reference", choices=NAMES, help="make an environment, from its requirements file"
    )
    name = parser.parse_args(arguments).setup
    if name is None:
        parser.error("nothing to do; give --setup")
    try:
        setup(name)
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} ended with code {error.returncode}", file=sys.stderr)
        return 2
    print(_python(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
