"""Files of corpora: found by patterns and URLs, and opened as streams of bytes, unpacked as they are read.

Local files need nothing but Python. URLs such as `s3://` or `gs://` are opened by fsspec where it knows them, by `tf.io.gfile`
otherwise; neither is imported before a URL asks for it.
"""

from __future__ import annotations

import bz2
import collections
import glob
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from training.corpora.documents import CorruptRecord
from training.corpora.libraries import library
from training.paths import located

CHUNK = 1 << 16  # bytes of an archive that are unpacked at a time
BUFFER = 1 << 18  # bytes of the unpacked stream that are held
LONGEST_RECORD = 1 << 26  # bytes of a line, row or web page: what is longer is corrupt, or it would fill the memory
LARGEST_DICTIONARY = 1 << 30  # bytes that an .xz archive may ask for
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def list_files(paths: Sequence[str | Path]) -> list[str]:
    """Returns the files that paths name, each once, sorted.

    A path is a file, a directory (all files below it, but those whose names begin with "." or "_"), a pattern such as
    `dumps/*.xml.bz2` or `books/**/*.txt`, `package:NAME/PATH` inside an installed package, or a URL of any of these.

    Raises FileNotFoundError for a path that no file matches, ValueError for a URL of an unknown kind.
    """
    found: set[str] = set()
    for path in paths:
        matches = set(_remote_files(str(path)) if is_url(path) else _local_files(str(located(path))))
        if not matches:
            raise FileNotFoundError(f"{path}: no file matches; give a file, a directory, a pattern or a URL")
        found |= matches
    return sorted(found)


def is_url(path: str | Path) -> bool:
    """Returns whether a path is a URL, such as `gs://bucket/file`."""
    return bool(_SCHEME.match(str(path)))


def bare_name(path: str) -> str:
    """Returns the last part of a path without the ending of its compression: `wiki.xml` of `dumps/wiki.xml.bz2`."""
    name, ending = os.path.splitext(path.rpartition("/")[2])
    return name if ending.lower() in _UNPACKERS else name + ending


def open_raw(path: str) -> BinaryIO:
    """Opens the bytes of a file as they are, seekable."""
    if not is_url(path):
        return open(path, "rb")
    system, inside = _file_system(path)
    return io.BufferedReader(_Remote(system.GFile(path, "rb"))) if inside is None else system.open(inside, "rb")


def open_stream(path: str) -> io.BufferedReader:
    """Opens a file for reading from its beginning, unpacked when its name ends in .gz, .bz2, .xz or .zst.

    Archives of several members or streams are read to the end. Reading raises CorruptRecord, with the archive's offset, where
    one is truncated or damaged, after all that can be read before that place.
    """
    unpacker = _UNPACKERS.get(os.path.splitext(path)[1].lower())
    file = open_raw(path)
    if unpacker is not None:
        return io.BufferedReader(_Unpacked(file, path, unpacker), BUFFER)
    if isinstance(file, io.BufferedReader):
        return file
    return io.BufferedReader(_Remote(file), BUFFER)


def place(stream: io.BufferedReader, offset: int) -> str:
    """Returns where an offset of a stream is in its file; asked for offsets in growing order.

    An archive of many members, as web archives are, is told by the offset of the member that begins there.
    """
    starts = stream.raw.starts if isinstance(stream.raw, _Unpacked) else None
    if starts is None:
        return f"offset {offset}"
    while len(starts) > 1 and starts[1][0] <= offset:
        starts.popleft()
    if starts and starts[0][0] == offset:
        return f"offset {starts[0][1]}"
    return f"offset {offset} of the unpacked file"


def lines(stream: io.BufferedReader, path: str) -> Iterator[bytes]:
    """Yields the lines of a stream with their ends.

    Raises CorruptRecord for a line that is too long to hold.
    """
    number = 0
    while line := stream.readline(LONGEST_RECORD):
        number += 1
        if len(line) == LONGEST_RECORD and not line.endswith(b"\n"):
            raise CorruptRecord(path, f"line {number}", f"longer than {LONGEST_RECORD >> 20} MiB, with no end in sight")
        yield line


def _local_files(path: str) -> Iterator[str]:
    for match in [path] if os.path.exists(path) else glob.iglob(path, recursive=True):
        if os.path.isdir(match):
            for place, directories, names in os.walk(match):
                directories[:] = [name for name in directories if _is_data(name)]
                yield from (os.path.join(place, name) for name in names if _is_data(name))
        else:
            yield match


def _is_data(name: str) -> bool:
    """Returns whether a file of a directory is data: others are hidden, or a framework's marks such as _SUCCESS."""
    return not name.startswith((".", "_"))


def _remote_files(url: str) -> Iterator[str]:
    system, inside = _file_system(url)
    if inside is None:
        for match in [url] if system.exists(url) else system.glob(url):
            if system.isdir(match):
                for place, _, names in system.walk(match):
                    yield from (f"{place.rstrip('/')}/{name}" for name in names if _is_data(name))
            else:
                yield match
        return
    for match in [inside] if system.exists(inside) else system.glob(inside):
        if system.isdir(match):
            below = (name for name in system.find(match) if _is_data(name.rpartition("/")[2]))
            yield from map(system.unstrip_protocol, below)
        else:
            yield system.unstrip_protocol(match)


def _file_system(url: str) -> tuple[Any, str | None]:
    """Returns fsspec's file system and the path in it, or `tf.io.gfile` and None."""
    import fsspec  # late: most corpora are local files

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # an unknown kind of URL, or a known one whose package is not installed
        reason = " ".join(str(error).split())
    import tensorflow as tf  # late, and only for what fsspec does not know

    scheme = url.partition("://")[0].lower()
    if scheme not in tf.io.gfile.get_registered_schemes():
        raise ValueError(f"{url}: neither fsspec nor tf.io.gfile opens {scheme}:// ({reason})")
    return tf.io.gfile, None


class _Raw(io.RawIOBase):
    """A raw stream of a file that is closed with it."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Remote(_Raw):
    """The bytes of a file object that is no stream of Python's own."""

    def readinto(self, buffer) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()


class _Unpacked(_Raw):
    """The unpacked bytes of an archive of one or more members, each with a decompressor of its own."""

    def __init__(self, file: BinaryIO, path: str, unpacker: Callable[[], Any]):
        super().__init__(file)
        self._path = path
        self._unpacker = unpacker
        self._padded = path.lower().endswith((".gz", ".xz"))  # zeros may follow a member
        self._member = None
        self._rest = b""  # of the archive, read but behind the end of a member
        self._read = 0  # bytes of the archive so far
        self._unpacked = 0  # bytes that came of it
        # Where members begin, unpacked and in the archive. Bounded: few readers ask.
        self.starts: collections.deque[tuple[int, int]] = collections.deque(maxlen=1 << 16)

    def readinto(self, buffer) -> int:
        while self._member or self._begin_member():
            data, self._rest = self._rest, b""
            if not data and self._member.needs_input:
                data = self._more()
                if not data:
                    raise self._truncated("the archive ends too early")
            try:
                out = self._member.decompress(data, len(buffer))
            except Exception as error:  # each library has its own, and nothing but the data can be wrong here
                begin = f"offset {max(0, self._read - CHUNK)}"
                raise CorruptRecord(
                    self._path, begin, f"the archive is damaged in the 64 KiB from here: {error}"
                ) from None
            if self._member.eof:
                self._rest, self._member = self._member.unused_data, None
                if self._padded:
                    self._rest = self._rest.lstrip(b"\0")
            if out:
                buffer[: len(out)] = out
                self._unpacked += len(out)
                return len(out)
        return 0

    def _begin_member(self) -> bool:
        """Returns whether there is another member, and makes its decompressor."""
        first = not self._read
        while not self._rest:
            self._rest = self._more()
            if not self._rest:
                if first:
                    raise self._truncated("the archive is empty")
                return False
            if self._padded and not first:
                self._rest = self._rest.lstrip(b"\0")
        self.starts.append((self._unpacked, self._read - len(self._rest)))
        self._member = self._unpacker()
        return True

    def _more(self) -> bytes:
        data = self._file.read(CHUNK)
        self._read += len(data)
        return data

    def _truncated(self, what: str) -> CorruptRecord:
        return CorruptRecord(self._path, f"offset {self._read}", f"{what}: it is truncated")


class _Gzip:
    """zlib's decompressor with the methods of bz2's."""

    def __init__(self):
        self._inflate = zlib.decompressobj(wbits=31)  # a gzip header, and its check sum
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inflate.unconsumed_tail

    def decompress(self, data: bytes, most: int) -> bytes:
        out = self._inflate.decompress(self._inflate.unconsumed_tail + data, most)
        self._full = len(out) == most
        return out


def _zstandard() -> Any:
    zstd = library("backports.zstd", "a .zst archive")
    # Archives of `zstd --long=31` need the largest window.
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 31})


_UNPACKERS: dict[str, Callable[[], Any]] = {
    ".gz": _Gzip,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_DICTIONARY),
    ".zst": _zstandard,
}
