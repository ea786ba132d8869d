"""The reference's sides: Hugging Face Transformers with PyTorch, as its users run it, each setting the fastest that was tried.

Fine-tuning is the plain PyTorch loop of Hugging Face's own course: texts tokenised beforehand, DataCollatorWithPadding
(each batch padded to its longest text), AdamW without decay on biases and norms, linear schedule, gradients clipped at
norm 1. `Trainer` makes the same calls and adds its callbacks and accelerate's wrapping, so the plain loop is the faster.
Pre-training is the same loop over rows of grouped texts.
Runs in the environment that reference.py makes.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)

from benchmarks.masked_rows import MaskedRows
from benchmarks.material import LABELS, reviews, text_batches
from benchmarks.stepping import Stepping
from benchmarks.turns import latencies, timed

transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Variant:
    """One sensible way to run the reference.

    `bfloat16` is "" (not at all), "autocast" (torch.autocast, float32 weights), "weights" (the whole model) or "matmul"
    (float32 weights and activations, oneDNN's products in bfloat16).
    """

    attention: str = "sdpa"
    optimizer: str = "fused"
    bfloat16: str = ""

    def model(self, directory: str) -> torch.nn.Module:
        """Returns the classifier with the checkpoint's weights."""
        dtype = torch.bfloat16 if self.bfloat16 == "weights" else torch.float32
        return AutoModelForSequenceClassification.from_pretrained(
            directory, num_labels=len(LABELS), attn_implementation=self.attention, dtype=dtype
        )

    def precision(self) -> contextlib.AbstractContextManager:
        """Returns the context that forward passes run in, and sets what PyTorch keeps for the whole process."""
        torch.set_float32_matmul_precision("medium" if self.bfloat16 == "matmul" else "highest")
        if self.bfloat16 == "autocast":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()


TRAINING = {
    "float32": {
        "SDPA, fused AdamW": Variant(),
        "SDPA, foreach AdamW": Variant(optimizer="foreach"),
        "eager attention, fused AdamW": Variant(attention="eager"),
    },
    "bfloat16": {
        "autocast, SDPA, fused AdamW": Variant(bfloat16="autocast"),
        "autocast, eager attention, fused AdamW": Variant(attention="eager", bfloat16="autocast"),
        "bfloat16 weights, SDPA, fused AdamW": Variant(bfloat16="weights"),
        "bfloat16 products only, SDPA, fused AdamW": Variant(bfloat16="matmul"),
    },
}
INFERENCE = {
    "float32": {"SDPA": Variant(), "eager attention": Variant(attention="eager")},
    "bfloat16": {
        "autocast, SDPA": Variant(bfloat16="autocast"),
        "bfloat16 weights, SDPA": Variant(bfloat16="weights"),
        "bfloat16 weights, eager attention": Variant(attention="eager", bfloat16="weights"),
        "bfloat16 products only, SDPA": Variant(bfloat16="matmul"),
    },
}


class FineTuning:
    """Trains a classifier a few steps a turn, or to the end."""

    def __init__(
        self, *, model: str, precision: str, threads: int, sequence_length: int, batch_size: int, learning_rate: float
    ):
        torch.set_num_threads(threads)
        self._directory, self._variants = model, TRAINING[precision]
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._collate = DataCollatorWithPadding(self._tokenizer)
        self._sequence_length, self._batch_size, self._learning_rate = sequence_length, batch_size, learning_rate

    def prepare(self, *, train: str, warm_up: int, turns: int, steps: int, seed: int) -> dict[str, Any]:
        """Tokenises the texts of all turns, tries every variant on the warm-up's steps, and goes on with the fastest."""
        texts, labels = reviews(train, (warm_up + turns * steps) * self._batch_size, seed=seed)
        begin = time.perf_counter()
        features = self._features(texts, labels)
        tokenizing = time.perf_counter() - begin
        batches = list(DataLoader(features, batch_size=self._batch_size, collate_fn=self._collate))
        trainings, first_step, tried = {}, {}, {}
        for name, variant in self._variants.items():
            transformers.set_seed(seed)
            trainings[name] = _Training(
                variant, variant.model(self._directory), self._learning_rate, warm_up + turns * steps
            )
            seconds = [timed(trainings[name].step, batch) for batch in batches[:warm_up]]
            first_step[name] = round(seconds[0], 3)
            # The first third is not counted: memory is taken and oneDNN's kernels are made then.
            counted = slice(warm_up // 3, warm_up)
            tried[name] = sum(map(_real_tokens, batches[counted])) / sum(seconds[counted])
        self._chosen = max(tried, key=tried.get)
        self._training = trainings[self._chosen]
        of_turns = features[warm_up * self._batch_size :]
        self._batches = iter(DataLoader(of_turns, batch_size=self._batch_size, collate_fn=self._collate))
        self._steps = steps
        cells = sum(batch["input_ids"].numel() for batch in batches[warm_up:])
        return {
            "variant": self._chosen,
            "tried_tokens_per_second": {name: round(rate, 1) for name, rate in tried.items()},
            "first_step_seconds": first_step[self._chosen],
            "tokenizing_seconds_not_in_rates": round(tokenizing, 3),
            "padding_share": round(1 - sum(map(_real_tokens, batches[warm_up:])) / cells, 3),
        }

    def turn(self) -> dict[str, Any]:
        """Trains on the next batches; padding and copying them is part of the time, tokenising is not."""
        tokens = 0
        begin = time.perf_counter()
        for _ in range(self._steps):
            batch = next(self._batches)
            tokens += _real_tokens(batch)
            self._training.step(batch)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}

    def train(self, *, train: str, test: str, epochs: int, seed: int) -> dict[str, Any]:
        """Trains to the end, and returns accuracy on the test file; in float32 or the bfloat16 that turned out fastest."""
        features = self._features(*reviews(train))
        transformers.set_seed(seed)
        loader = DataLoader(features, batch_size=self._batch_size, shuffle=True, collate_fn=self._collate)
        variant = self._variants[self._chosen]
        training = _Training(variant, variant.model(self._directory), self._learning_rate, epochs * len(loader))
        begin = time.perf_counter()
        for _ in range(epochs):
            for batch in loader:
                training.step(batch)
        seconds = time.perf_counter() - begin
        right = count = 0
        training.model.eval()
        with torch.inference_mode(), variant.precision():
            for batch in DataLoader(self._features(*reviews(test)), batch_size=64, collate_fn=self._collate):
                labels = batch.pop("labels")
                right += int((training.model(**batch).logits.argmax(-1) == labels).sum())
                count += len(labels)
        tokens = epochs * sum(len(feature["input_ids"]) for feature in features)
        return {"accuracy": right / count, "seconds": seconds, "tokens_per_second": tokens / seconds}

    def _features(self, texts: list[str], labels: list[int]) -> list[dict[str, Any]]:
        encoded = self._tokenizer(texts, truncation=True, max_length=self._sequence_length)
        columns = {**encoded, "labels": labels}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class _Training:
    """A model, its optimiser and its schedule."""

    def __init__(self, variant: Variant, model: torch.nn.Module, learning_rate: float, steps: int):
        self.variant, self.model = variant, model.train()
        named = list(self.model.named_parameters())
        groups = [
            {"params": [weight for _, weight in named if weight.dim() > 1], "weight_decay": 0.01},
            {"params": [weight for _, weight in named if weight.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, **{variant.optimizer: True})
        self.schedule = transformers.get_linear_schedule_with_warmup(self.optimizer, round(steps * 0.1), steps)

    def step(self, batch) -> None:
        with self.variant.precision():
            loss = self.model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()


class PreTraining(Stepping):
    """Trains a masked language model a few steps a turn: rows of grouped texts, no padding, hence no attention mask."""

    def __init__(self, *, precision: str, threads: int, **options):
        torch.set_num_threads(threads)
        self._variants = TRAINING[precision]
        self.variants = tuple(self._variants)
        super().__init__(**options)

    def stepper(self, variant: str):
        transformers.set_seed(self.seed)
        settings = self._variants[variant]
        config = transformers.BertConfig(
            vocab_size=self.vocabulary_size,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.inner_width,
        )
        model = AutoModelForMaskedLM.from_config(
            config,
            attn_implementation=settings.attention,
            dtype=torch.bfloat16 if settings.bfloat16 == "weights" else torch.float32,
        )
        training = _Training(settings, model, self.learning_rate, 1_000)
        batches = map(_masked, self.rows.batches(self.batch_rows))
        return lambda: training.step(next(batches))


def _masked(rows: MaskedRows) -> dict[str, torch.Tensor]:
    labels = np.full(rows.token_ids.shape, -100, np.int64)
    np.put_along_axis(labels, rows.mask_positions, rows.mask_ids, axis=1)
    return {"input_ids": torch.from_numpy(rows.token_ids.astype(np.int64)), "labels": torch.from_numpy(labels)}


class Classification:
    """Answers texts in this process: tokenizer, padding to the longest, model, softmax, names."""

    def __init__(self, *, model: str, precision: str, threads: int, sequence_length: int):
        torch.set_num_threads(threads)
        tokenizer = AutoTokenizer.from_pretrained(model)
        self._variants = {
            name: _Answering(variant, tokenizer, model, sequence_length)
            for name, variant in INFERENCE[precision].items()
        }

    def prepare(self, *, test: str, calls: dict[str, int], seed: int) -> dict[str, Any]:
        """Warms every variant up and times it; each batch size goes on with its fastest."""
        tried: dict[str, dict[str, float]] = {size: {} for size in calls}
        for name, answering in self._variants.items():
            for size, count in calls.items():
                # As many untimed calls first: oneDNN makes a kernel for each new length.
                batches = text_batches(test, int(size), 2 * count, seed=seed)
                numbers = [latencies(answering, part) for part in (batches[:count], batches[count:])][1]
                tried[size][name] = round(numbers["milliseconds"], 2)
        self._chosen = {size: min(times, key=times.get) for size, times in tried.items()}
        return {"variant": self._chosen, "tried_milliseconds": tried}

    def turn(self, *, test: str, batch_size: int, calls: int, seed: int) -> dict[str, Any]:
        """Answers `calls` batches, drawn with `seed`."""
        answering = self._variants[self._chosen[str(batch_size)]]
        return latencies(answering, text_batches(test, batch_size, calls, seed=seed))

    def answers(self, *, texts: list[str]) -> list[tuple[str, float]]:
        """Returns each text's label and score, by the variant for the greatest batch."""
        return self._variants[self._chosen[max(self._chosen, key=int)]](texts)


class _Answering:
    """Texts to labels and scores, by one variant."""

    def __init__(self, variant: Variant, tokenizer, directory: str, sequence_length: int):
        self._variant, self._tokenizer, self._sequence_length = variant, tokenizer, sequence_length
        self._model = variant.model(directory).eval()

    def __call__(self, texts: list[str]) -> list[tuple[str, float]]:
        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._sequence_length, return_tensors="pt"
        )
        with torch.inference_mode(), self._variant.precision():
            scores, best = self._model(**inputs).logits.float().softmax(-1).max(-1)
        names = self._model.config.id2label
        return [(names[index], score) for index, score in zip(best.tolist(), scores.tolist(), strict=True)]


def _real_tokens(batch) -> int:
    return int(batch["attention_mask"].sum())
