"""Check that transformers opens what Garden saved, and answers as the golden outputs say. Run by hand, in the environment
of requirements.txt:

python tests/golden/check_saved.py SAVED_DIRECTORY tests/golden/bert/CASE

SAVED_DIRECTORY is what `save_pretrained` wrote after `from_pretrained` of the case.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from make_bert import run

transformers.utils.logging.disable_progress_bar()


def check(saved: Path, case: Path) -> float:
    """Returns the largest difference; ValueError for tensors that transformers misses or does not know."""
    config = transformers.AutoConfig.from_pretrained(saved)
    kind = getattr(transformers, config.architectures[0])
    model, report = kind.from_pretrained(saved, attn_implementation="eager", output_loading_info=True)
    golden = np.load(case / "golden.npz")
    if "plain.pooled" not in golden and isinstance(model, transformers.BertModel):
        # config.json cannot say that there is no pooler: transformers makes a new one.
        report["missing_keys"] = {name for name in report["missing_keys"] if not name.startswith("pooler.")}
        model.pooler = None
    if problems := {key: value for key, value in report.items() if value}:
        raise ValueError(f"{saved}: {problems}")
    model.eval().double()
    worst = 0.0
    for batch_name in ("plain", "right", "left"):
        keys = [f"{batch_name}.{key}" for key in ("token_ids", "mask", "type_ids", "positions")]
        batch = {key.split(".")[1]: golden[key].astype(np.int64) for key in keys if key in golden}
        with torch.no_grad():
            outputs = run(model, batch)
        for key, output in outputs.items():
            worst = max(worst, float(np.abs(output.numpy() - golden[f"{batch_name}.{key}"]).max()))
    return worst


if __name__ == "__main__":
    difference = check(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{sys.argv[1]}: opened by transformers; largest difference {difference:.2g}")
    sys.exit(difference > 1e-4)
