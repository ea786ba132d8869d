"""Runs that learn from a corpus: built or read as they go, continued exactly, refused where something does not fit."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from launching import two_workers
from safetensors.numpy import load_file
from small_networks import SMALL

import garden
from garden.tokenizers import Tokenizer
from training.config import make_config
from training.corpora.build import build
from training.corpora.config import make_corpus_config
from training.corpora.readers import SourceFile
from training.corpora.streaming import StreamedRows
from training.corpora.workers import Local
from training.models import build_task
from training.output import read_metrics
from training.packing import Layout
from training.pretraining import corpus_batches
from training.run import run

WORDS = "a the film story with an end and actors is it was good great fine lovely moving bad dull poor awful tiresome"
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A JSONL file of 300 texts in which each word follows from the one before: there is something to learn."""
    words = WORDS.split()
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(300):
            begin, length = draw.randrange(len(words)), draw.randint(3, 60)
            text = " ".join(words[(begin + each) % len(words)] for each in range(length))
            file.write(json.dumps({"text": f"{text}."}) + "\n")
    return path


@pytest.fixture(scope="module")
def corpus_values(documents, tiny_bert):
    return {
        "sources": [{"name": "words", "paths": [str(documents)]}],
        "tokenizer": str(tiny_bert),
        "sequence_length": 32,
        "validation_share": 0.1,
    }


@pytest.fixture(scope="module")
def corpora(corpus_values, tmp_path_factory):
    """A built corpus of each layout, and a corpus config: layout -> path."""
    directory = tmp_path_factory.mktemp("corpora")
    for layout in ("single", "pair", "causal"):
        values = {**corpus_values, "layout": layout, "output": str(directory / layout)}
        build(make_corpus_config(values), Local(1))
    (directory / "streamed.yaml").write_text(json.dumps(corpus_values))
    return {path.stem: path for path in directory.iterdir()}


@pytest.fixture
def without_pictures(monkeypatch):
    """Leaves out what takes half of a small run's time."""
    monkeypatch.setattr("training.plots.draw_learning_curves", lambda lines, directory: None)
    monkeypatch.setattr("training.plots.draw_report", lambda results, directory: None)


@pytest.fixture
def config(tiny_bert, corpora, tmp_path, without_pictures):
    def make(corpus="single", *overrides, output="run", task="masked-lm", family="bert", sizes=SIZES, **training):
        values = {
            "task": task,
            "model": {"family": family, "config": sizes, "tokenizer": str(tiny_bert)},
            "data": {"corpus": str(corpora[corpus])},
            "training": {"learning_rate": 0.01, "batch_size": 8, "steps": 8, "log_steps": 4, **training},
            "output": str(tmp_path / output),
        }
        return make_config(values, overrides)

    return make


def batches(config, first=0, count=4):
    data = corpus_batches(config, build_task(config)).training(first)
    return [tf.nest.map_structure(lambda tensor: tensor.numpy(), batch) for batch in data.take(count)]


def assert_same(first, second):
    for one, other in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("corpus", ["single", pytest.param("streamed", marks=pytest.mark.slow)])
def test_a_run_learns_and_says_how_well(config, corpus):
    made = config(corpus, steps=30, validation_steps=10, keep="last")
    results = run(made)
    lines = read_metrics(Path(made.output))
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert losses[-1] < losses[0]
    assert results["report"]["perplexity"] == pytest.approx(np.exp(results["report"]["loss"]), rel=1e-4)
    assert 0 < results["report"]["masked_accuracy"] < 1
    assert garden.MaskedLM.from_pretrained(results["model"]).predict_text("a the [MASK] story")


def test_a_causal_run_tells_bits_a_byte(config):
    gpt = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    made = config("causal", task="causal-lm", family="gpt2", sizes=gpt)
    report = run(made)["report"]
    assert 0 < report["bits_per_byte"] < report["loss"] / np.log(2)


@pytest.mark.parametrize("corpus", [pytest.param("single", marks=pytest.mark.slow), "streamed"])
def test_batches_depend_on_the_seed_and_their_number_alone(config, corpus):
    made = config(corpus)
    whole = batches(made, count=6)
    assert_same(whole, batches(made, count=6))
    assert_same(whole[4:], batches(made, first=4, count=2))
    assert not np.array_equal(whole[0][0]["token_ids"], whole[1][0]["token_ids"])
    other = batches(config(corpus, seed=2), count=1)
    assert not np.array_equal(whole[0][0]["token_ids"], other[0][0]["token_ids"])


def test_masks_are_drawn_anew_in_each_pass(config):
    made = config()
    per_pass = corpus_batches(made, build_task(made)).per_pass
    x, y, _ = zip(*batches(made, count=3 * per_pass), strict=True)
    rows = np.concatenate([each["token_ids"] for each in x])
    assert len({row.tobytes() for row in rows}) > 0.9 * len(rows)
    assert len(y) == 3 * per_pass


def test_an_interrupted_run_ends_as_if_nothing_had_happened(config, tmp_path, interrupted_after):
    whole = config(output="whole", steps=8, checkpoint_steps=3)
    run(whole)
    cut = config(output="cut", steps=8, checkpoint_steps=3)
    with interrupted_after(5):
        run(cut)
    run(cut)
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("task", "objective", "layout", "model"),
    [
        ("masked-lm", {"name": "masked-lm", "unit": "word"}, "single", None),
        ("masked-lm-with-pairs", {}, "pair", None),
        pytest.param("masked-lm-with-pairs", {"name": "sentence-order"}, "pair", None, marks=pytest.mark.slow),
        ("replaced-token-detection", {}, "single", ("electra", {"embedding_size": 8, **SIZES})),
        ("text-embedding", {}, "single", None),
        (
            "seq2seq-lm",
            {"name": "denoising"},
            "single",
            (
                "bart",
                SMALL["bart"],
            ),
        ),
    ],
)
def test_every_objective_trains_its_task(config, task, objective, layout, model):
    family, sizes = model or ("bert", SIZES)
    made = config(
        layout,
        f"objective={json.dumps(objective)}",
        task=task,
        family=family,
        sizes=sizes,
        steps=4,
        log_steps=1,
    )
    assert np.isfinite(run(made)["report"]["loss"])


def test_decoders_begin_with_what_their_network_begins_with(config):
    """Not with what the objective takes where it knows no network: the end token, 3 here."""
    start = 4
    sizes = {**SMALL["bart"], "decoder_start_token_id": start}
    made = config("single", "objective.name=denoising", task="seq2seq-lm", family="bart", sizes=sizes)
    (x, _, _), *_ = batches(made, count=1)
    firsts = x["target_ids"][x["target_positions"] == 0]
    real = x["target_segment_ids"][x["target_positions"] == 0] > 0
    assert set(firsts[real].tolist()) == {start}


@pytest.mark.parametrize(
    ("corpus", "overrides", "message"),
    [
        ("causal", [], 'built with layout "causal", and objective "masked-lm" reads "single"'),
        ("single", ["training.sequence_length=16"], "sequence_length: 16, and the rows of .* have 32 places"),
        ("single", ["model.config.max_position_embeddings=16"], "rows of 32 places, the network has positions for 16"),
        ("single", ["data.weights.other=1"], 'the corpus has no source "other"; it has words'),
        ("streamed", ["data.weights.other=1"], 'the corpus has no source "other"; it has words'),
        ("single", ["objective.name=causal-lm"], 'learnt by task "causal-lm", and the task is "masked-lm"'),
        ("single", ["objective.name=guessing"], 'expected one of .*, got "guessing"'),
        ("single", ["objective.rate=1"], "rate: no such key"),
        ("single", ["task=token-classification"], 'objective.name: expected one of .*, got "token-classification"'),
        ("streamed", ["training.steps=null", "training.epochs=1"], "give steps or tokens, not epochs"),
        ("single", ["data.shards=3"], r"data.shards: 3 do not divide training.batch_size \(8\)"),
        ("single", ["data.service=data1:5050"], "for a corpus give data.shards instead"),
        ("single", ["task=text-embedding", "data.shards=2"], "which has to be made whole; leave it at 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(config, tmp_path, corpus, overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(config(corpus, *overrides))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_corpus_of_another_tokenizer_is_refused(config, tmp_path, tiny_bert):
    other = tmp_path / "other"
    shutil.copytree(tiny_bert, other)
    words = (other / "vocab.txt").read_text().split()
    words[6], words[7] = words[7], words[6]
    (other / "vocab.txt").write_text("\n".join(words) + "\n")
    for corpus, message in (
        ("single", "built with another tokenizer"),
        ("streamed", "is another tokenizer than the model's"),
    ):
        with pytest.raises(ValueError, match=message):
            run(config(corpus, f"model.tokenizer={other}"))


def test_a_corpus_that_is_not_there_is_named(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="build it with garden corpus build"):
        run(config("single", f"data.corpus={tmp_path / 'nothing'}"))


@pytest.mark.parametrize("shards", [1, 2])
def test_whoever_drops_batches_does_not_wait_for_their_tuner(config, shards):
    """See `garden.tasks.inputs.untuned`."""
    made = config("single", f"data.shards={shards}")
    model = build_task(made)
    for data in (corpus_batches(made, model).training(), model.prepared_dataset(model.raw_dataset(["a story"] * 4))):
        assert data.options().autotune.enabled is False


def test_two_replicas_see_the_batches_of_one_device(config):
    """Each batch is made whole before it is split, so no replica's masks depend on how many there are."""
    made = config()
    model = build_task(made)
    data = corpus_batches(made, model).training()
    x, y, weights = next(iter(data))
    from garden.tasks.inputs import _part

    halves = [_part((x, y, weights), tf.constant(part, tf.int64), 2) for part in range(2)]
    for whole, *parts in zip(*map(tf.nest.flatten, [(x, y, weights), *halves]), strict=True):
        np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts]), whole.numpy())


@pytest.mark.parametrize(
    ("corpus", "model"),
    [
        ("single", {}),
        pytest.param("streamed", {}, marks=pytest.mark.slow),
        pytest.param("single", {"task": "seq2seq-lm", "family": "bart", "sizes": SMALL["bart"]}, id="denoising"),
        pytest.param("pair", {"task": "masked-lm-with-pairs"}, id="pairs", marks=pytest.mark.slow),
    ],
)
def test_workers_shares_are_the_rows_of_the_whole_batch(config, corpus, model):
    made = config(corpus, "data.shards=4", **model)
    task = build_task(made)
    whole = list(corpus_batches(made, task).training(1).take(2))
    shares = [list(corpus_batches(made, task).training(1, worker, 2).take(2)) for worker in range(2)]
    for step in range(2):
        for all_rows, *parts in zip(
            *map(tf.nest.flatten, [whole[step], *(share[step] for share in shares)]), strict=True
        ):
            assert [part.shape[0] for part in (all_rows, *parts)] == [8, 4, 4]
            # The rows of a batch are as wide as its widest, and those of its parts may be less.
            wide = [tf.pad(part, [[0, 0], [0, all_rows.shape[1] - part.shape[1]]]).numpy() for part in parts]
            real = np.concatenate(
                [tf.pad(tf.ones_like(part), [[0, 0], [0, all_rows.shape[1] - part.shape[1]]]) for part in parts]
            )
            np.testing.assert_array_equal(np.concatenate(wide) * real, all_rows.numpy() * real)
    # Each shard draws for itself.
    first = shares[0][0][0]["token_ids"].numpy()
    assert not np.array_equal(first[:2], first[2:])


def test_workers_have_to_divide_the_shards(config):
    made = config("single", "data.shards=4")
    with pytest.raises(ValueError, match=r"data\.shards: 3 workers do not divide 4"):
        corpus_batches(made, build_task(made)).training(0, 0, 3)


@pytest.mark.parametrize(("files", "shards"), [(5, 2), (1, 2), (2, 1)])
def test_a_shard_of_a_stream_is_of_its_own_files_or_else_of_its_own_documents(
    documents, tiny_bert, tmp_path, monkeypatch, files, shards
):
    texts = documents.read_text().splitlines()[:60]
    for number in range(files):
        (tmp_path / f"{number}.jsonl").write_text("\n".join(texts[number::files]) + "\n")
    corpus = make_corpus_config(
        {
            "sources": [{"name": "words", "paths": [str(tmp_path)]}],
            "sequence_length": 32,
            "output": str(tmp_path / "corpus"),
        }
    )
    read, seen = [], {}
    of_file = SourceFile.read
    monkeypatch.setattr(
        SourceFile, "read", lambda file, reading: (read.append(Path(file.path).name), of_file(file, reading))[1]
    )
    stream = StreamedRows(
        corpus, Tokenizer.from_pretrained(tiny_bert), Layout(name="single", prefix=(2,), suffix=(3,)), seed=1
    )
    for shard in range(shards):
        read.clear()
        seen[shard] = list(stream._texts(corpus.sources[0], "train", 0, shard, shards))
        expected = [f"{number}.jsonl" for number in range(files)]
        assert read == (expected[shard::shards] if files >= shards else expected)
    together = [text for shard in range(shards) for text in seen[shard]]
    assert sorted(together) == sorted(json.loads(line)["text"] for line in texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "model"),
    [
        ("streamed", {}),
        pytest.param("single", {"task": "seq2seq-lm", "family": "bart", "sizes": SMALL["bart"]}, id="denoising"),
    ],
)
def test_workers_that_make_their_own_shards_learn_what_one_device_does(config, tmp_path, corpus, model):
    sizes = {**model.get("sizes", SIZES), **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)}
    if "family" in model:
        sizes = {**SMALL["bart"], "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    options = {"steps": 12, "validation_steps": 4, "log_steps": 1}
    made = config(corpus, "data.shards=4", **{**model, "sizes": sizes}, **options)
    run(made)
    (tmp_path / "config.yaml").write_text(made.to_yaml())
    workers = two_workers(tmp_path / "config.yaml", tmp_path / "workers")
    _, said = workers.communicate(timeout=300)
    assert workers.returncode == 0, said
    expected, given = (read_metrics(path) for path in (Path(made.output), tmp_path / "workers"))
    assert len(given) == len(expected) == 15
    for line, other in zip(expected, given, strict=True):
        assert other.keys() == line.keys()
        for name in line.keys() - {"real_tokens_per_second"}:
            assert other[name] == pytest.approx(line[name], rel=1e-5, abs=1e-5), (name, line["step"])
