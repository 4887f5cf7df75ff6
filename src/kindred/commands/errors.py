"""What the commands share: how an error reaches the person who typed one."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def on_purpose(error: Exception) -> bool:
    """Whether Kindred itself raised `error`.

    Then it is the user's to mend and takes one line; any other one is a bug, or a library's, and shows where it comes from.
    """
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return raised_in.is_relative_to(Path(__file__).parents[1])


def attempt(work: Callable[[], None]) -> int:
    """The exit status of a command that does `work`."""
    try:
        work()
    except Exception as error:
        if not on_purpose(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
