"""Make reference outputs again: runs this folder's make_*.py in the environment that is running.

python tests/golden/make_all.py             # of requirements.txt: all but those that need TensorFlow
python tests/golden/make_all.py tensorflow  # of requirements-tensorflow.txt: make_tensorflow_*.py
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    tensorflow = "tensorflow" in sys.argv[1:]
    for script in sorted(HERE.glob("make_*.py")):
        if script != Path(__file__).resolve() and script.name.startswith("make_tensorflow_") == tensorflow:
            print(script.name, file=sys.stderr, flush=True)
            subprocess.run([sys.executable, str(script)], check=True)
