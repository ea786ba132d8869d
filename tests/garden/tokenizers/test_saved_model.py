"""A tokenizer in a SavedModel, loaded by a process that knows nothing of Garden."""

import json
import subprocess
import sys

import tensorflow as tf

from garden.tokenizers import AddedToken, WordPieceTokenizer

TEXTS = ["The gardener's naïve 中文 [MASK] \u200b 가", "", "x" * 200, "new york\x00 ++"]
PROGRAM = """
import json, sys, tensorflow as tf
assert "garden" not in sys.modules and "tensorflow_text" not in sys.modules
model = tf.saved_model.load(sys.argv[1])
out = model.signatures["serving_default"](text=tf.constant(json.loads(sys.argv[2])))
print(json.dumps([out["ids"].numpy().tolist(), [text.decode() for text in out["text"].numpy()]]))
"""


class Exported(tf.Module):
    """Holds a tokenizer, as a model would."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def serve(self, text):
        ids = self.tokenizer(text, max_length=16)
        return {"ids": ids.to_tensor(self.tokenizer.pad_id), "text": self.tokenizer.detokenize(ids)}


def test_loads_in_a_fresh_process_with_core_operations_only(tmp_path):
    letters = list("abcdefghijklmnopqrstuvwxyz中文'+") + [chr(point) for point in range(0x1100, 0x1200)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "garden", *letters, *("##" + c for c in letters)]
    tokenizer = WordPieceTokenizer(
        tokens,
        added_tokens=[
            AddedToken(id=4, content="[MASK]", special=True),
            AddedToken(id=len(tokens), content="New York", normalized=True),
        ],
    )
    eager = tokenizer(TEXTS, max_length=16)  # traced functions of its own must not end up in the export
    module = Exported(tokenizer)
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    assert not list((tmp_path / "assets").iterdir())
    assert (tmp_path / "saved_model.pb").stat().st_size < 1_000_000

    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(TEXTS)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    ids, texts = json.loads(result.stdout)
    assert ids == eager.to_tensor(0).numpy().tolist()
    assert texts == [text.decode() for text in tokenizer.detokenize(eager).numpy()]


def test_made_inside_a_function():
    """Its tables are constants of the program, not of the function that happens to make it."""
    made = []

    @tf.function
    def first(text):
        made.append(WordPieceTokenizer(["[UNK]", "[CLS]", "[SEP]", "a"]))
        return made[0](text).to_tensor()

    assert first(tf.constant(["a"])).numpy().tolist() == [[1, 3, 2]]
    assert made[0](["a a"]).to_list() == [[1, 3, 3, 2]]


def test_nothing_to_train_or_restore():
    module = Exported(WordPieceTokenizer(["[UNK]", "a"]))
    assert module.variables == ()
    assert module.submodules == (module.tokenizer,)
