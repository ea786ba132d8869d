"""Check that transformers opens what Garden saved, and answers as the golden outputs say. Run by hand, in the environment
of requirements.txt:

python tests/golden/check_saved.py SAVED_DIRECTORY tests/golden/FAMILY/CASE

SAVED_DIRECTORY is what `save_pretrained` wrote after `from_pretrained` of the case. Not for the
Transformer, which transformers does not have.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from decoders import run as run_decoder
from encoder_decoders import run as run_both
from encoders import run as run_encoder
from make_bert import run as run_bert

transformers.utils.logging.disable_progress_bar()

ENCODERS = ("roberta", "xlm-roberta", "camembert", "distilbert", "electra")


def check(saved: Path, case: Path) -> float:
    """Returns the largest difference; ValueError for tensors that transformers misses or does not know."""
    config = transformers.AutoConfig.from_pretrained(saved)
    kind = getattr(transformers, config.architectures[0])
    model, report = kind.from_pretrained(saved, attn_implementation="eager", output_loading_info=True)
    golden = np.load(case / "golden.npz")
    if "right.pooled" not in golden and kind.__name__.endswith("Model") and getattr(model, "pooler", None):
        # config.json cannot say that there is no pooler: transformers makes a new one.
        report["missing_keys"] = {name for name in report["missing_keys"] if not name.startswith("pooler.")}
        model.pooler = None
    if problems := {key: value for key, value in report.items() if value}:
        raise ValueError(f"{saved}: {problems}")
    if "mask" in golden:
        model.eval().double()
        names = ("token_ids", "mask", "target_ids", "target_mask")
        with torch.no_grad():
            outputs = run_both(model, {name: torch.tensor(golden[name].astype(np.int64)) for name in names})
        differences = {name: np.abs(output.numpy() - golden[name]).max() for name, output in outputs.items()}
        return max(float(value / np.abs(golden[name]).max()) for name, value in differences.items())
    run = run_bert if config.model_type == "bert" else run_encoder if config.model_type in ENCODERS else run_decoder
    # Llama's relatives cannot be run in float64: see decoders.py.
    model = model.eval() if run is run_decoder else model.eval().double()
    worst = 0.0
    for batch_name in ("plain", "right", "left"):
        if f"{batch_name}.mask" not in golden:
            continue
        keys = [f"{batch_name}.{key}" for key in ("token_ids", "mask", "type_ids", "positions")]
        batch = {key.split(".")[1]: golden[key].astype(np.int64) for key in keys if key in golden}
        with torch.no_grad():
            outputs = run(model, batch)
        for key, output in outputs.items():
            expected = golden[f"{batch_name}.{key}"]
            output = output.numpy()[-len(expected) :]
            worst = max(worst, float(np.abs(output - expected).max() / np.abs(expected).max()))
    return worst


if __name__ == "__main__":
    difference = check(Path(sys.argv[1]), Path(sys.argv[2]))
    print(
        f"{sys.argv[1]}: opened by transformers; largest difference, as a share of the largest number: {difference:.2g}"
    )
    sys.exit(difference > 1e-4)
