"""Append-only files that survive a kill at any moment.

A line counts once it ends in a line feed and is synced to disk; a torn last line is cut off before
the file is written to again. Appends that wait at the same time share one sync.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from memroute_data_gen.teacher.errors import TeacherError
from memroute_env.conversation import iter_lines
from memroute_env.errors import DataError

__all__ = ["AppendFile", "Lock"]

_sync = getattr(os, "fdatasync", os.fsync)
"""Data and size are enough; fdatasync spares the file's times, where there is one."""


class AppendFile:
    """A JSON-lines file that is only ever appended to.

    What it holds is read first and left as it is: a file that turns out to be somebody else's must
    not have been changed. `mend` then cuts off a torn last line, and lines can be appended.

    Args:
        path: Created if absent.

    Raises:
        DataError: If the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self.path = path
        self._pending: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flush: asyncio.Task[None] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: BinaryIO = path.open("ab+", buffering=0)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror}); check it") from None
        self._lines, self._size = _whole_lines(self._stream)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (line number, line) of what the file held, less blank lines and a torn last one."""
        for number, line in iter_lines(self.path):
            if number <= self._lines:
                yield number, line

    def torn(self, most: int) -> bytes:
        """Up to `most` bytes of a last line that has no end; empty if there is none."""
        self._stream.seek(self._size)
        return self._stream.read(most)

    def mend(self) -> None:
        """Cut off a torn last line; before the first `append`."""
        self._stream.truncate(self._size)
        _sync_folder(self.path.parent)

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (line number, object) of what the file held.

        Raises:
            DataError: If a line is not a JSON object; the message names it.
        """
        for number, line in self.lines():
            try:
                record = json.loads(line)
            except ValueError as error:
                record = error
            if not isinstance(record, dict):
                raise DataError(
                    f"{self.path}:{number}: not a JSON object ({record!s:.60}); the file was "
                    "changed by hand: remove the line, or start a new file"
                )
            yield number, record

    async def append(self, line: str) -> None:
        """Add a line; when this returns, it is on disk.

        Raises:
            TeacherError: If it could not be written; the file is then as before.
        """
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._pending.append((line.encode() + b"\n", written))
        if self._flush is None:
            self._flush = loop.create_task(self._flush_all())
        # A caller that is cancelled must not take the line of others with it.
        await asyncio.shield(written)

    async def _flush_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            batch, self._pending = self._pending, []
            data = b"".join(line for line, _ in batch)
            try:
                await loop.run_in_executor(None, self._write, data)
            except OSError as error:
                problem = TeacherError(f"{self.path}: cannot be written ({error.strerror})")
                for _, written in batch:
                    written.set_exception(problem)
            else:
                for _, written in batch:
                    written.set_result(None)
        self._flush = None

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[self._stream.write(view) :]
            _sync(self._stream.fileno())
        except OSError:
            self._stream.truncate(self._size)
            raise
        self._size += len(data)

    async def close(self) -> None:
        """Write what is pending and close the file."""
        if self._flush is not None:
            await self._flush
        self.abandon()

    def abandon(self) -> None:
        """Close the file of which nothing is pending."""
        self._stream.close()


def _whole_lines(stream: BinaryIO) -> tuple[int, int]:
    """How many lines of a file have an end, and its size up to the last of them."""
    stream.seek(0)
    lines = size = whole = 0
    while chunk := stream.read(1 << 20):
        lines += chunk.count(b"\n")
        if (last := chunk.rfind(b"\n")) >= 0:
            whole = size + last + 1
        size += len(chunk)
    return lines, whole


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable, where the platform allows it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows does not open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Lock:
    """Keeps a second run away from the same files; gone with the process, however it ends.

    Without `fcntl` (Windows) there is no lock.
    """

    def __init__(self, path: Path) -> None:
        """Lock by the file `path`, which is created."""
        self.path = path

    def __enter__(self) -> None:
        """Take the lock.

        Raises:
            TeacherError: If another run holds it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("ab")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be opened ({error.strerror})") from None
        try:
            import fcntl

            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return
        except OSError:
            self._stream.close()
            raise TeacherError(
                f"{self.path}: another run is writing these files; wait for it or choose another "
                "--out"
            ) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self._stream.close()
