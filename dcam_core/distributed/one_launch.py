"""One launch at a time writes to a folder."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from dcam_core.errors import UsageError

__all__ = ["LOCK", "OneLaunch", "is_empty"]

LOCK = ".writing"
"""Name of the file by which a folder is held; one that is left over, of a process that was killed, holds nothing."""


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but, perhaps, a lock."""
    return all(path.name == LOCK for path in folder.iterdir())


class OneLaunch:
    """A folder's lock. The system lets go of it when the process ends, however it ends.

    Two processes that write the same lines would have every result twice. That happens when a call is made again
    while the first is at work, or when a launcher starts several processes and nobody says that they share the work.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK)

    def hold(self) -> None:
        """Take the lock; nothing if it is held already.

        Raises:
            UsageError: another process holds it.
        """
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UsageError(
                f"another process is writing to {self._folder}: wait until it has ended, or give another folder; "
                "where torchrun or srun has started several processes, --devices N has them share the work"
            ) from None
        except NotImplementedError:  # a disk without locks
            return

    def release(self) -> None:
        """Give the lock back, and leave no file."""
        if self._lock.is_locked:
            (self._folder / LOCK).unlink(missing_ok=True)
            self._lock.release()
