"""What Kindred raises on purpose: the message is for who typed a command, and says all that there is to say."""

from typing import Any


class KindredError(Exception):
    """The cause lies outside the code: a command prints the message and no traceback."""


class ConfigError(KindredError, ValueError):
    """Settings or files that cannot work. Each argument is one line: the key or file, the value, and what would be right.

    `rest` is a configuration without what is wrong so far, where more may be wrong in it that takes longer to find.
    """

    rest: Any = None

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class AbsentError(KindredError, FileNotFoundError):
    """A run or a checkpoint that is not where it was said to be."""


class UnwritableError(KindredError, OSError):
    """Something that there is no room or no right to write."""


def lines(error: Exception) -> list[str] | None:
    """What a command prints of `error`, for whoever has to mend its cause; None: nobody knows it, and it may be a bug.

    What the operating system says of a file is as plain as an error of Kindred's own.
    """
    text = str(error)
    if isinstance(error, KindredError):
        # A loader's worker sends its traceback along; the message of the error itself ends it.
        found = text.rpartition(f"{type(error).__qualname__}: ")[2] if text.startswith("Caught ") else None
        parts = [found] if found else error.args if isinstance(error, ConfigError) else [text]
        return [" ".join(str(part).split()) for part in parts]
    if isinstance(error, OSError) and error.filename is not None:
        return [f"{error.filename}: {error.strerror}"]
    return None
