"""The environment of the reference, Hugging Face Transformers with PyTorch, apart from Garden's own.

python benchmarks/reference.py --setup        makes benchmarks/.reference-venv (1 GB)
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".reference-venv"
REQUIREMENTS = HERE / "reference-requirements.txt"
SETUP = "python benchmarks/reference.py --setup"


def interpreter(given: str | None) -> Path:
    """Returns the reference environment's Python: the one given, or that of `--setup`.

    Raises FileNotFoundError when there is none there.
    """
    if given is not None:
        if shutil.which(given) is None:
            raise FileNotFoundError(f"--reference-python {given}: no such program; leave it out and run: {SETUP}")
        return Path(given).absolute()
    if not (ENVIRONMENT / "installed").exists():
        raise FileNotFoundError(f"{ENVIRONMENT}: not set up; run: {SETUP} (or give --reference-python)")
    return _python()


def setup() -> None:
    """Makes the environment anew. What fails half-way is not taken for one: the mark is written last."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    pip = [str(_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
    (ENVIRONMENT / "installed").touch()


def _python() -> Path:
    return ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="make the environment, from reference-requirements.txt")
    if not parser.parse_args(arguments).setup:
        parser.error("nothing to do; give --setup")
    try:
        setup()
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} ended with code {error.returncode}", file=sys.stderr)
        return 2
    print(_python())
    return 0


if __name__ == "__main__":
    sys.exit(main())
