"""Writes optimizers.json: what three steps of PyTorch's optimisers make of a few numbers.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install torch==2.13.0
    /tmp/golden/bin/python tests/golden/make_optimizers.py

Muon's iterations are in float32 here, where PyTorch rounds to bfloat16. Kernels are [inputs, outputs], and transposed for
PyTorch.
"""

import json
from pathlib import Path

import torch

STEPS = 3
SHAPE = (4, 6)


def gradient(step, shape):
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float32) * 1.7 + step + 0.5).reshape(shape)


def weights(shape):
    count = torch.Size(shape).numel()
    return 0.1 * torch.cos(torch.arange(count, dtype=torch.float32)).reshape(shape)


def trained(make, shape=SHAPE, *, transposed=True):
    turned = (lambda x: x.T.contiguous()) if transposed and len(shape) == 2 else (lambda x: x)
    parameter = torch.nn.Parameter(turned(weights(shape)).clone())
    optimizer = make([parameter])
    for step in range(STEPS):
        parameter.grad = turned(gradient(step, shape)).clone()
        optimizer.step()
    return [round(float(value), 8) for value in turned(parameter.detach()).flatten()]


torch.Tensor.bfloat16 = lambda self: self.clone()
adafactor = {"lr": 0.05, "eps": (1e-30, 1e-3), "weight_decay": 0.1}
muon = {"lr": 0.02, "weight_decay": 0.1}
results = {
    "adafactor": trained(lambda p: torch.optim.Adafactor(p, **adafactor)),
    "adafactor_vector": trained(lambda p: torch.optim.Adafactor(p, **(adafactor | {"weight_decay": 0.0})), (5,)),
    "muon": trained(lambda p: torch.optim.Muon(p, **muon)),
    "muon_tall": trained(lambda p: torch.optim.Muon(p, adjust_lr_fn="match_rms_adamw", **muon), (6, 4)),
}
Path(__file__).with_name("optimizers.json").write_text(json.dumps(results, indent=1) + "\n")
