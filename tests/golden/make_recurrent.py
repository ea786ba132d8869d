"""Make the reference outputs of the recurrent families with torch.nn.RNN, LSTM and GRU and plain lines of PyTorch.

python tests/golden/make_recurrent.py, in the environment of requirements.txt.

Each case is a folder with config.json, the weights, called as Garden calls them, and golden.npz, which holds, for the batches
"right" and "left", padded on that side,

    BATCH.token_ids, .mask   [B,T]
    BATCH.hidden             [layers, B, T, D], each layer's output, zeros where there is padding
    BATCH.pooled             [B,D], additive pooling
    BATCH.logits             of the head: [B,C] or [B,T,.], zeros where there is padding
    right.labels, .loss, .gradient.NAME    the head's mean cross-entropy and its gradients, in cases with `gradients`

The cases of Bahdanau's encoder-decoder have BATCH.target_ids, .target_mask and .source_hidden too; of the decoder, .hidden is
what the head reads alone.
All is computed in float64, so that a test measures its own errors only.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

OUT = Path(__file__).resolve().parent / "recurrent"

SMALL = {"vocab_size": 17, "embedding_size": 6, "hidden_size": 5, "num_layers": 2, "bidirectional": False}
KINDS = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
LENGTHS, TARGET_LENGTHS = (7, 4, 1), (3, 5, 2)

# name: (model type, config beyond SMALL, task, whether gradients are kept)
CASES = {
    "elman": ("elman", {"bidirectional": True, "hidden_size": 4, "num_layers": 1}, "text-classification", True),
    "elman_relu": ("elman", {"hidden_act": "relu", "num_layers": 3}, "token-classification", False),
    "elman_sigmoid": ("elman", {"hidden_act": "sigmoid", "num_layers": 1}, "backbone", False),
    "lstm": ("lstm", {"bidirectional": True}, "text-classification", True),
    "lstm_causal": ("lstm", {"hidden_size": 8}, "causal-lm", True),
    "lstm_same_width": ("lstm", {"hidden_size": 6, "num_layers": 1}, "causal-lm", False),
    "gru": ("gru", {"bidirectional": True, "tie_word_embeddings": False}, "masked-lm", True),
    "bahdanau": ("bahdanau", {"cell": "gru", "embedding_size": 4, "hidden_size": 3}, "seq2seq-lm", True),
    "bahdanau_lstm": ("bahdanau", {"cell": "lstm", "tie_word_embeddings": False, "num_layers": 1}, "seq2seq-lm", False),
    "bahdanau_elman": ("bahdanau", {"cell": "elman", "hidden_size": 3, "num_layers": 1}, "seq2seq-lm", False),
    "gru_no_bias": ("gru", {"bias": False, "bidirectional": True, "num_layers": 1}, "question-answering", False),
}
ENDINGS = {
    "backbone": "Model",
    "masked-lm": "ForMaskedLM",
    "causal-lm": "ForCausalLM",
    "seq2seq-lm": "ForConditionalGeneration",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
}


class SigmoidRNN(nn.RNN):
    """The activation that torch.nn.RNN lacks: one layer, one direction."""

    def forward(self, packed):
        x, lengths = pad_packed_sequence(packed, batch_first=True)
        h, states = x.new_zeros(len(x), self.hidden_size), []
        for t in range(x.shape[1]):
            h = torch.sigmoid(
                x[:, t] @ self.weight_ih_l0.T + self.bias_ih_l0 + h @ self.weight_hh_l0.T + self.bias_hh_l0
            )
            states.append(h)
        return pack_padded_sequence(torch.stack(states, dim=1), lengths, batch_first=True), h


class Pooler(nn.Module):
    """Additive attention of a text to itself."""

    def __init__(self, width: int):
        super().__init__()
        self.dense, self.score = nn.Linear(width, width), nn.Linear(width, 1, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.score(torch.tanh(self.dense(x)))[..., 0].masked_fill(mask == 0, -torch.inf)
        return (torch.softmax(scores, dim=1)[..., None] * x).sum(dim=1)


class Network(nn.Module):
    """Embeddings, recurrent layers, pooler."""

    def __init__(self, model_type: str, config: dict):
        super().__init__()
        self.embeddings = nn.Embedding(config["vocab_size"], config["embedding_size"])
        options = {"bidirectional": config["bidirectional"], "bias": config.get("bias", True), "batch_first": True}
        kind = KINDS[model_type]
        if config.get("hidden_act") == "sigmoid":
            kind = SigmoidRNN
        elif model_type == "elman":
            options["nonlinearity"] = config.get("hidden_act", "tanh")
        self.rnn = kind(config["embedding_size"], config["hidden_size"], config["num_layers"], **options)
        self.width = config["hidden_size"] * (2 if config["bidirectional"] else 1)
        self.pooler = Pooler(self.width)

    def forward(self, token_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        def over(rnn: nn.Module, x: torch.Tensor) -> torch.Tensor:
            packed = pack_padded_sequence(x, mask.sum(dim=1), batch_first=True)
            return pad_packed_sequence(rnn(packed)[0], batch_first=True)[0]

        x = self.embeddings(token_ids) * mask[..., None]
        hidden = [x]
        for index in range(self.rnn.num_layers):
            hidden.append(over(self._layer(index), hidden[-1]))
        sequence = over(self.rnn, x)
        torch.testing.assert_close(sequence, hidden[-1])
        return {"hidden": hidden, "sequence": sequence, "pooled": self.pooler(sequence, mask)}

    def _layer(self, index: int) -> nn.Module:
        """Layer `index` alone, as a module of one layer."""
        rnn = self.rnn
        options = {"bidirectional": rnn.bidirectional, "bias": rnn.bias, "batch_first": True}
        if type(rnn) is nn.RNN:
            options["nonlinearity"] = rnn.nonlinearity
        width = self.width if index else rnn.input_size
        alone = type(rnn)(width, rnn.hidden_size, 1, **options).double()
        state = {
            name.replace(f"_l{index}", "_l0"): value
            for name, value in rnn.state_dict().items()
            if name.removesuffix("_reverse").endswith(f"_l{index}")
        }
        alone.load_state_dict(state)
        return alone


class Translator(nn.Module):
    """The encoder-decoder of Bahdanau et al. (2015), one step after the other."""

    CELLS = {"elman": torch._VF.rnn_tanh_cell, "gru": torch._VF.gru_cell, "lstm": torch._VF.lstm_cell}

    def __init__(self, config: dict):
        super().__init__()
        narrow, width, self.layers = config["embedding_size"], config["hidden_size"], config["num_layers"]
        kind, self.kind = KINDS[config["cell"]], config["cell"]
        self.embeddings = nn.Embedding(config["vocab_size"], narrow)
        self.encoder = kind(narrow, width, self.layers, bidirectional=True, batch_first=True)
        self.decoder = kind(narrow + 2 * width, width, self.layers)  # for its parameters
        self.attention = nn.ModuleDict(
            {
                "query": nn.Linear(width, width, bias=False),
                "key": nn.Linear(2 * width, width),
                "score": nn.Linear(width, 1, bias=False),
            }
        )
        self.begin, self.readout = nn.Linear(width, width), nn.Linear(width + narrow + 2 * width, 2 * narrow)
        self.width = narrow

    def forward(
        self, token_ids: torch.Tensor, mask: torch.Tensor, target_ids: torch.Tensor, target_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        packed = pack_padded_sequence(self.embeddings(token_ids), mask.sum(dim=1), batch_first=True)
        source = pad_packed_sequence(self.encoder(packed)[0], batch_first=True)[0]
        width = source.shape[-1] // 2
        first = torch.tanh(self.begin(source[:, 0, width:]))
        states = [[first if layer == 0 else torch.zeros_like(first)] for layer in range(self.layers)]
        states = [[h, torch.zeros_like(h)] if self.kind == "lstm" else [h] for (h,) in states]
        keys, outputs = self.attention["key"](source), []
        for t in range(target_ids.shape[1]):
            scores = self.attention["score"](torch.tanh(self.attention["query"](states[0][0])[:, None] + keys))[..., 0]
            weights = torch.softmax(scores.masked_fill(mask == 0, -torch.inf), dim=1)
            context = (weights[..., None] * source).sum(dim=1)
            words = self.embeddings(target_ids[:, t])
            x = torch.cat([words, context], dim=1)
            for layer in range(self.layers):
                kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                parameters = [getattr(self.decoder, f"{kind}_l{layer}") for kind in kinds]
                before = states[layer] if self.kind == "lstm" else states[layer][0]
                after = self.CELLS[self.kind](x, before, *parameters)
                states[layer] = list(after) if self.kind == "lstm" else [after]
                x = states[layer][0]
            pairs = self.readout(torch.cat([x, words, context], dim=1))
            outputs.append(pairs.unflatten(1, (-1, 2)).amax(dim=2))
        sequence = torch.stack(outputs, dim=1) * target_mask[..., None]
        return {"sequence": sequence, "hidden": [None, sequence], "source_hidden": source[None]}


def with_head(backbone: Network, model_type: str, config: dict, task: str) -> nn.Module:
    """A module whose parameters are called as Garden's."""
    model = nn.Module()
    model.add_module(model_type, backbone)
    if task in ("text-classification", "token-classification"):
        model.classifier = nn.Linear(backbone.width, 3)
    elif task == "question-answering":
        model.qa_outputs = nn.Linear(backbone.width, 2)
    elif config.get("tie_word_embeddings", True):
        if backbone.width != config["embedding_size"]:
            model.lm_projection = nn.Linear(backbone.width, config["embedding_size"])
        model.lm_head = nn.Module()
        model.lm_head.bias = nn.Parameter(torch.zeros(config["vocab_size"]))
    else:
        model.lm_head = nn.Linear(backbone.width, config["vocab_size"])
    return model


def logits_of(model: nn.Module, backbone: Network, outputs: dict, mask: torch.Tensor, task: str) -> torch.Tensor:
    """The head's logits."""
    if task == "text-classification":
        return model.classifier(outputs["pooled"])
    x = outputs["sequence"]
    if task == "token-classification":
        logits = model.classifier(x)
    elif task == "question-answering":
        logits = model.qa_outputs(x)
    elif isinstance(model.lm_head, nn.Linear):
        logits = model.lm_head(x)
    else:
        x = model.lm_projection(x) if hasattr(model, "lm_projection") else x
        logits = x @ backbone.embeddings.weight.T + model.lm_head.bias
    return logits * mask[..., None]


def to_the_left(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same numbers behind the padding: where it stands changes nothing else."""
    moved, rows = dict(batch), torch.arange(len(batch["mask"]))[:, None]
    for name, array in batch.items():
        of_source = name in ("token_ids", "mask", "source_hidden") or "target_mask" not in batch
        mask = batch["mask" if of_source else "target_mask"]
        index = (torch.arange(mask.shape[1]) - (mask.shape[1] - mask.sum(dim=1))[:, None]) % mask.shape[1]
        if name.endswith("hidden"):
            moved[name] = array[:, rows, index]
        elif array.shape[:2] == mask.shape:
            moved[name] = array[rows, index]
    return moved


def make_case(name: str, number: int) -> None:
    """Write one folder."""
    model_type, beyond, task, keeps_gradients = CASES[name]
    torch.manual_seed(number)
    random = np.random.default_rng(number)
    config = {**SMALL, **beyond}
    backbone = Translator(config) if model_type == "bahdanau" else Network(model_type, config)
    if task not in ("backbone", "text-classification", "seq2seq-lm"):
        del backbone.pooler
        backbone.pooler = lambda x, mask: x[:, 0]
    model = backbone if task == "backbone" else with_head(backbone, model_type, config, task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.6)
    directory = OUT / name
    directory.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, directory / "model.safetensors")
    published = {"elman": "Elman", "lstm": "LSTM", "gru": "GRU", "bahdanau": "Bahdanau"}[model_type]
    values = {"architectures": [published + ENDINGS[task]], "model_type": model_type, **config}
    if "classification" in task:
        values["id2label"] = {"0": "a", "1": "b", "2": "c"}
    (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n")

    model.double()
    golden = {}
    for side, lengths in (("", LENGTHS), *([("target_", TARGET_LENGTHS)] if model_type == "bahdanau" else [])):
        mask = torch.tensor(np.arange(max(lengths)) < np.array(lengths)[:, None]).long()
        token_ids = torch.tensor(random.integers(1, config["vocab_size"], mask.shape)) * mask
        golden |= {f"{side}ids" if side else "token_ids": token_ids, f"{side}mask": mask}
    outputs = backbone(*golden.values())
    golden["hidden"] = torch.stack(outputs["hidden"][1:])
    if task in ("backbone", "text-classification"):
        golden["pooled"] = outputs["pooled"]
    if task != "backbone":
        logits = logits_of(model, backbone, outputs, mask, task)
        golden["logits"] = logits
    if "source_hidden" in outputs:
        golden["source_hidden"] = outputs["source_hidden"]
    golden = {f"right.{key}": array for key, array in golden.items()} | {
        f"left.{key}": array for key, array in to_the_left(golden).items()
    }
    if keeps_gradients:
        places = torch.ones(len(mask)).bool() if task == "text-classification" else mask.bool()
        labels = torch.tensor(random.integers(0, logits.shape[-1], places.shape))
        loss = nn.functional.cross_entropy(logits[places], labels[places])
        loss.backward()
        golden |= {"right.labels": labels, "right.loss": loss}
        golden |= {f"right.gradient.{key}": parameter.grad for key, parameter in model.named_parameters()}
    arrays = {key: tensor.detach().numpy() for key, tensor in golden.items()}
    arrays = {key: a.astype(np.float32 if a.dtype == np.float64 else np.int8) for key, a in arrays.items()}
    np.savez_compressed(directory / "golden.npz", **arrays)


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    for number, case in enumerate(CASES):
        make_case(case, number)
