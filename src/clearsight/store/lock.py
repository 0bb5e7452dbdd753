"""One writer at a time: a lock on a file, which the kernel opens again when its holder dies."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clearsight.errors import DataError

LOCK = ".writer"
"""The file; it stays when it is let go."""
WAIT_SECONDS = 60.0
_TRY_AGAIN_SECONDS = 0.02


class _Held:
    """The lock of one file in this process: how often it was taken by the thread that has it."""

    def __init__(self) -> None:
        self.thread = threading.RLock()
        self.depth = 0
        self.handle = -1


_ALL: dict[tuple[int, Path], _Held] = {}
_GUARD = threading.Lock()


@contextmanager
def writer_lock(folder: str | os.PathLike[str], *, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold `folder/.writer`; a thread that holds it may take it again.

    Args:
        wait: seconds to wait for another writer.

    Raises:
        DataError: another process (named by its number) or thread holds it for longer, or the folder cannot
            be written.
    """
    path = Path(folder).resolve() / LOCK
    with _GUARD:
        held = _ALL.setdefault((os.getpid(), path), _Held())  # a fork does not have its parent's
    end = time.monotonic() + wait
    if not held.thread.acquire(timeout=wait):
        raise _busy(path, "another thread of this process", wait)
    try:
        if held.depth == 0:
            held.handle = _locked(path, end, wait)
        held.depth += 1
        try:
            yield
        finally:
            held.depth -= 1
            if held.depth == 0:
                os.close(held.handle)
    finally:
        held.thread.release()


def _locked(path: Path, end: float, wait: float) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as fault:
        raise DataError(
            f"The store cannot be written ({fault}).", where=str(path), do="Check the path and permissions."
        ) from None
    try:
        while not _taken(handle):
            if time.monotonic() >= end:
                holder = (
                    os.pread(handle, 20, 0).decode("ascii", "replace").strip() if os.name == "posix" else ""
                )
                raise _busy(path, f"process {holder}" if holder else "another process", wait)
            time.sleep(_TRY_AGAIN_SECONDS)
        if os.name == "posix":
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _busy(path: Path, holder: str, wait: float) -> DataError:
    return DataError(
        f"The store is being written by {holder}.",
        where=str(path.parent),
        do=f"Wait until it is done (this one waited {wait:.0f} s), or end it.",
    )


if sys.platform == "win32":
    import msvcrt

    def _taken(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _taken(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
