"""Small SavedModels, and a server that serves them on loopback."""

import http.client
import json
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2


class Texts(tf.Module):
    """The signatures of a text classifier; a text is positive when it has more than three bytes."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def predict(self, text):
        score = tf.cast(tf.strings.length(text), tf.float32) / 10.0
        return {
            "label": tf.where(tf.strings.length(text) > 3, "positive", "negative"),
            "score": score,
            "scores": tf.stack([1.0 - score, score], axis=1),
            "classes": tf.tile([["negative", "positive"]], [tf.size(text), 1]),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        features = tf.io.parse_example(
            inputs,
            {
                "text": tf.io.FixedLenFeature([], tf.string),
                "boost": tf.io.FixedLenFeature([], tf.float32, 0.0),
                "rank": tf.io.FixedLenFeature([], tf.int64, 0),
            },
        )
        answer = self.predict(features["text"])
        bonus = features["boost"] + tf.cast(features["rank"], tf.float32)
        return {"classes": answer["classes"], "scores": answer["scores"] + bonus[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        features = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})
        return {"outputs": features["x"] * 2.0 + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def shout(self, text):
        return {"loud": tf.strings.upper(text)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def raw(self, text):
        return {"image_bytes": text, "caption": text}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, "seconds")])
    def wait(self, seconds):
        end = tf.timestamp() + tf.reduce_max(seconds)
        tf.while_loop(lambda now: now < end, lambda now: [tf.timestamp()], [tf.timestamp()])
        return {"waited": seconds}


class Numbers(tf.Module):
    """One signature for each dtype that gives its input back, and some with particular shapes."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, "weights"),
            tf.TensorSpec([None], tf.int32, "count"),
        ]
    )
    def two(self, weights, count):
        return {"total": tf.reduce_sum(weights, 1) * tf.cast(count, tf.float32), "count": count}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def total(self, x):
        return {"sum": tf.reduce_sum(x), "x": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def uneven(self, x):
        return {"x": x, "y": x[:1]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def halves(self, x):
        return {"y": tf.cast(x, tf.float16)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def fails(self, x):
        with tf.control_dependencies([tf.debugging.assert_positive(x, message="x must be positive")]):
            return {"y": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "x"), tf.TensorSpec([3, None], tf.int64, "table")])
    def shapes(self, x, table):
        return {"x": x, "table": table}


ECHO_DTYPES = [
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "string",
    "float16",
    "bfloat16",
]


def _echo(dtype):
    spec = tf.TensorSpec(None, tf.as_dtype(dtype), "x")
    return tf.function(lambda x: {"y": tf.identity(x)}, input_signature=[spec])


class Version(tf.Module):
    """Says which version it is, and repeats the text."""

    def __init__(self, version):
        super().__init__()
        self.version = tf.Variable(version, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def predict(self, text):
        return {"version": tf.fill(tf.shape(text), self.version), "echo": text}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def reverse(self, text):
        return {"version": tf.fill(tf.shape(text), self.version), "echo": tf.strings.join(["<", text, ">"])}


def save_texts(path):
    """The text model, with the method names that TF Serving's Classify and Regress ask for."""
    module = Texts()
    signatures = {
        "serving_default": module.predict,
        "classify": module.classify,
        "regress": module.regress,
        "shout": module.shout,
        "raw": module.raw,
        "wait": module.wait,
    }
    tf.saved_model.save(module, str(path), signatures=signatures)
    file = Path(path) / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for name in ("classify", "regress"):
        saved_model.meta_graphs[0].signature_def[name].method_name = f"tensorflow/serving/{name}"
    file.write_bytes(saved_model.SerializeToString())
    return path


def save_numbers(path):
    module = Numbers()
    module.echoes = [_echo(dtype) for dtype in ECHO_DTYPES]
    signatures = dict(zip(ECHO_DTYPES, module.echoes, strict=True))
    for name in ("two", "total", "uneven", "halves", "fails", "shapes"):
        signatures[name] = getattr(module, name)
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def save_version(path, version):
    module = Version(version)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.predict, "reverse": module.reverse})
    return path


class Rest:
    """A keep-alive connection that returns (status, parsed body)."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(self, method, path, body=None):
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.connection.request(method, path, body=body)
        response = self.connection.getresponse()
        data = response.read()
        assert response.headers["Content-Type"].startswith("application/json")
        return response.status, json.loads(data) if data else None

    def post(self, path, body):
        return self.send("POST", f"/v1/models/{path}", body)

    def get(self, path):
        return self.send("GET", f"/v1/models/{path}")


@pytest.fixture(scope="session")
def model_bases(tmp_path_factory):
    """Base directories with a version 1 each: of `texts` and of `numbers`."""
    root = tmp_path_factory.mktemp("models")
    save_texts(root / "texts" / "1")
    save_numbers(root / "numbers" / "1")
    return {"texts": root / "texts", "numbers": root / "numbers"}


@pytest.fixture(scope="session")
def version_models(tmp_path_factory):
    """Directories to copy from: a model that answers 1, and one that answers 2."""
    root = tmp_path_factory.mktemp("versions")
    return {number: save_version(root / str(number), number) for number in (1, 2)}


@pytest.fixture(scope="session")
def server(model_bases):
    """A server of both models on free ports of this process."""
    from serving.server import Server

    with Server(model_bases, port=0, grpc_port=0) as running:
        yield running


@pytest.fixture
def rest(server):
    connection = Rest(server.port)
    yield connection
    connection.connection.close()


@pytest.fixture(scope="session")
def connect():
    """Opens a REST connection to a port."""
    return Rest
