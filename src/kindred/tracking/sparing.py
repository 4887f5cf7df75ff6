"""What a run can do without."""

import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def sparing(what: object) -> Generator[None]:
    """A picture is not worth a run: if it cannot be made, one line on stderr says so and why, and it is left out.

    Args:
        what: it is.
    """
    try:
        yield
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"left out: {what} ({reason}; {Path(place.filename).name}, line {place.lineno})", file=sys.stderr)
