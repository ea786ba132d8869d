"""Make tests/golden/transformer/: the Transformer of the paper, built from torch.nn.Transformer, and what it computes.
encoder_decoders.py says what a case holds."""

import json
import math

import numpy as np
import torch
from encoder_decoders import HERE, batch_of, padded, randomise, write
from safetensors.torch import save_file


class Twin(torch.nn.Module):
    """Embeddings, torch.nn.Transformer without its final norms, and the embeddings' transpose."""

    def __init__(self, vocab_size, d_model, d_ff, num_layers, num_heads, layer_norm_eps):
        super().__init__()
        sizes = {"dim_feedforward": d_ff, "dropout": 0.0, "layer_norm_eps": layer_norm_eps, "batch_first": True}
        encoder = torch.nn.TransformerEncoder(
            torch.nn.TransformerEncoderLayer(d_model, num_heads, **sizes), num_layers, enable_nested_tensor=False
        )
        decoder = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(d_model, num_heads, **sizes), num_layers)
        self.shared = torch.nn.Embedding(vocab_size, d_model)
        self.transformer = torch.nn.Transformer(
            d_model, num_heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
        )

    def embedded(self, ids):
        """Embeddings times sqrt(D), plus sine and cosine of each position."""
        width = self.shared.weight.shape[1]
        positions = np.zeros((ids.shape[1], width))
        for place in range(ids.shape[1]):
            for column in range(0, width, 2):
                angle = place / 10_000 ** (column / width)
                positions[place, column : column + 2] = math.sin(angle), math.cos(angle)
        return self.shared(ids) * math.sqrt(width) + torch.tensor(positions, dtype=self.shared.weight.dtype)

    def compute(self, batch):
        """The outputs of golden.npz."""
        x, source_hidden = self.embedded(batch["token_ids"]), []
        hidden_source = batch["mask"] == 0
        source_hidden.append(x)
        for layer in self.transformer.encoder.layers:
            x = layer(x, src_key_padding_mask=hidden_source)
            source_hidden.append(x)
        y = self.embedded(batch["target_ids"])
        hidden, later = [y], torch.ones(y.shape[1], y.shape[1]).triu(1).bool()
        for layer in self.transformer.decoder.layers:
            y = layer(y, x, tgt_mask=later, memory_key_padding_mask=hidden_source)
            hidden.append(y)
        return {
            "source_hidden": padded(torch.stack(source_hidden), batch["mask"]),
            "hidden": padded(torch.stack(hidden), batch["target_mask"]),
            "logits": padded(y @ self.shared.weight.T, batch["target_mask"]),
        }


CASES = {
    "small": {"vocab_size": 30, "d_model": 8, "d_ff": 12, "num_layers": 2, "num_heads": 4, "layer_norm_eps": 1e-6},
    "one_head": {"vocab_size": 25, "d_model": 6, "d_ff": 10, "num_layers": 1, "num_heads": 1, "layer_norm_eps": 1e-3},
}


def saved_tensors(model: Twin) -> dict[str, torch.Tensor]:
    """The tensors by the names of a checkpoint with a head, whose order is that of the twin's own names."""
    return {f"transformer.{name.removeprefix('transformer.')}": tensor for name, tensor in model.state_dict().items()}


if __name__ == "__main__":
    for number, (name, sizes) in enumerate(CASES.items()):
        model = Twin(**sizes)
        model.eval()
        randomise(model, number)
        batch = batch_of(sizes["vocab_size"], (1,), {"source": [9, 5, 1], "target": [4, 7, 1]}, number)

        def save(directory, model=model, sizes=sizes):
            save_file(saved_tensors(model.half()), directory / "model.safetensors", metadata={"format": "pt"})
            config = {"model_type": "transformer", "architectures": ["TransformerForConditionalGeneration"], **sizes}
            (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")

        vocabulary = 0 if number else sizes["vocab_size"]
        write(HERE / "transformer" / name, model, save, model.compute, batch, vocabulary=vocabulary, seed=number)
