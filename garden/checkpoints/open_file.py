"""A file that several tensors are read from, each at its own place."""

from __future__ import annotations

import io
import os
from pathlib import Path


class OpenFile:
    """A file descriptor that closes with its last user. It keeps no position, so threads may read at the same time."""

    def __init__(self, path: Path):
        self.path = path
        self.closed = True
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be opened: {error}") from error
        self.closed = False

    def close(self) -> None:
        """Close it; reading afterwards is an error."""
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)

    def __del__(self) -> None:
        self.close()

    def size(self) -> int:
        """How many bytes it has."""
        return os.fstat(self._descriptor).st_size

    def read(self, count: int, position: int) -> bytes:
        """Exactly `count` bytes from `position` on; ValueError when the file ends before."""
        data = bytearray(count)
        self.read_into(memoryview(data), position)
        return bytes(data)

    def read_into(self, buffer: memoryview, position: int) -> None:
        """Fill `buffer` with the bytes from `position` on; ValueError when the file ends before."""
        while len(buffer):  # one system call reads at most 2 GiB
            try:
                count = os.preadv(self._descriptor, [buffer], position)
            except OSError as error:
                raise ValueError(f"{self.path}: cannot be read: {error.strerror}") from error
            if count == 0:
                raise ValueError(f"{self.path}: the file became shorter while it was read; copy or download it again")
            buffer = buffer[count:]
            position += count

    def stream(self) -> io.BufferedReader:
        """The file from its beginning, as what parsers of the standard library read."""
        return io.BufferedReader(_Stream(self))


class _Stream(io.RawIOBase):
    """A position in an `OpenFile`, which stays open when the stream is closed."""

    def __init__(self, file: OpenFile):
        super().__init__()
        self._file = file
        self._size = file.size()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if self._position < 0:
            raise ValueError(f"{self._file.path}: a place before the file's beginning is asked for")
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        self._file.read_into(memoryview(buffer)[:count], self._position)
        self._position += count
        return count
