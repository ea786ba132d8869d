"""Finding files, and unpacking them as they are read."""

import bz2
import gzip
import lzma
import os
import subprocess
import sys

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.documents import CorruptRecord
from training.corpora.files import bare_name, list_files, open_raw, open_stream, place

PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}
every_packer = pytest.mark.parametrize("ending", PACKERS)


def read_all(path) -> tuple[bytes, CorruptRecord | None]:
    """What can be read, and the error that ended it."""
    held = []
    with open_stream(str(path)) as stream:
        try:
            while data := stream.read1(777):
                held.append(data)
        except CorruptRecord as error:
            return b"".join(held), error
    return b"".join(held), None


def test_paths_are_files_directories_and_patterns(tmp_path):
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "deep/.hidden", "deep/_SUCCESS", "deep/.git/x.txt", "odd[1].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    def listed(*paths):
        return [os.path.relpath(path, tmp_path) for path in list_files([f"{tmp_path}/{path}" for path in paths])]

    assert listed("b.txt", "a.txt", "*.txt") == ["a.txt", "b.txt", "odd[1].txt"], "sorted, each once"
    assert listed("deep") == ["deep/er/c.txt"], "without hidden files and marks of frameworks"
    assert listed("**/c.txt") == ["deep/er/c.txt"]
    assert listed("odd[1].txt") == ["odd[1].txt"], "a file of that very name"
    with pytest.raises(FileNotFoundError, match=r"nothing\*\.txt: no file matches"):
        listed("a.txt", "nothing*.txt")


def test_files_of_packages():
    (found,) = list_files(["package:garden/data/movie_reviews.train*.gz"])
    with open_stream(found) as stream:
        assert stream.readline().startswith(b"{")


def test_local_files_import_neither_tensorflow_nor_fsspec(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n'))
    code = (
        "import sys; from training.corpora.readers import read_documents;"
        f"assert [d.text for d in read_documents(None, ['{tmp_path}/*'], name='a')] == ['x'];"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'fsspec', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_urls_of_fsspec():
    import fsspec

    system = fsspec.filesystem("memory")
    for name in ("/corpus/a.txt.gz", "/corpus/deep/b.txt.gz", "/corpus/deep/_SUCCESS"):
        system.pipe(name, gzip.compress(name.encode()))
    files = ["memory:///corpus/a.txt.gz", "memory:///corpus/deep/b.txt.gz"]
    assert list_files(["memory://corpus"]) == files
    assert list_files(["memory://corpus/*.gz", "memory://corpus/deep/*.gz"]) == files
    with open_stream(files[1]) as stream:
        assert stream.read() == b"/corpus/deep/b.txt.gz"
    with pytest.raises(FileNotFoundError, match="memory://corpus/none: no file matches"):
        list_files(["memory://corpus/none"])


def test_file_urls(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (found,) = list_files([f"file://{tmp_path}/*.txt"])
    with open_stream(found) as stream:
        assert stream.read() == b"x"


def test_urls_of_tensorflow():
    import tensorflow as tf

    tf.io.gfile.makedirs("ram://corpus/deep")
    for name in ("ram://corpus/a.txt", "ram://corpus/deep/b.txt.bz2"):
        with tf.io.gfile.GFile(name, "wb") as file:
            file.write(bz2.compress(b"line\n") if name.endswith("bz2") else b"line\n")
    assert list_files(["ram://corpus/*.txt", "ram://corpus/deep"]) == [
        "ram://corpus/a.txt",
        "ram://corpus/deep/b.txt.bz2",
    ]
    for name in list_files(["ram://corpus/a.txt", "ram://corpus/deep"]):
        with open_stream(name) as stream:
            assert list(stream) == [b"line\n"]
    with open_raw("ram://corpus/a.txt") as file:
        file.seek(2)
        assert file.read() == b"ne\n"


def test_unknown_urls_are_told():
    with pytest.raises(ValueError, match=r"neither fsspec nor tf.io.gfile opens nowhere://"):
        list_files(["nowhere://bucket/a.txt"])


def test_names_without_the_ending_of_their_compression():
    assert [bare_name(name) for name in ("d.x/wiki.xml.bz2", "a.JSONL.GZ", "b.txt", "c")] == [
        "wiki.xml",
        "a.JSONL",
        "b.txt",
        "c",
    ]


@every_packer
def test_archives_of_several_members_are_read_to_the_end(tmp_path, ending):
    pack = PACKERS[ending]
    parts = [os.urandom(100_000), b"", b"a" * 3_000_000, b"end"]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"".join(map(pack, parts)))
    assert read_all(path) == (b"".join(parts), None)


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_padding_between_and_after_members(tmp_path, ending):
    pack = PACKERS[ending]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(pack(b"one") + bytes(100_000) + pack(b"two") + bytes(512))
    assert read_all(path) == (b"onetwo", None)


@every_packer
def test_a_truncated_archive_is_read_up_to_its_end(tmp_path, ending):
    whole = PACKERS[ending](os.urandom(200_000))
    path = tmp_path / f"a.{ending}"
    path.write_bytes(whole[:-20])
    data, error = read_all(path)
    assert (error.file, error.place) == (str(path), f"offset {len(whole) - 20}")
    assert "truncated" in error.what
    assert "skip_corrupt: true" in str(error)
    assert len(str(error).splitlines()) == 1
    assert len(data) > 0 or ending == "bz2", "bzip2 decodes whole blocks of 900 kB only"


@every_packer
@pytest.mark.parametrize("content", [b"", b"just text\n" * 9])
def test_what_is_no_archive_is_told(tmp_path, ending, content):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    data, error = read_all(path)
    assert data == b""
    assert error.place == "offset 0"


@every_packer
def test_garbage_behind_an_archive_is_told(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(PACKERS[ending](b"text") + b"garbage, not an archive")
    data, error = read_all(path)
    assert data == b"text"
    assert "damaged" in error.what


TEXT = b"".join(b"%d: the quick brown fox\n" % number for number in range(3000))


@every_packer
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_archives_are_read_or_told(tmp_path_factory, ending, data):
    """Cut anywhere, or with any byte changed: what is read is the text's beginning, or the error is a CorruptRecord."""
    pack = PACKERS[ending]
    whole = bytearray(pack(TEXT[:40_000]) + pack(TEXT[40_000:]))
    path = tmp_path_factory.getbasetemp() / f"fuzz.{ending}"
    cut = data.draw(st.integers(0, len(whole)))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:cut])
        read, error = read_all(path)
        assert TEXT.startswith(read)
        assert error or read in (TEXT, TEXT[:40_000])
    else:
        whole[min(cut, len(whole) - 1)] ^= data.draw(st.integers(1, 255))
        path.write_bytes(whole)
        read_all(path)


def test_places_in_archives_of_many_members(tmp_path):
    parts = [b"first member", b"second", b"third"]
    packed = [gzip.compress(part) for part in parts]
    path = tmp_path / "a.gz"
    path.write_bytes(b"".join(packed))
    with open_stream(str(path)) as stream:
        assert stream.read() == b"".join(parts)
        assert place(stream, 0) == "offset 0"
        assert place(stream, 5) == "offset 5 of the unpacked file"
        assert place(stream, len(parts[0])) == f"offset {len(packed[0])}"
        assert place(stream, len(parts[0] + parts[1])) == f"offset {len(packed[0] + packed[1])}"
