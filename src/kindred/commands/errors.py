"""What the commands share: how an error reaches the person who typed one."""

import sys
import traceback
from collections.abc import Callable

from kindred.errors import lines

REPORT = "this is not what your settings can mend: if it is Kindred's fault, please report it with this traceback"


def report(error: Exception, where: str = "error") -> int:
    """The exit status, after a line on stderr for each thing to mend, or the traceback of what nobody foresaw."""
    found = lines(error)
    if found is None:
        traceback.print_exception(error)
        found = [REPORT]
    for line in found:
        print(f"{where}: {line}", file=sys.stderr)
    return 1


def attempt(work: Callable[[], None]) -> int:
    """The exit status of a command that does `work`."""
    try:
        work()
    except Exception as error:
        return report(error)
    return 0
