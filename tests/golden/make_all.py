"""Make all reference outputs again: runs every make_*.py of this folder, in the environment of requirements.txt.

python tests/golden/make_all.py
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    for script in sorted(HERE.glob("make_*.py")):
        if script != Path(__file__).resolve():
            print(script.name, file=sys.stderr, flush=True)
            subprocess.run([sys.executable, str(script)], check=True)
