"""PyTorch's files: every tensor of both formats, and a refusal, before anything runs, of everything that is no tensor."""

import gc
import io
import json
import os
import pickle
import resource
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from garden.checkpoints import open_weights
from garden.checkpoints.safetensors import SafetensorsFile
from garden.checkpoints.torch_files import TorchFile

GOLDEN = Path(__file__).parents[2] / "golden" / "torch"
EXPECTED = {name: tensor.read() for name, tensor in SafetensorsFile(GOLDEN / "expected.safetensors").tensors.items()}
NEW = {"float8", "uint16"}


# ---- What files hold -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["zip.bin", "legacy.bin", "nested.bin", "new_types.bin"])
def test_tensors_are_those_that_were_saved(file):
    tensors = TorchFile(GOLDEN / file).tensors
    assert set(tensors) == (NEW if file == "new_types.bin" else set(EXPECTED) - NEW)
    for name, tensor in tensors.items():
        array, expected = tensor.read(), EXPECTED[name]
        assert (tensor.shape, tensor.dtype) == (expected.shape, expected.dtype), name
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype), name
        assert array.tobytes() == expected.tobytes(), name
        assert array.flags.writeable
        assert array.flags.c_contiguous
        array[...] = 0  # the caller's own
        assert tensor.read().tobytes() == expected.tobytes(), name


def test_tensors_that_lie_in_one_piece_are_read_in_strips():
    tensors = TorchFile(GOLDEN / "zip.bin").tensors
    for name in ("base", "rows", "parameter", "bfloat16", "int64", "empty"):
        expected = EXPECTED[name]
        for begin in range(len(expected)):
            rows = np.empty_like(expected[begin:])
            tensors[name].read_rows(begin, rows)
            assert rows.tobytes() == expected[begin:].tobytes(), name
    assert all(tensors[name].read_rows is None for name in ("transposed", "columns", "every_third", "expanded"))


def test_a_directory_falls_back_to_it(tmp_path):
    shutil.copy(GOLDEN / "zip.bin", tmp_path / "pytorch_model.bin")
    with open_weights(tmp_path) as weights:
        assert weights.path.name == "pytorch_model.bin"
        np.testing.assert_array_equal(weights["columns"], EXPECTED["columns"])
    with pytest.raises(ValueError, match=r'pytorch_model.bin: closed before tensor "base" was read'):
        weights["base"]
    shutil.copy(GOLDEN / "expected.safetensors", tmp_path / "model.safetensors")
    with open_weights(tmp_path) as weights:
        assert weights.path.name == "model.safetensors"


def test_shards_and_their_index(tmp_path):
    with open_weights(GOLDEN / "sharded") as weights:
        assert sorted(weights) == ["base", "double", "half"]
        np.testing.assert_array_equal(weights["double"], EXPECTED["double"])
    for shard, message in (
        ("../pytorch_model.bin", "is not the name of a file in the same directory"),
        ("pytorch_model-00001-of-00002.bin", "which does not have it"),
        ("gone.bin", "shard gone.bin is missing"),
    ):
        directory = tmp_path / str(len(message))
        shutil.copytree(GOLDEN / "sharded", directory)
        index = directory / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": {"double": shard}}))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_weights(directory)


def test_files_close_with_their_last_tensor():
    before = len(os.listdir("/proc/self/fd"))
    tensor = TorchFile(GOLDEN / "zip.bin").tensors["base"]
    np.testing.assert_array_equal(tensor.read(), EXPECTED["base"])
    del tensor
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- What is refused -------------------------------------------------------------------------------------------------


class Global:
    """Pickles as a name, whatever it is: what an attacker would write."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Pickler(pickle._Pickler):
    """Writes `Global`s as names or calls, and storages as PyTorch refers to them."""

    def persistent_id(self, value):
        return value.arguments if isinstance(value, Global) and value.name == "persistent" else None

    def save(self, value, **options):
        if isinstance(value, Global) and value.name != "persistent":
            self.write(b"c" + value.name.replace(" ", "\n").encode() + b"\n")
            if value.arguments:
                super().save(value.arguments[0])
                self.write(pickle.REDUCE)
            return
        super().save(value, **options)


def pickled(value) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, 2).dump(value)
    return stream.getvalue()


FLOATS = Global("torch FloatStorage")


def storage(count=6, key="0", kind=FLOATS):
    return Global("persistent", "storage", kind, key, "cpu", count)


def tensor(offset=0, shape=(2, 3), strides=(3, 1), held=None, function="torch._utils _rebuild_tensor_v2"):
    held = storage() if held is None else held
    return Global(function, (held, offset, shape, strides, False, {}))


def archive(path, described, *, records=None, method=zipfile.ZIP_STORED, root="archive"):
    """A zip archive as PyTorch's, whose storage "0" has the numbers 0 to 5."""
    described = described if isinstance(described, bytes) else pickled(described)
    records = {"data/0": np.arange(6, dtype=np.float32).tobytes()} if records is None else records
    with zipfile.ZipFile(path, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in [("data.pkl", described), *(records if isinstance(records, list) else records.items())]:
            file.writestr(f"{root}/{name}", data)
    return path


def test_the_archives_of_these_tests_are_read(tmp_path):
    path = archive(tmp_path / "a.bin", {"x": tensor(), "y": tensor(1, (2,), (3,))})
    tensors = TorchFile(path).tensors
    np.testing.assert_array_equal(tensors["x"].read(), np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(tensors["y"].read(), [1, 4])


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Global("posix system", ("touch pwned",)), "posix.system"),
        (Global("builtins eval", ("open('pwned', 'w')",)), "builtins.eval"),
        (Global("torch.storage _load_from_bytes", (b"x",)), "torch.storage._load_from_bytes"),
        (Global("torch load", ("pwned",)), "torch.load"),
        (Global("collections.abc OrderedDict", ()), "collections.abc.OrderedDict"),
        (Global("torch.nn.modules.linear Linear"), "torch.nn.modules.linear.Linear"),
        (Global("numpy.core.multiarray scalar", (1,)), "numpy.core.multiarray.scalar"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_other_names_are_refused_and_never_called(tmp_path, monkeypatch, value, named, legacy):
    monkeypatch.chdir(tmp_path)
    described = {"x": tensor(), "y": value}
    if legacy:
        path = tmp_path / "a.bin"
        parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, described, ["0"]]
        path.write_bytes(b"".join(map(pickled, parts)) + (6).to_bytes(8, "little") + bytes(24))
    else:
        path = archive(tmp_path / "a.bin", described)
    with pytest.raises(ValueError, match=rf'a.bin: the pickle asks for "{named}", which is not a part of tensors'):
        TorchFile(path)
    assert not Path("pwned").exists()


def test_a_pickled_network_is_refused():
    with pytest.raises(ValueError, match=r'whole_module.bin: the pickle asks for "torch.nn.modules.linear.Linear"'):
        TorchFile(GOLDEN / "whole_module.bin")


@pytest.mark.parametrize(
    ("code", "opcode"),
    [
        (b"\x80\x02(iposix\nsystem\n.", "INST"),
        (b"\x80\x02(ctorch\nSize\no.", "OBJ"),
        (b"\x80\x02}(U\x01x)\x81u.", "NEWOBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pname\n.", "PERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x042.", "DUP"),
        (b"\x80\x04\x8f.", "EMPTY_SET"),
    ],
)
def test_other_opcodes_are_refused_by_name(tmp_path, code, opcode):
    with pytest.raises(ValueError, match=rf"a.bin: pickle opcode {opcode} \(byte \d+\) is not one that tensors need"):
        TorchFile(archive(tmp_path / "a.bin", code))


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"x": tensor(offset=1)}, 'reach beyond storage "0" of 24 bytes'),
        ({"x": tensor(offset=-1)}, "offset -1"),
        ({"x": tensor(strides=(4, 1))}, "reach beyond storage"),
        ({"x": tensor(strides=(-3, 1))}, "strides"),
        ({"x": tensor(shape=(2**62, 2**62), strides=(0, 0))}, "repeats the 24 bytes"),
        ({"x": tensor(shape=(2, 2**40), strides=(2**40, 1))}, "reach beyond storage"),
        ({"x": tensor(shape=(2**70,), strides=(1,))}, "shape"),
        ({"x": tensor(shape=(2,), strides=(3, 1))}, "with strides"),
        ({"x": tensor(shape=(1,) * 33, strides=(1,) * 33)}, "with strides"),
        ({"x": tensor(shape=(True, 2), strides=(1, 1))}, "shape"),
        ({"x": tensor(held=[1])}, "a list where a storage is expected"),
        ({"x": tensor(held=storage(-1))}, "a storage without a known type, a name and a length"),
        ({"x": tensor(held=storage(kind="FloatStorage"))}, "a storage without a known type"),
        ({"x": tensor(held=storage(key="../../etc/passwd"))}, "is not in the file"),
        ({"x": tensor(held=storage(7))}, "has 24 bytes, expected 28"),
        ({"x": tensor(held=Global("persistent", "module", "x", "y", "z", 1))}, "refers to a 'module'"),
        ({"x": Global("torch._utils _rebuild_parameter", ([], True, {}))}, "a list where a tensor is expected"),
        ({"x": Global("torch._utils _rebuild_tensor_v2", ())}, "_rebuild_tensor_v2"),
        ({"x": 3}, "'x' is a int, expected a name and a tensor"),
        ({3: tensor()}, "3 is a tensor, expected a name and a tensor"),
        ({("a",): tensor()}, "a dictionary with a tuple as key"),
        ({"model": {"x": tensor(), "y": "text"}}, "'y' is a str"),
        ([tensor()], "holds a list, expected a dictionary of tensors"),
        (b"\x80\x02", "pickle"),
        (b"\x80\x02}", "pickle"),
        (b"\x80\x02.", "takes a value that is not there"),
        (b"\x80\x02}}.", "ends with values left over"),
        (b"\x80\x02(.", "takes a value that is not there"),
        (b"\x80\x02t.", "a mark that is not there"),
        (b"\x80\x02h\x05.", "takes value 5, which it has not kept"),
        (b"\x80\x02]K\x01b.", "a state of its own"),
        (b"\x80\x02K\x01K\x02a.", "appends to a int"),
        (b"\x80\x02\x8a\x20" + b"\x7f" * 32 + b".", "a number of 255 bits"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "not a valid pickle"),
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "holds a list"),
    ],
)
def test_corrupt_descriptions_are_one_clear_error(tmp_path, described, message):
    with pytest.raises(ValueError, match=message) as error:
        TorchFile(archive(tmp_path / "a.bin", described))
    assert str(error.value).startswith(str(tmp_path / "a.bin"))


def test_corrupt_archives_are_one_clear_error(tmp_path):
    path, good = tmp_path / "a.bin", {"x": tensor()}

    def refused(message):
        with pytest.raises(ValueError, match=message) as error:
            TorchFile(path)
        assert str(error.value).startswith(str(path))

    archive(path, good, method=zipfile.ZIP_DEFLATED)
    refused("is compressed or encrypted")
    archive(path, good, records=[("data/0", bytes(24)), ("data/0", bytes(24))])
    refused("is there twice")
    archive(path, good, records={"data/0": bytes(24), "constants.pkl": b""})
    refused("a TorchScript program, which is code")
    archive(path, good, records={"data/0": bytes(24), "byteorder": b"big"})
    refused("byte order b'big' is not supported")
    archive(path, good, root="deep/er")
    refused("with 0 data.pkl, expected one")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled(good))
        file.writestr("b/data.pkl", pickled(good))
    refused("with 2 data.pkl, expected one")
    whole = archive(path, good).read_bytes()
    path.write_bytes(whole.replace(b"PK\x03\x04", b"PK\x03\x05").replace(b"PK\x03\x05", b"PK\x03\x04", 1))
    refused("is not where the directory says")
    for size in (0, 1, 3, 4, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused("a.bin")
    with pytest.raises(FileNotFoundError, match=r"gone.bin: no such file"):
        TorchFile(tmp_path / "gone.bin")


def test_records_that_overlap_are_refused(tmp_path):
    """A thousand names for one record would be a small file that converts to a huge one."""
    path = archive(tmp_path / "a.bin", {"x": tensor()}, records={"data/0": bytes(24), "data/1": bytes(24)})
    data = path.read_bytes()
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 1)
    previous = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    offset = slice(42, 46)
    twice = bytearray(data)
    twice[entry + offset.start : entry + offset.stop] = data[previous + offset.start : previous + offset.stop]
    path.write_bytes(twice)
    with pytest.raises(ValueError, match=r"a.bin: .*(overlap|not a whole zip)"):
        TorchFile(path)


def test_corrupt_files_of_before_are_one_clear_error(tmp_path):
    whole, path = (GOLDEN / "legacy.bin").read_bytes(), tmp_path / "a.bin"

    def refused(data, message):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            TorchFile(path)
        assert str(error.value).startswith(str(path))

    def made(*, magic=0x1950A86A20F9469CFC6C, version=1001, machine=None, keys=("0",), count=6):
        parts = [magic, version, machine or {"little_endian": True}, {"x": tensor()}, list(keys)]
        return b"".join(map(pickled, parts)) + count.to_bytes(8, "little", signed=True) + bytes(24)

    path.write_bytes(made())
    assert TorchFile(path).tensors["x"].shape == (2, 3)
    refused(b"", "neither a zip archive nor a PyTorch file")
    refused(b"no pickle at all", "neither a zip archive nor a PyTorch file")
    refused(made(magic=7), "neither a zip archive nor a PyTorch file")
    refused(made(version=1002), "format version 1002, expected 1001")
    refused(made(machine={"little_endian": False}), "not written by a little-endian machine")
    refused(made(keys=()), 'storage "0" is not in the file')
    refused(made(keys=("0", "0")), "is there twice or cut short")
    refused(made(keys=("9",)), "belongs to no tensor")
    refused(made(count=-1), "is cut short")
    refused(made(count=7), "is cut short")
    refused(made(count=5), "has 20 bytes, expected 24")
    for size in range(0, len(whole) - 1, 97):
        refused(whole[:size], "a.bin")


def opened(data: bytes, path: Path) -> None:
    """Opens and reads what can be read; ValueError is the only way out."""
    path.write_bytes(data)
    refusal, sizes = None, []
    try:
        tensors = TorchFile(path).tensors
        sizes = [tensor.read().nbytes for tensor in tensors.values()]
    except ValueError as error:
        refusal = str(error)
    assert refusal is None or refusal.startswith(str(path))
    assert max(sizes, default=0) <= max(len(data), 2**20)


@pytest.mark.parametrize("file", ["zip.bin", "legacy.bin"])
@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_open_or_are_refused(tmp_path, file, data):
    content = bytearray((GOLDEN / file).read_bytes())
    # Where the structure is, and everywhere.
    places = st.one_of(st.integers(0, 2000), st.integers(len(content) - 1800, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(places)
        match data.draw(st.sampled_from(["byte", "insert", "delete", "copy"])):
            case "byte":
                content[at % len(content)] = data.draw(st.integers(0, 255))
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "delete":
                del content[at : at + data.draw(st.integers(1, 9))]
            case "copy":
                begin = data.draw(places)
                content[at : at + 4] = content[begin : begin + 4]
    opened(bytes(content), tmp_path / "a.bin")


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.lists(
        st.one_of(st.binary(max_size=12), st.sampled_from([b"}", b"(", b"u", b"ctorch\nSize\n", b")R", b"."]))
    )
)
def test_any_program_is_read_or_refused(tmp_path, code):
    opened(archive(tmp_path / "a.bin", b"\x80\x02" + b"".join(code)).read_bytes(), tmp_path / "b.bin")


def test_a_tensor_is_read_from_its_range_alone(tmp_path):
    """Memory: one row of a large storage takes a row."""
    count = 2**24
    path = archive(
        tmp_path / "a.bin",
        {"row": tensor(1024, (4,), (1,), storage(count)), "all": tensor(0, (count,), (1,), storage(count))},
        records={"data/0": bytes(count * 4)},
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not TorchFile(path).tensors["row"].read().any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB
