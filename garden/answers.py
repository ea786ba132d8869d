"""How the command line shows what a task answers: a line of columns, or of JSON."""

from __future__ import annotations

from typing import Any

import click

from garden.commands import print_json


def print_answer(text: Any, answer: Any, *, as_json: bool) -> None:
    """Prints a text, or a pair of texts or words, and what a task's `predict_text` answers: one line."""
    sides = list(text) if isinstance(text, tuple) else [text]
    if as_json:
        print_json({**dict(zip(("text", "pair"), sides, strict=False)), **_named(answer)})
        return
    sides = [side if isinstance(side, str) else " ".join(side) for side in sides]
    click.echo("\t".join([*_columns(answer), *sides]))


def _named(answer: Any) -> dict[str, Any]:
    """Returns an answer as a JSON object: an array is a vector, a list of entities, perhaps of none, or of candidates."""
    if isinstance(answer, dict):
        return answer
    if not isinstance(answer, list):
        return {"embedding": answer.tolist()}
    return {"entities" if _are_entities(answer) else "candidates": answer}


def _are_entities(answer: list) -> bool:
    return not answer or "start" in answer[0]


def _columns(answer: Any) -> list[str]:
    """Returns what a line says of an answer: a label and its score, a number, entities, candidates, likelihoods, a vector."""
    if isinstance(answer, dict):
        if "tokens" in answer:
            tokens = zip(answer["tokens"], answer["scores"], strict=True)
            return [", ".join(f"{token} {score:.4f}" for token, score in tokens)]
        if "labels" in answer:
            return [", ".join(f"{label} {answer['scores'][label]:.4f}" for label in answer["labels"])]
        if "generated_text" in answer:
            return [answer["generated_text"]]
        if "perplexity" in answer:
            return [f"{answer['log_likelihood']:.4f}", f"{answer['perplexity']:.4f}"]
        return [*(answer[name] for name in ("label", "answer") if name in answer), f"{answer['score']:.4f}"]
    if not isinstance(answer, list):
        return [" ".join(f"{value:.6f}" for value in answer.tolist())]
    if _are_entities(answer):
        return [", ".join(f"{found['label']} {found['text']} {found['score']:.4f}" for found in answer)]
    masks = answer if isinstance(answer[0], list) else [answer]
    return [", ".join(f"{given['token']} {given['score']:.4f}" for given in candidates) for candidates in masks]
