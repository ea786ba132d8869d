"""The safetensors reader and writer against the reference library, and against every kind of broken file."""

import json
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from garden.checkpoints.safetensors import SafetensorsFile, write_safetensors

TYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int16, np.int8]
TYPES += [np.uint64, np.uint32, np.uint16, np.uint8, np.bool_, np.complex64]
SHAPES = [(), (1,), (7,), (3, 5), (2, 0, 4), (2, 3, 4)]


def some_arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        f"{np.dtype(dtype).name}.{number}": np.asarray(random.standard_normal(shape) * 50).astype(dtype)
        for dtype in TYPES
        for number, shape in enumerate(SHAPES)
        if dtype is not np.complex64
    } | {"complex": np.array([1 + 2j, 3], np.complex64)}


def read_all(path) -> dict[str, np.ndarray]:
    file = SafetensorsFile(path)
    return {name: tensor.read() for name, tensor in file.tensors.items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        assert ours[name].shape == array.shape, name
        assert ours[name].tobytes() == array.tobytes(), name


def raw_file(path, header, data: bytes = b"", length: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_reference_library_writes(tmp_path):
    arrays = some_arrays()
    safetensors.numpy.save_file(arrays, tmp_path / "a", metadata={"format": "pt", "by": "测试"})
    assert_same(read_all(tmp_path / "a"), arrays)
    assert SafetensorsFile(tmp_path / "a").metadata == {"format": "pt", "by": "测试"}


def test_the_reference_library_reads_what_is_written(tmp_path):
    arrays = some_arrays()
    write_safetensors(tmp_path / "a", arrays, {"format": "pt"})
    assert_same(safetensors.numpy.load_file(tmp_path / "a"), arrays)
    with safetensors.safe_open(tmp_path / "a", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_tensors_are_aligned_to_their_type(tmp_path):
    write_safetensors(tmp_path / "a", {"a": np.ones(3, np.int8), "b": np.ones(3), "c": np.ones(1, np.float32)})
    data = (tmp_path / "a").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert [header[name]["data_offsets"][0] for name in "bca"] == [0, 24, 28]


def test_shape_and_type_are_known_without_reading(tmp_path):
    write_safetensors(tmp_path / "a", {"a": np.ones((3, 4), ml_dtypes.bfloat16)})
    tensor = SafetensorsFile(tmp_path / "a").tensors["a"]
    assert (tensor.name, tensor.shape, tensor.dtype) == ("a", (3, 4), np.dtype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("shape", [(40, 33), (16, 16), (1, 5), (5, 1)])
def test_views_in_any_order_of_memory_are_written(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    views = {"transposed": array.T, "strided": array[::2, ::-1], "column": array[:, 0], "big": array.astype(">f4")}
    write_safetensors(tmp_path / "a", views)
    for name, value in read_all(tmp_path / "a").items():
        np.testing.assert_array_equal(value, views[name], err_msg=name)


def test_each_read_gives_an_array_of_its_own(tmp_path):
    write_safetensors(tmp_path / "a", {"a": np.zeros(3, np.float32)})
    tensor = SafetensorsFile(tmp_path / "a").tensors["a"]
    tensor.read()[:] = 1
    np.testing.assert_array_equal(tensor.read(), np.zeros(3))


def test_threads_may_read_at_the_same_time(tmp_path):
    arrays = {str(i): np.full((50, 50), i, np.int32) for i in range(20)}
    write_safetensors(tmp_path / "a", arrays)
    file = SafetensorsFile(tmp_path / "a")
    wrong = []

    def work():
        for name, array in arrays.items():
            if not np.array_equal(file.tensors[name].read(), array):
                wrong.append(name)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_reading_after_close_is_an_error(tmp_path):
    write_safetensors(tmp_path / "a", {"a": np.zeros(3)})
    file = SafetensorsFile(tmp_path / "a")
    tensor = file.tensors["a"]
    file.close()
    with pytest.raises(ValueError, match='closed before tensor "a" was read'):
        tensor.read()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_the_file_closes_with_its_last_tensor(tmp_path, recwarn):
    write_safetensors(tmp_path / "a", {"a": np.zeros(3)})
    file = SafetensorsFile(tmp_path / "a")
    tensor = file.tensors["a"]

    def open_files():
        return [path for path in Path("/proc/self/fd").iterdir() if path.resolve() == tmp_path / "a"]

    assert open_files()
    del file
    np.testing.assert_array_equal(tensor.read(), np.zeros(3))
    del tensor
    assert not open_files()
    assert not recwarn.list


def test_a_file_that_shrinks_while_open_is_an_error(tmp_path):
    write_safetensors(tmp_path / "a", {"a": np.zeros(100)})
    file = SafetensorsFile(tmp_path / "a")
    with open(tmp_path / "a", "r+b") as handle:
        handle.truncate(200)
    with pytest.raises(ValueError, match="became shorter"):
        file.tensors["a"].read()


BROKEN = {
    "0 bytes are too few": b"",
    "7 bytes are too few": b"1234567",
    "the limit is 100000000": (2**63).to_bytes(8, "little") + b"{}",
    "a header of 99 bytes in a file of 10": (99).to_bytes(8, "little") + b"{}",
}
BROKEN_HEADERS = {
    "not valid JSON": b"{",
    r"not valid JSON \(.*utf-8": b"\xff\xfe{}",
    "not valid JSON .*recursion": b"[" * 100_000,
    "not a JSON object": b"[]",
    'the name "a" is there twice': b'{"a":{"dtype":"F32"},"a":{}}',
    '"__metadata__" in the header is not an object': {"__metadata__": 1},
    "has no dtype, shape and data_offsets": {"a": {"dtype": "F32", "shape": [2]}},
    'tensor "a" has no dtype': {"a": [1, 2]},
    "has type 'F3'; types that are read: F64, F32": {"a": entry(dtype="F3")},
    r"has type \['F32'\]": {"a": entry(dtype=["F32"])},
    r"has shape \[-2\]": {"a": entry(shape=[-2])},
    r"has shape \[2\.0\]": {"a": entry(shape=[2.0])},
    r"has shape \[True, 2\]": {"a": entry(shape=[True, 2])},
    "larger than any array": {"a": entry(shape=[0, 2**62], offsets=[0, 0])},
    r"\[0, 1.*larger than any array": {"a": entry(shape=[0] + [1] * 64, offsets=[0, 0])},
    r"has data_offsets \[8, 0\]": {"a": entry(offsets=[8, 0])},
    r"has data_offsets \[0, 8, 9\]": {"a": entry(offsets=[0, 8, 9])},
    r"F32 of shape \[3\] takes 12 bytes, its data_offsets give 8": {"a": entry(shape=[3])},
    "leaves a hole before it": {"a": entry(offsets=[4, 12])},
    'tensor "b" begins at byte 4 .* expected 8 .*overlaps': {"a": entry(), "b": entry(offsets=[4, 12])},
    "describes 16 bytes of tensors, the file has 8; it is truncated": {"a": entry(), "b": entry(offsets=[8, 16])},
    "8 bytes follow the last tensor": {},
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_is_no_safetensors_file_is_refused(tmp_path, message):
    (tmp_path / "a").write_bytes(BROKEN[message])
    with pytest.raises(ValueError, match=message) as error:
        SafetensorsFile(tmp_path / "a")
    assert str(tmp_path / "a") in str(error.value)


@pytest.mark.parametrize("message", BROKEN_HEADERS)
def test_a_wrong_header_is_refused(tmp_path, message):
    raw_file(tmp_path / "a", BROKEN_HEADERS[message], b"12345678")
    with pytest.raises(ValueError, match=message) as error:
        SafetensorsFile(tmp_path / "a")
    assert str(tmp_path / "a") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        SafetensorsFile(tmp_path / "a")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        SafetensorsFile(tmp_path)


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([None]), np.ones(2, np.complex128)])
def test_types_that_the_format_lacks_are_refused_before_anything_is_written(tmp_path, array):
    with pytest.raises(ValueError, match=r'tensor "a" has type .* cast it to: float64, float32'):
        write_safetensors(tmp_path / "a", {"a": array})
    assert not (tmp_path / "a").exists()


def test_the_metadata_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="__metadata__"):
        write_safetensors(tmp_path / "a", {"__metadata__": np.ones(2)})


def test_the_data_need_not_be_aligned(tmp_path):
    header = {"a": entry(dtype="U8", shape=[1], offsets=[0, 1]), "b": entry(shape=[1], offsets=[1, 5])}
    raw_file(tmp_path / "a", header, b"\x07" + np.float32(2.5).tobytes())
    assert read_all(tmp_path / "a")["b"] == [2.5]


quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_read_or_refused(path):
    """A corrupt file is refused with a ValueError, or what is read is what the reference library reads."""
    try:
        ours = read_all(path)
    except ValueError:
        return
    assert_same(ours, safetensors.numpy.load_file(path))


@quick
@given(data=st.data())
def test_random_corruption_never_crashes(tmp_path, data):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(3, dtype=np.int8),
        "c": np.zeros((0, 2)),
    }
    write_safetensors(tmp_path / "a", arrays, {"format": "pt"})
    content = bytearray((tmp_path / "a").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Nearly all of the damage that can matter is in the header, the rest of the file is numbers.
        at = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["set", "cut", "insert", "delete"]))
        if action == "set":
            content[at] = data.draw(st.sampled_from([*b'0123456789[]{}",:-.eE\\F', 0, 255]) | st.integers(0, 255))
        elif action == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=4) | st.sampled_from([b"9", b"-", b"1e9"]))
        elif action == "delete" and len(content) > 1:
            del content[at]
        elif action == "cut" and at:
            del content[at:]
    (tmp_path / "a").write_bytes(content)
    assert_read_or_refused(tmp_path / "a")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(2**64),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F16", "X"]) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 16), min_size=2, max_size=2) | json_values,
    }
)


@quick
@given(header=st.dictionaries(st.sampled_from("ab") | st.text(max_size=3), entries | json_values, max_size=3))
def test_random_headers_never_crash(tmp_path, header):
    raw_file(tmp_path / "a", header, b"0123456789abcdef")
    assert_read_or_refused(tmp_path / "a")
