"""Make tests/golden/torch/: small files as `torch.save` writes them, and their tensors as safetensors.

zip.bin, legacy.bin      one state dict of many types, strides and offsets, in the format of PyTorch 1.6 and of before
nested.bin               the same below "model", beside what an optimiser keeps, in the older format
new_types.bin            types that have no storage class of their own
whole_module.bin         a pickled network, which is code
expected.safetensors     the tensors of all of them
sharded/                 pytorch_model.bin.index.json and two shards
"""

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent / "torch"


def state_dict() -> OrderedDict:
    """Tensors of every kind, several of which share one storage."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=generator)
    tensors = OrderedDict(
        base=base,
        transposed=base.T,
        columns=base[:, 1:3],
        rows=base[2:4],
        every_third=torch.arange(10.0)[::3],
        permuted=torch.randn(2, 3, 4, generator=generator).permute(2, 0, 1),
        one_column=torch.arange(12.0).reshape(3, 4)[:, :1],
        expanded=torch.arange(3.0).expand(2, 3),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.randn(2, 2, generator=generator)),
        half=torch.randn(3, generator=generator).half(),
        bfloat16=torch.randn(2, 3, generator=generator).bfloat16(),
        double=torch.randn(2, generator=generator).double(),
        complex=torch.randn(2, generator=generator, dtype=torch.complex64),
        bool=torch.tensor([True, False]),
        uint8=torch.arange(4, dtype=torch.uint8),
        int8=torch.arange(-2, 2, dtype=torch.int8),
        int16=torch.arange(-1, 2, dtype=torch.int16),
        int32=torch.arange(-1, 2, dtype=torch.int32),
        int64=torch.tensor([2**40, -1]),
    )
    tensors._metadata = OrderedDict({"": {"version": 1}})  # as a module's state_dict has it
    return tensors


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "sharded").mkdir(parents=True)
    tensors = state_dict()
    torch.save(tensors, OUT / "zip.bin")
    torch.save(tensors, OUT / "legacy.bin", _use_new_zipfile_serialization=False)
    training = {"epoch": 3, "rate": 0.1, "moments": [torch.ones(3)], "done": False, "note": None}
    nested = {"model": tensors, "optimizer": training}
    torch.save(nested, OUT / "nested.bin", _use_new_zipfile_serialization=False)
    new = {
        "float8": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
        "uint16": torch.tensor([65535]).to(torch.uint16),
    }
    torch.save(new, OUT / "new_types.bin", pickle_protocol=4)
    torch.save(torch.nn.Linear(2, 2), OUT / "whole_module.bin")
    everything = {name: tensor.detach().clone().contiguous() for name, tensor in {**tensors, **new}.items()}
    save_file(everything, OUT / "expected.safetensors")

    shards = {"pytorch_model-00001-of-00002.bin": ["base", "half"], "pytorch_model-00002-of-00002.bin": ["double"]}
    for file, names in shards.items():
        torch.save({name: tensors[name] for name in names}, OUT / "sharded" / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = json.dumps({"metadata": {"total_size": 148}, "weight_map": weight_map}, indent=2)
    (OUT / "sharded" / "pytorch_model.bin.index.json").write_text(index + "\n", encoding="utf-8")
