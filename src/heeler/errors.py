"""Every error heeler raises on purpose, its exit code and the hint that goes with it.

    HeelerError            1   the job failed
    ├── UsageError         2   the command or call was wrong: an unknown option, a missing file
    ├── DataError          3   the photos cannot be used as they are
    │   └── UnreadableError    one file is not a whole photo; a run records it and goes on
    ├── BundleError        4   a model bundle is not what it says it is
    ├── ResourceError      1   the machine ran out of something: disk, memory, network
    └── Interrupted      130   the user stopped the run (143: the system asked for its end)

A message names the file and the number; a hint names what to do next. Each fits on one line.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "DataError",
    "HeelerError",
    "Interrupted",
    "ResourceError",
    "UnreadableError",
    "UsageError",
]


class HeelerError(Exception):
    """The job failed.

    Args:
        message: what went wrong, in one line, with the file and the number.
        hint: what to do next, in one line; empty where there is nothing to advise.

    Example:
        >>> import heeler
        >>> try:
        ...     heeler.train("photos", minutes=0)
        ... except heeler.HeelerError as error:
        ...     print(error.message, error.exit_code)
        minutes=0 is not a number between 0.1 and 10080 2
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HeelerError):
    """The command or the call was wrong.

    Example:
        >>> import heeler
        >>> try:
        ...     heeler.open_folder("no-such-folder")
        ... except heeler.UsageError as error:
        ...     print(error.message)
        no such folder or file: no-such-folder
    """

    exit_code = 2


class DataError(HeelerError):
    """The photos or their labels cannot be used as they are.

    Example:
        >>> import heeler
        >>> try:
        ...     heeler.open_folder("photos/cat")
        ... except heeler.DataError as error:
        ...     print(error.message)
        photos/cat: 12 photos lie in no class folder, and no class folder has any
    """

    exit_code = 3


class UnreadableError(DataError):
    """One file is not a whole photo within the limits; the message is the reason, without the file's name.

    A run leaves such a file out, and a model's row for it says why; so it reaches nobody who calls ``heeler``.

    Example:
        >>> import heeler
        >>> heeler.load("runs/photos-1/model").predict("no-such-photo.jpg")[0].reason
        'does not exist'
        >>> issubclass(heeler.UnreadableError, heeler.DataError)
        True
    """


class BundleError(HeelerError):
    """A model bundle is damaged, incomplete or not what it claims to be.

    Example:
        >>> import heeler
        >>> try:
        ...     heeler.load("photos")
        ... except heeler.BundleError as error:
        ...     print(error.message)
        photos is not a heeler model: it has no heeler.json
    """

    exit_code = 4


class ResourceError(HeelerError):
    """The machine ran out of something: disk, memory, network.

    Example:
        >>> import heeler
        >>> try:
        ...     raise heeler.ResourceError("the disk is full", hint="free some space")
        ... except heeler.HeelerError as error:
        ...     print(error.hint, error.exit_code)
        free some space 1
    """

    exit_code = 1


class Interrupted(HeelerError):  # noqa: N818 - named for what happened, as KeyboardInterrupt is
    """The user or the system stopped the run.

    Args:
        message: as for every error.
        hint: as for every error.
        signum: the signal that stopped it; the exit code is 128 more.

    Example:
        >>> import heeler
        >>> heeler.Interrupted("stopped before the end", signum=15).exit_code
        143
    """

    exit_code = 130

    def __init__(self, message: str, *, hint: str = "", signum: int = 2) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signum
