"""Whatever a client sends, the server answers with JSON that blames the client, and goes on serving."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

PATHS = [
    "texts:predict",
    "texts:classify",
    "texts:regress",
    "numbers:predict",
]
# One connection for all examples, so they also prove that a bad request does not spoil the next.
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["instances", "good", 2**31, 2**63, 2**64, 1e39, -0.0])
    | st.builds(lambda text: {"b64": text}, st.text(max_size=6) | st.just("AAECAw=="))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["text", "x", "weights", "count", "b64"]) | st.text(max_size=4), inner, max_size=3
        )
    ),
    max_leaves=12,
)
signatures = st.sampled_from(
    ["serving_default", "classify", "regress", "raw", "two", "shapes", "total", "bool", "string", "float16"]
) | st.sampled_from(["float32", "float64", "int8", "int32", "uint64"])
requests = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": signatures | scalars,
        "instances": values | st.lists(values, max_size=4),
        "inputs": values,
        "examples": values
        | st.lists(st.dictionaries(st.sampled_from(["text", "x", "rank", "boost"]), values), max_size=3),
        "context": values,
    },
)


def check(rest, path, body):
    status, answer = rest.post(path, body)
    # 501 is TF Serving's answer to a dtype that JSON cannot carry.
    assert status == 200 or 400 <= status < 500 or status == 501, answer
    assert status == 200 or (list(answer) == ["error"] and answer["error"])
    assert rest.post("texts:predict", {"instances": ["good"]})[0] == 200


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(body=requests)
def test_any_request(rest, path, body):
    check(rest, path, body)


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(body=st.binary(max_size=64))
@example(body=b"\x00")
@example(body=b"\xef\xbb\xbf{}")
@example(body=b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}")
@example(body=b'{"inputs": ' + b"[" * 70 + b"1" + b"]" * 70 + b"}")
@example(body=b'{"instances": ' + b"[" * 200_000)
@example(body=b'{"instances": [' + b"1" * 10_000 + b"]}")
@example(body=b'{"instances": ["' + b"\xf0\x9f" + b'"]}')
@example(body=b'{"instances": ["\\udc80"]}')
@example(body=b'{"\\ud800": 1, "instances": ["a"]}')
@example(body=b'{"signature_name": "\\ud800", "instances": ["a"]}')
@example(body=b'{"signature_name": "classify", "examples": [{"\\ud800": 1}]}')
@example(body=b'{"signature_name": "classify", "examples": [{"text": "\\ud800"}]}')
def test_any_bytes(rest, path, body):
    check(rest, path, body)


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(data=st.data())
def test_a_damaged_request(rest, path, data):
    body = bytearray(json.dumps({"signature_name": "raw", "instances": ["good", {"b64": "AAEC"}]}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check(rest, path, bytes(body))


@FUZZ
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=30))
def test_any_path(rest, path):
    for prefix in ("/", "/v1/models/"):
        status, answer = rest.send("GET", prefix + path)
        assert status in (200, 400, 404)
        assert status == 200 or answer["error"]
