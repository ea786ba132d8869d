"""Question answering: where answers stand in windows, losses over texts, the best span, and directories."""

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden import QuestionAnswerer
from garden.models.bert import BertBackbone, BertConfig
from garden.tasks.question_answerer import answers_of
from garden.tasks.windows import windows

PIECES = [
    "ada",
    "bob",
    "eve",
    "max",
    "paris",
    "rome",
    "oslo",
    "bonn",
    "live",
    "##s",
    "in",
    "and",
    "who",
    "where",
    "?",
    ".",
]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES]
QUESTIONS = ["who?", "where?", "where lives ada?", "who?"]
CONTEXTS = ["Ada lives in Rome.", "Bob lives in Oslo and Eve in Paris.", "Ada lives.", "Max"]
ANSWERS = [
    {"text": "Ada", "start": 0},
    {"text": "Oslo and Eve", "start": 13},
    {"text": "", "start": 0},
    {"text": "Max", "start": 0},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("answers")
    keras.utils.set_random_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertBackbone(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def make(checkpoint):
    return lambda **options: QuestionAnswerer.from_pretrained(checkpoint, **options)


@pytest.fixture(scope="module")
def model(make):
    model = make(batching="padded", stride=4)
    model.compile(run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def trained(make):
    """Knows who lives where, and what is not asked, after a few seconds."""
    draw = random.Random(0)
    data = []
    for _ in range(192):
        name, place = draw.choice(["ada", "bob", "eve", "max"]), draw.choice(["paris", "rome", "oslo", "bonn"])
        context = f"{name} lives in {place}."
        question, answer = draw.choice(
            [("who?", name), ("where?", place), ("who?", name), ("where?", place), ("and?", "")]
        )
        data.append((question, context, {"text": answer, "start": context.index(answer)}))
    questions, contexts, answers = map(list, zip(*data, strict=True))
    model = make(stride=4)
    model.compile(learning_rate=1e-2)
    model.fit((questions, contexts), answers, epochs=20, batch_size=16, verbose=0)
    return model


def prepared(model, raw):
    """What `prepared_dataset` gives, without the time that tracing takes."""
    return [model.inputs(batch, training=False, seed=tf.constant([0, 0])) for batch in raw]


def placed(model, questions, contexts, answers):
    """The tokens between the places of each window's answer, [CLS] alone where it has none."""
    found = []
    for x, y, _ in prepared(model, model.raw_dataset((questions, contexts), answers)):
        for ids, places in zip(x["token_ids"].numpy(), y.numpy()[:, 0], strict=True):
            found.append(" ".join(VOCABULARY[number] for number in ids[places[0] : places[1] + 1]))
    return found


# Where answers are.


def test_places_of_answers(model):
    assert placed(model, QUESTIONS, CONTEXTS, ANSWERS) == ["ada", "oslo and eve", "[CLS]", "max"]


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": ["Ada", "in"], "answer_start": [0, 10]}, [], {"text": [], "answer_start": []}, None],
        [[{"text": "Ada", "start": 0}], {"text": "", "start": 0}, [], {"text": [""], "answer_start": [0]}],
    ],
)
def test_answers_in_all_their_forms(model, answers):
    assert placed(model, QUESTIONS, CONTEXTS, answers) == ["ada", "[CLS]", "[CLS]", "[CLS]"]


def test_answers_inside_of_words_take_their_tokens(model):
    answers = [{"text": "iv", "start": 5}, {"text": "s i", "start": 8}]
    assert placed(model, ["who?"] * 2, ["ada lives in rome"] * 2, answers) == ["live", "##s in"]


def test_datasets_of_characters(model):
    spans = np.array([[answer["start"], answer["start"] + len(answer["text"])] for answer in ANSWERS])
    dataset = tf.data.Dataset.from_tensor_slices(((QUESTIONS, CONTEXTS), spans)).batch(2)
    rows = [(x["token_ids"].numpy(), y.numpy()) for x, y, _ in prepared(model, model.raw_dataset(dataset))]
    found = [[ids[a : b + 1] for ids, ((a, b),) in zip(*row, strict=True)] for row in rows]
    words = [" ".join(VOCABULARY[number] for number in ids) for row in found for ids in row]
    assert words == ["ada", "oslo and eve", "[CLS]", "max"]


def test_packed_places_point_at_the_same_tokens(make):
    model = make(batching="packed", row_length=32)
    (batch,) = model.raw_dataset((QUESTIONS, CONTEXTS), ANSWERS)
    x, y, weights = model.inputs(batch, training=True, seed=tf.constant([0, 0]))
    assert x["token_ids"].shape[0] < 4
    found = {}
    for row, slot in zip(*np.nonzero(weights.numpy()), strict=True):
        begin, end = y.numpy()[row, slot]
        assert (x["segment_ids"].numpy()[row, begin : end + 1] == slot + 1).all()
        found[int(x["text_index"][row, slot])] = [VOCABULARY[n] for n in x["token_ids"].numpy()[row, begin : end + 1]]
    assert [" ".join(found[index]) for index in range(4)] == ["ada", "oslo and eve", "[CLS]", "max"]


@pytest.mark.parametrize("before", [0, 5, 17, 18, 19, 24, 40])
def test_windows_of_long_contexts(model, before):
    """Each window has the whole question, and those that have the whole answer know it."""
    context = "bob " * before + "ada and eve" + " bob" * 30
    answer = {"text": "ada and eve", "start": 4 * before}
    raw = model.raw_dataset((["who lives?"], [context]), [answer])
    ((x, y, _),) = prepared(model, raw)
    ids, places = x["token_ids"].numpy(), y.numpy()[:, 0]
    question = [2, *(VOCABULARY.index(word) for word in ("who", "live", "##s", "?")), 3]
    np.testing.assert_array_equal(ids[:, :6], [question] * len(ids))
    assert ids.shape[1] == 32
    known = 0
    wanted = [VOCABULARY.index(word) for word in ("ada", "and", "eve")]
    for row, (start, end) in zip(ids, places, strict=True):
        has = [place for place in range(30) if list(row[place : place + 3]) == wanted]
        assert (start, end) == ((has[0], has[0] + 2) if has else (0, 0))
        known += bool(has)
    assert known in (1, 2)
    # Four tokens are shared: 25 a window, 21 new ones in each after the first.
    assert len(ids) == -(-max(before + 33 - 25, 0) // 21) + 1


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [{"text": "Ada", "start": 1}],
            "answer to question 0: 'Ada' does not start at character 1 of its context, but 'da '",
        ),
        ([{"text": "Ada", "start": -3}], "does not start at character -3"),
        ([{"text": "Ada"}], r'answer to question 0: expected \{"text", "start"\}, got'),
        (["Ada"], r'expected \{"text", "start"\}, got \'Ada\''),
        ([{"text": "Ada", "start": "0"}], "expected the character at which it starts, got '0'"),
        (None, "labels: none given"),
    ],
)
def test_answers_that_do_not_fit(model, answers, message):
    with pytest.raises(ValueError, match=message):
        model.evaluate((["who?"], ["Ada lives"]), answers)


def test_questions_need_contexts(model):
    with pytest.raises(ValueError, match="expected pairs, a question and its context each"):
        model.fit(["who?"], [{"text": "Ada", "start": 0}])
    with pytest.raises(ValueError, match="expected pairs"):
        model.predict_text("who?")
    dataset = tf.data.Dataset.from_tensor_slices((["who?"], [[0, 1]])).batch(1)
    with pytest.raises(ValueError, match="expected \\(\\(questions, contexts\\), answers\\)"):
        model.evaluate(dataset)


def test_right_answers():
    assert answers_of({"text": ["a", "b"], "answer_start": [0, 2]}, "a b") == [("a", 0), ("b", 2)]
    assert answers_of([{"text": "a", "answer_start": 0}]) == [("a", 0)]
    assert answers_of({"text": "", "start": 0}) == answers_of([]) == answers_of(None) == []


# Losses and metrics.


def test_the_loss_is_over_the_text_alone(make):
    values = {}
    for batching in ("packed", "padded"):
        model = make(batching=batching)
        model.compile(run_eagerly=True)
        values[batching] = model.evaluate((QUESTIONS, CONTEXTS), ANSWERS, verbose=0, return_dict=True)
    losses, right = [], []
    for question, context, places in zip(QUESTIONS, CONTEXTS, [(4, 4), (8, 10), (0, 0), (4, 4)], strict=True):
        encoding = model.tokenizer.encode([question], [context])
        logits = model({"token_ids": encoding.token_ids.to_tensor(), "type_ids": encoding.type_ids.to_tensor()})[
            0
        ].numpy()
        chances = logits - np.log(np.exp(logits).sum(0, keepdims=True))
        losses.append(-np.mean([chances[place, side] for side, place in enumerate(places)]))
        right.append(logits.argmax(0) == places)
    for given in values.values():
        np.testing.assert_allclose(given["loss"], np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(given["start_accuracy"], np.mean(right, axis=0)[0])
        np.testing.assert_allclose(given["end_accuracy"], np.mean(right, axis=0)[1])
        np.testing.assert_allclose(given["exact_match"], np.mean(np.all(right, axis=1)))


def test_prepared_rows(model):
    ids = np.array([[2, 5, 6, 3], [2, 9, 3, 0]])
    places = np.array([[1, 2], [1, 1]])
    losses = []
    for row, length, (start, end) in zip(ids, (4, 3), places, strict=True):
        logits = model({"token_ids": row[None, :length]})[0].numpy()
        chances = logits - np.log(np.exp(logits).sum(0, keepdims=True))
        losses.append(-(chances[start, 0] + chances[end, 1]) / 2)
    given = {"token_ids": ids, "segment_ids": (ids > 0).astype(int)}
    np.testing.assert_allclose(model.evaluate(given, places, verbose=0)[0], np.mean(losses), rtol=1e-5)


# Answers.


def best_span(model, question, context, longest):
    """The best span of a context in one window, by trying all: score, start and end."""
    encoding = model.tokenizer.encode([question], [context])
    logits = model({"token_ids": encoding.token_ids.to_tensor(), "type_ids": encoding.type_ids.to_tensor()})[0].numpy()
    types, special = encoding.type_ids[0].numpy(), encoding.special[0].numpy()
    inside = [place for place in range(len(types)) if types[place] == 1 and not special[place]]
    some = [0, *inside]
    chances = np.zeros_like(logits)
    chances[some] = np.exp(logits[some]) / np.exp(logits[some]).sum(0, keepdims=True)
    spans = [
        (chances[a, 0] * chances[b, 1], int(encoding.starts[0, a]), int(encoding.ends[0, b]))
        for a in inside
        for b in inside
        if a <= b < a + longest
    ]
    return max(spans), chances[0].prod()


@pytest.mark.parametrize(("batching", "longest"), [("packed", 30), pytest.param("padded", 2, marks=pytest.mark.slow)])
def test_the_best_span_of_all(make, batching, longest):
    model = make(batching=batching, answer_length=longest)
    for _ in range(2):
        for given, question, context in zip(
            model.predict_text(list(zip(QUESTIONS, CONTEXTS, strict=True))), QUESTIONS, CONTEXTS, strict=True
        ):
            (score, start, end), none = best_span(model, question, context, longest)
            if model.answerless and none >= score:
                score, start, end = none, 0, 0
            np.testing.assert_allclose(given["score"], score, rtol=1e-4)
            assert (given["start"], given["end"], given["answer"]) == (start, end, context[start:end])
        model = make(batching=batching, answer_length=longest, answerless=True)


@pytest.mark.slow
def test_a_model_learns_to_answer(trained):
    assert trained.answerless
    context = "Eve lives in Bonn."
    who, where, neither = trained.predict_text([("who?", context), ("where?", context), ("and?", context)])
    assert (who["answer"], who["start"], who["end"]) == ("Eve", 0, 3)
    assert (where["answer"], where["start"], where["end"]) == ("Bonn", 13, 17)
    assert (neither["answer"], neither["start"], neither["end"]) == ("", 0, 0)
    assert all(0.3 < answer["score"] <= 1 for answer in (who, where, neither))
    assert trained.predict_text(("who?", context)) == who


@pytest.mark.parametrize("before", [0, 20, 40])
def test_answers_in_long_contexts(make, before):
    """The best span of all windows, each tried by itself."""
    model = make(stride=8)
    context = ". " * before + "Eve lives in Bonn" + " ." * 30
    cut = windows(model.tokenizer, tf.constant(["who?"]), tf.constant([context]), length=32, overlap=8)
    assert cut.token_ids.nrows() > 1
    spans = []
    for ids, types, token in zip(cut.token_ids, cut.type_ids, cut.token.numpy(), strict=True):
        logits = model({"token_ids": ids[None], "type_ids": types[None]})[0].numpy()
        inside = np.flatnonzero(token >= 0)
        chances = np.exp(logits) / np.exp(logits[[0, *inside]]).sum(0, keepdims=True)
        spans += [
            (chances[a, 0] * chances[b, 1], token[a], token[b]) for a in inside for b in inside if a <= b < a + 30
        ]
    score, first, last = max(spans)
    answer = model.predict_text(("who?", context))
    np.testing.assert_allclose(answer["score"], score, rtol=1e-4)
    assert (answer["start"], answer["end"]) == (cut.starts[0, first], cut.ends[0, last])
    assert context[answer["start"] : answer["end"]] == answer["answer"]


def test_strange_inputs_have_answers(model):
    texts = ["", "who?", "", "who " * 100, "who?", "who?"]
    contexts = ["", "", "Ada", "Ada", " \t ", b"\xff ada"]
    answer = model.answer(tf.constant(texts), tf.constant(contexts))
    assert {len(value) for value in answer.values()} == {6}
    assert (answer["end"].numpy() >= answer["start"].numpy()).all()
    assert [value.decode() for value in answer["answer"].numpy()[[0, 1, 2, 3, 4]]] == ["", "", "Ada", "Ada", ""]
    nothing = model.answer(tf.zeros([0], tf.string), tf.zeros([0], tf.string))
    assert {len(value) for value in nothing.values()} == {0}
    assert model.predict_text([]) == []


# Directories.


def test_saved_and_opened(make, tmp_path):
    model = make(stride=4, answerless=True)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertForQuestionAnswering"]
    opened = QuestionAnswerer.from_pretrained(tmp_path)
    assert (opened.answerless, opened.stride, opened.answer_length, opened.pairs) == (True, 4, 30, True)
    pair = ("where?", "Max lives in Rome.")
    assert opened.predict_text(pair) == model.predict_text(pair)


def test_files(model, tmp_path):
    lines = [
        {"text": question, "pair": context, "label": answer}
        for question, context, answer in zip(QUESTIONS, CONTEXTS, ANSWERS, strict=True)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    examples = model.examples(tmp_path / "a.jsonl")
    assert placed(model, examples.texts, examples.pairs, examples.labels) == ["ada", "oslo and eve", "[CLS]", "max"]


@pytest.mark.slow
def test_exported(trained, tmp_path):
    import serving

    directory = serving.export(trained, tmp_path)
    signatures = tf.saved_model.load(str(directory)).signatures
    pairs = [("who?", "Eve lives in Bonn."), ("and?", "Max lives in Rome. " * 20), ("", "")]
    questions, contexts = (tf.constant(side) for side in zip(*pairs, strict=True))
    given = signatures["serving_default"](text=questions, text_pair=contexts)
    for name, value in trained.answer(questions, contexts).items():
        if value.dtype == tf.float32:
            np.testing.assert_allclose(given[name], value, atol=1e-5)
        else:
            np.testing.assert_array_equal(given[name], value)
