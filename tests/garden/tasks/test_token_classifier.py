"""Token classification: which token a label belongs to, windows, entities, answers, and directories."""

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from garden import TokenClassifier
from garden.checkpoints import huggingface
from garden.models.bert import BertBackbone, BertConfig
from garden.tasks.batching import tokens_of
from garden.tasks.entities import Scheme
from garden.tasks.examples import clear_errors
from garden.tasks.inputs import _part
from garden.tasks.windows import windows

PIECES = ["ada", "love", "##lace", "##s", "bob", "paris", "new", "york", "likes", "the", "film", "wrote", "a", ".", "-"]
PIECES += ["東", "京", "##京", "u", "s", "and"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES]
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
WORDS = [["Ada", "Lovelace", "likes", "Paris"], ["the", "film"], ["New", "York", ".", "Bob", "wrote"], ["Lovelaces"]]
NAMES = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"], ["B-LOC", "I-LOC", "O", "B-PER", "O"], ["B-PER"]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("words")
    keras.utils.set_random_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    BertBackbone(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def make(checkpoint):
    return lambda **options: TokenClassifier.from_pretrained(checkpoint, **{"labels": LABELS, **options})


@pytest.fixture(scope="module")
def model(make):
    model = make(batching="padded")
    model.compile(run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def trained(make):
    """Knows names after a few seconds."""
    draw = random.Random(0)
    parts = [
        (["Ada", "Lovelace"], ["B-PER", "I-PER"]),
        (["Bob"], ["B-PER"]),
        (["Paris"], ["B-LOC"]),
        (["New", "York"], ["B-LOC", "I-LOC"]),
        *((([word]), ["O"]) for word in ("likes", "the", "film", ".", "wrote")),
    ]
    chosen = [[draw.choice(parts) for _ in range(draw.randint(1, 5))] for _ in range(192)]
    words, names = ([[each for part in text for each in part[side]] for text in chosen] for side in (0, 1))
    model = make(seed=1)
    model.compile(learning_rate=2e-2)
    model.fit(words, names, epochs=5, verbose=0)
    return model


def prepared(model, raw):
    """What `prepared_dataset` gives, without the time that tracing takes."""
    return [model.inputs(batch, training=False, seed=tf.constant([0, 0])) for batch in raw]


def placed(model, texts, labels=None):
    """Tokens and their classes, of one text a row, as [(token, class or None)] without padding."""
    raw = model.raw_dataset(texts, labels, batch_size=len(texts) if isinstance(texts, list) else 32)
    rows = []
    for x, y, weights in prepared(model, raw):
        np.testing.assert_array_equal(weights.numpy() > 0, y.numpy() >= 0)
        for ids, segments, classes in zip(
            *(part.numpy() for part in (x["token_ids"], x["segment_ids"], y)), strict=True
        ):
            real = segments > 0
            names = [LABELS[number] if number >= 0 else None for number in classes[real]]
            rows.append(list(zip([VOCABULARY[number] for number in ids[real]], names, strict=True)))
    return rows


# Alignment.


def test_first_tokens_have_their_words_labels(model):
    first, _, third, last = placed(model, WORDS, NAMES)
    assert first == [
        ("[CLS]", None),
        ("ada", "B-PER"),
        ("love", "I-PER"),
        ("##lace", None),
        ("likes", "O"),
        ("paris", "B-LOC"),
        ("[SEP]", None),
    ]
    assert [name for _, name in third] == [None, "B-LOC", "I-LOC", "O", "B-PER", "O", None]
    assert last == [("[CLS]", None), ("love", "B-PER"), ("##lace", None), ("##s", None), ("[SEP]", None)]


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        ([" ".join(words) for words in WORDS], NAMES),
        ([" ".join(words) for words in WORDS], [" ".join(names) for names in NAMES]),
        (WORDS, [[LABELS.index(name) for name in names] for names in NAMES]),
        ([np.array(words) for words in WORDS], [np.array([LABELS.index(name) for name in names]) for names in NAMES]),
        (tf.ragged.constant(WORDS), tf.ragged.constant(NAMES)),
        ([(words, names) for words, names in zip(WORDS, NAMES, strict=True)], None),
        (tf.data.Dataset.from_tensor_slices((tf.ragged.constant(WORDS), tf.ragged.constant(NAMES))).batch(4), None),
    ],
    ids=["strings", "strings of labels", "ids", "arrays", "ragged", "tuples", "dataset"],
)
def test_words_and_labels_in_all_their_forms(model, texts, labels):
    assert placed(model, texts, labels) == placed(model, WORDS, NAMES)


def test_datasets_of_padded_ids(model):
    ids = [[LABELS.index(name) for name in names] + [-100] * (5 - len(names)) for names in NAMES]
    dataset = tf.data.Dataset.from_tensor_slices(([" ".join(words) for words in WORDS], ids)).batch(4)
    assert placed(model, dataset) == placed(model, WORDS, NAMES)


def test_words_without_tokens_or_with_several(model):
    (row,) = placed(model, [["", "Ada", "U.S.", "\u200b", "the-film"]], [["O", "B-PER", "B-LOC", "O", "I-LOC"]])
    assert row[1:-1] == [
        ("ada", "B-PER"),
        *zip(["u", ".", "s", "."], ["B-LOC", None, None, None], strict=True),
        *zip(["the", "-", "film"], ["I-LOC", None, None], strict=True),
    ]
    (row,) = placed(model, [["Ada", "Bob"]], [[-100, "B-PER"]])
    assert row[1:-1] == [("ada", None), ("bob", "B-PER")]


def test_spans(model):
    text = "Ada Lovelaces wrote New York-Paris."
    spans = [
        {"start": 20, "end": 28, "label": "LOC"},
        {"start": 0, "end": 13, "label": "PER"},
        {"start": 29, "end": 34, "label": "LOC"},
    ]
    (row,) = placed(model, [text], [spans])
    assert row[1:-1] == [
        ("ada", "B-PER"),
        ("love", "I-PER"),
        ("##lace", None),
        ("##s", None),
        ("wrote", "O"),
        ("new", "B-LOC"),
        ("york", "I-LOC"),
        ("-", "O"),
        ("paris", "B-LOC"),
        (".", "O"),
    ]
    # A span that begins inside of a word, or of a token, and a text without spans.
    (row, inside, none) = placed(
        model,
        ["Lovelace likes", "Lovelace likes", "the film"],
        [[{"start": 4, "end": 8, "label": "PER"}], [{"start": 6, "end": 8, "label": "PER"}], []],
    )
    assert row[1:-1] == [("love", "O"), ("##lace", "B-PER"), ("likes", "O")]
    assert inside[1:-1] == [("love", "O"), ("##lace", "B-PER"), ("likes", "O")]
    assert none[1:-1] == [("the", "O"), ("film", "O")]


@pytest.mark.parametrize("add_prefix_space", [True, False])
@pytest.mark.parametrize("trim_offsets", [True, False])
def test_alignment_is_that_of_word_ids_byte_level(checkpoint, tmp_path, add_prefix_space, trim_offsets):
    """Byte-level BPE, whose tokens may begin with the space before them."""
    sentences = ["Ada Lovelace likes New York", "the film wrote Paris äöü 🦊🦊 東京", "don't U.S. the-film 1,000"]
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    level = tokenizers.pre_tokenizers.ByteLevel
    fast.pre_tokenizer = level(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<pad>", "</s>"], initial_alphabet=level.alphabet(), show_progress=False
    )
    fast.train_from_iterator(sentences * 3, trainer)
    check_word_ids(fast, level, sentences, tmp_path, add_prefix_space, trim_offsets)


def check_word_ids(fast, level, sentences, directory, add_prefix_space, trim_offsets):
    """Compares classes with transformers' recipe: the first of each word's tokens has its label, the others -100."""
    fast.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets, add_prefix_space=add_prefix_space
    )
    fast.decoder = tokenizers.decoders.ByteLevel()
    # Words that are given apart need a space before each; of a text the first may go without.
    fast.pre_tokenizer = level(add_prefix_space=add_prefix_space, trim_offsets=trim_offsets)
    fast.save(str(directory / "tokenizer.json"))
    reference = tokenizers.Tokenizer.from_str(fast.to_str())
    from garden import Tokenizer

    tokenizer = Tokenizer.from_pretrained(directory)
    backbone = BertBackbone(
        BertConfig(
            vocab_size=tokenizer.vocabulary_size,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=128,
        ),
        pooler=False,
    )
    model = TokenClassifier.build_on(
        backbone, tokenizer, labels=[str(number) for number in range(12)], batching="padded"
    )
    words = [sentence.split() for sentence in sentences]
    labels = [list(range(len(each))) for each in words]
    ((x, y, _),) = prepared(model, model.raw_dataset(words, labels))
    for row, text in enumerate(words):
        parts = [word if index == 0 and not add_prefix_space else " " + word for index, word in enumerate(text)]
        encodings = [
            reference.encode(part.strip() if add_prefix_space else part, add_special_tokens=False) for part in parts
        ]
        ids = [0, *(number for encoding in encodings for number in encoding.ids), 2]
        expected = [-1]
        for number, encoding in enumerate(encodings):
            expected += [number] + [-1] * (len(encoding.ids) - 1)
        real = x["segment_ids"][row].numpy() > 0
        np.testing.assert_array_equal(x["token_ids"][row].numpy()[real], ids)
        np.testing.assert_array_equal(y[row].numpy()[real], [*expected, -1])


def test_alignment_is_that_of_word_ids(model):
    reference = tokenizers.BertWordPieceTokenizer({token: index for index, token in enumerate(VOCABULARY)})
    draw = random.Random(3)
    choices = ["Ada", "Lovelaces", "U.S.", "東京", "the-film", "unknown", "...", "É", "s'and", "New"]
    words = [[draw.choice(choices) for _ in range(draw.randint(1, 5))] for _ in range(40)]
    labels = [[draw.choice(LABELS) for _ in text] for text in words]
    for text, names, row in zip(words, labels, placed(model, words, labels), strict=True):
        encoding = reference.encode(text, is_pretokenized=True)
        expected, before = [], None
        for token, word in zip(encoding.tokens, encoding.word_ids, strict=True):
            expected.append((token, names[word] if word is not None and word != before else None))
            before = word
        assert row == expected


# Wrong data.


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a b"], [["O"]], "text 0: expected one label for each of 2 words, got 1"),
        ([["a"], ["b", "c"]], [["O"], ["O", "X"]], r"text 1, word 1: 'X' is not one of the 5 classes \(\"O\", "),
        (["a"], [[{"start": 0, "end": 1, "label": "ORG"}]], r'text 0: "ORG" is none of the entities \("PER", "LOC"\)'),
        (
            ["a"],
            [[{"start": 0, "end": 2, "label": "PER"}]],
            "text 0: expected a span within its 1 characters, got 0 to 2",
        ),
        (["a"], [[{"start": 0, "end": 1}]], "text 0: expected spans"),
        (["a"], [3], "text 0: expected a list of labels"),
        ([["a"]], [[{"start": 0, "end": 1, "label": "PER"}]], "text 0: spans count characters of a string"),
        (
            ["a b c"],
            [[{"start": 0, "end": 3, "label": "PER"}, {"start": 2, "end": 5, "label": "PER"}]],
            "text 0: the span from 2 to 5 overlaps another; a word has one label",
        ),
        (["a"], None, "labels: none given"),
    ],
)
def test_labels_that_do_not_fit(model, texts, labels, message):
    with pytest.raises(ValueError, match=message):
        model.fit(texts, labels)


@pytest.mark.parametrize(
    ("words", "labels", "message"),
    [
        ([["a", "b"]], [["O"]], 'dataset: text "a b" or another has not one label a word'),
        ([["a", "b"]], [["O", "X"]], r'dataset: label "X" is not one of the 5 classes'),
        ([["a", "b"]], [[0, 5]], r'dataset: label "5" is not one of the 5 classes'),
    ],
)
def test_datasets_that_do_not_fit(model, words, labels, message):
    dataset = tf.data.Dataset.from_tensor_slices((tf.ragged.constant(words), tf.ragged.constant(labels))).batch(1)
    with pytest.raises(ValueError, match=message), clear_errors():
        list(model.raw_dataset(dataset))


def test_spans_need_an_outside(make):
    with pytest.raises(ValueError, match='spans need a class "O"'):
        make(labels=["PER", "LOC"]).fit(["a"], [[{"start": 0, "end": 1, "label": "PER"}]])


def test_texts_are_strings_or_words(model):
    with pytest.raises(TypeError, match="text 1: expected a string or a list of words, got 3"):
        model.fit(["a", 3], [["O"], ["O"]])
    with pytest.raises(TypeError, match="expected all strings, or all lists of words"):
        model.predict_text(["a", ["b"]])


# Losses and metrics.


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.5]])
def test_packed_and_padded_losses_are_one(make, checkpoint, weights):
    values = []
    for batching in ("packed", "padded"):
        model = make(batching=batching)
        model.compile(run_eagerly=True)
        values.append(model.evaluate(WORDS, NAMES, sample_weight=weights and np.array(weights), verbose=0)[:2])
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_the_loss_is_of_first_tokens_alone(model):
    losses = []
    for words, names in zip(WORDS, NAMES, strict=True):
        encoding = model.tokenizer.encode([" ".join(words)])
        logits = model({"token_ids": encoding.token_ids.to_tensor(), "type_ids": encoding.type_ids.to_tensor()})[
            0
        ].numpy()
        chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        tokens = [VOCABULARY[number] for number in encoding.token_ids[0].numpy()]
        firsts = [place for place, token in enumerate(tokens) if not token.startswith(("##", "["))]
        losses += [-chances[place, LABELS.index(name)] for place, name in zip(firsts, names, strict=True)]
    loss, accuracy, *_ = model.evaluate(WORDS, NAMES, verbose=0)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    assert 0 <= accuracy <= 1
    weights = {"O": 0.0, "B-PER": 2.0}
    raw = model.raw_dataset(WORDS, NAMES, class_weight=weights)
    ((_, y, given),) = prepared(model, raw)
    expected = np.array([0.0, 2.0, 1.0, 1.0, 1.0, 0.0])[y.numpy()]
    np.testing.assert_allclose(given, np.where(y < 0, 0, expected))


def test_prepared_rows_with_ignored_labels(model):
    ids = np.array([[2, 5, 6, 3], [2, 9, 3, 0]])
    labels = np.array([[-100, 1, 2, -100], [-100, 0, -100, -100]])
    given = {"token_ids": ids, "segment_ids": (ids > 0).astype(int)}
    loss = model.evaluate(given, labels, verbose=0)[0]
    logits = model(given).numpy()
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(loss, -np.mean([chances[0, 1, 1], chances[0, 2, 2], chances[1, 1, 0]]), rtol=1e-5)


def test_replicas_get_ragged_shares(model):
    (batch,) = model.raw_dataset(WORDS, NAMES)
    shares = [_part((batch,), part, 3) for part in range(3)]
    for name in ("text", "label"):
        whole = tf.concat([share[name] for share in shares], axis=0)
        values = (
            value.to_list() if isinstance(value, tf.RaggedTensor) else list(value.numpy())
            for value in (whole, batch[name])
        )
        assert next(values) == next(values)


# Windows.


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("count", [1, 29, 30, 31, 60, 200])
def test_each_word_of_a_long_text_counts_once(make, count, batching):
    model = make(batching=batching)
    names = [LABELS[index % 5] for index in range(count)]
    raw = model.raw_dataset([["Lovelaces"] * count, ["the"]], [names, ["O"]])
    ((x, y, weights),) = prepared(model, raw)
    assert x["token_ids"].shape[1] <= 32
    assert weights.numpy().sum() == count + 1
    counts = np.bincount(y.numpy()[y >= 0], minlength=5)
    np.testing.assert_array_equal(
        counts - [1, 0, 0, 0, 0], np.bincount([LABELS.index(name) for name in names], minlength=5)
    )
    starts = model.answer(tf.constant(["Lovelaces " * count]))["starts"]
    np.testing.assert_array_equal(starts, [np.arange(count) * 10])


@pytest.mark.parametrize("length", [5, 8, 17, None])
@pytest.mark.parametrize("overlap", [0, 1, 4, 100])
def test_windows_own_each_token_once(model, length, overlap):
    texts = tf.constant(["", "ada", "ada bob paris " * 7, "the"])
    cut = windows(model.tokenizer, texts, None, length=length, overlap=overlap)
    owned = tf.ragged.boolean_mask(cut.token, cut.owned).values
    np.testing.assert_array_equal(owned, range(23))
    assert length is None or cut.token_ids.row_lengths().numpy().max() <= length
    whole = model.tokenizer(texts, max_length=None)
    for window, text in enumerate(cut.text.numpy()):
        ids = cut.token_ids[window].numpy()
        assert (ids[0], ids[-1]) == (2, 3)
        inner = cut.token[window].numpy()[1:-1]
        base = int(cut.starts.row_starts()[text])
        np.testing.assert_array_equal(ids[1:-1], whole[text].numpy()[1:-1][inner - base])


# Entities.


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER I-LOC I-PER", [("PER", 0, 0), ("PER", 1, 1), ("LOC", 2, 2), ("PER", 3, 3)]),
        ("O O", []),
        ("", []),
        ("I-LOC B-LOC", [("LOC", 0, 0), ("LOC", 1, 1)]),
    ],
)
def test_entities_of_begins_and_insides(names, expected):
    assert entities(LABELS, names.split()) == expected


def entities(labels, names, texts=None):
    classes = tf.constant([labels.index(name) for name in names], tf.int32)
    words, entity, found = Scheme(labels).group(classes, tf.constant(texts or [0] * len(names), tf.int32))
    words, entity = words.numpy(), entity.numpy()
    return [
        (name.decode(), words[entity == index].min(), words[entity == index].max())
        for index, name in enumerate(found.numpy())
    ]


def test_entities_of_other_schemes():
    letters = ["O", *(f"{letter}-X" for letter in "BIES")]
    assert entities(letters, ["B-X", "I-X", "E-X", "S-X", "S-X", "O", "I-X", "E-X", "E-X"]) == [
        ("X", 0, 2),
        ("X", 3, 3),
        ("X", 4, 4),
        ("X", 6, 7),
        ("X", 8, 8),
    ]
    assert entities(["O", "PER", "E-mail"], ["PER", "PER", "E-mail", "O", "PER"]) == [
        ("PER", 0, 1),
        ("E-mail", 2, 2),
        ("PER", 4, 4),
    ]
    assert entities(["NOUN", "VERB"], ["NOUN", "NOUN", "VERB"]) == [("NOUN", 0, 0), ("NOUN", 1, 1), ("VERB", 2, 2)]
    assert entities(LABELS, ["B-PER", "I-PER"], [0, 1]) == [("PER", 0, 0), ("PER", 1, 1)]


# Answers.


def found(answer):
    return [(each["label"], each["text"]) for each in answer]


def test_a_model_learns_names(trained):
    text = "  Ada Lovelace likes\nNew York. Bob wrote Paris"
    answer = trained.predict_text(text)
    assert found(answer) == [("PER", "Ada Lovelace"), ("LOC", "New York"), ("PER", "Bob"), ("LOC", "Paris")]
    assert all(text[each["start"] : each["end"]] == each["text"] for each in answer)
    assert all(0.5 < each["score"] <= 1 for each in answer)
    assert trained.predict_text([text, "", "the film"]) == [answer, [], []]
    (words,) = trained.predict_text([["Ada", "Lovelace", "likes", "Paris"]])
    assert [(each["label"], each["start"], each["end"]) for each in words] == [("PER", 0, 12), ("LOC", 19, 24)]
    long = trained.predict_text("Bob likes the film . " * 40)
    assert [each["start"] for each in long] == [index * 21 for index in range(40)]
    assert trained.predict_text([]) == []


def test_answers_are_tensors_of_one_length(trained):
    answer = trained.answer(tf.constant(["Ada likes Lovelaces", "", "Bob"]))
    assert {len(value) for value in answer.values()} == {3}
    assert answer["labels"].numpy().tolist() == [[b"B-PER", b"O", b"I-PER"], [b""] * 3, [b"B-PER", b"", b""]]
    np.testing.assert_array_equal(answer["starts"], [[0, 4, 10], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(answer["ends"], [[3, 9, 19], [0, 0, 0], [3, 0, 0]])
    assert answer["entity_texts"][2, 0] == b"Bob"
    nothing = trained.answer(tf.zeros([0], tf.string))
    assert {len(value) for value in nothing.values()} == {0}


def test_words_of_texts_without_spaces(model):
    answer = model.answer(tf.constant(["東京-Lovelaces, \t\xa0u.s.", b"\xff bob", "\ta\u0301da"]))
    spans = [
        [(start, end) for start, end in zip(*pair, strict=True) if end]
        for pair in zip(answer["starts"].numpy(), answer["ends"].numpy(), strict=True)
    ]
    assert spans[0] == [(0, 1), (1, 2), (2, 3), (3, 12), (12, 13), (16, 17), (17, 18), (18, 19), (19, 20)]
    assert spans[1][-1] == (2, 5)
    assert spans[2] == [(1, 5)]


# Directories.


def test_saved_and_opened(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {str(index): name for index, name in enumerate(LABELS)}
    with huggingface.open_weights(tmp_path) as weights:
        assert weights.shape("classifier.weight") == (5, 32)
    opened = TokenClassifier.from_pretrained(tmp_path)
    assert opened.labels == LABELS
    assert found(opened.predict_text("Bob likes Paris")) == found(trained.predict_text("Bob likes Paris"))
    with pytest.raises(ValueError, match="has 5 classes"):
        TokenClassifier.from_pretrained(tmp_path, labels=["O", "X"])
    assert TokenClassifier.from_pretrained(tmp_path, labels=["O", "X"], new_head=True).labels == ["O", "X"]


def test_a_checkpoint_without_classes(checkpoint):
    with pytest.raises(ValueError, match="the checkpoint has no classes yet"):
        TokenClassifier.from_pretrained(checkpoint)


def test_files(model, tmp_path):
    lines = [{"text": words, "label": names} for words, names in zip(WORDS, NAMES, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert placed(model, tmp_path / "a.jsonl") == placed(model, WORDS, NAMES)
    table = [
        "text\tlabel",
        *(f"{' '.join(words)}\t{' '.join(names)}" for words, names in zip(WORDS, NAMES, strict=True)),
    ]
    (tmp_path / "a.tsv").write_text("\n".join(table), encoding="utf-8")
    assert placed(model, tmp_path / "a.tsv") == placed(model, WORDS, NAMES)


@pytest.mark.slow
def test_exported(trained, tmp_path):
    import serving

    directory = serving.export(trained, tmp_path)
    signatures = tf.saved_model.load(str(directory)).signatures
    texts = tf.constant(["Ada Lovelace likes New York.", "", "Bob"])
    given = signatures["serving_default"](text=texts)
    for name, value in trained.answer(texts).items():
        if value.dtype == tf.float32:
            np.testing.assert_allclose(given[name], value, atol=1e-5)
        else:
            np.testing.assert_array_equal(given[name], value)


def test_rows_have_tokens_only(model):
    ((x,),) = prepared(model, model.raw_dataset(["the film"], labelled=False))
    assert x.keys() == tokens_of(x).keys()
