"""What networks are for: one class a task, trained on raw texts and asked with raw texts."""

from garden.tasks.causal_lm import CausalLM
from garden.tasks.examples import Examples, read_examples
from garden.tasks.masked_lm import MaskedLM
from garden.tasks.masked_lm_with_pairs import MaskedLMWithPairs
from garden.tasks.question_answerer import QuestionAnswerer
from garden.tasks.replaced_token_detection import ReplacedTokenDetector
from garden.tasks.seq2seq_lm import Seq2SeqLM
from garden.tasks.task import Task
from garden.tasks.text_classifier import TextClassifier
from garden.tasks.text_embedder import TextEmbedder
from garden.tasks.token_classifier import TokenClassifier

TASKS: dict[str, type[Task]] = {
    task.name_in_configs: task
    for task in (
        CausalLM,
        MaskedLM,
        MaskedLMWithPairs,
        QuestionAnswerer,
        ReplacedTokenDetector,
        Seq2SeqLM,
        TextClassifier,
        TextEmbedder,
        TokenClassifier,
    )
}
"""Task classes by their name in run configs."""

__all__ = [
    "TASKS",
    "CausalLM",
    "Examples",
    "MaskedLM",
    "MaskedLMWithPairs",
    "QuestionAnswerer",
    "ReplacedTokenDetector",
    "Seq2SeqLM",
    "Task",
    "TextClassifier",
    "TextEmbedder",
    "TokenClassifier",
    "read_examples",
]
