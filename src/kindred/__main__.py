"""The `kindred` command: `kindred train model=nnclr`, `kindred evaluate --run logs/latest`, ..."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train one method on one data set",
    "evaluate": "judge a finished run on the test split",
    "compare": "runs side by side: a table and a page",
    "sweep": "many trainings from one sweep file",
    "export": "write a run's encoder to a file",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        print("\n".join(f"kindred {name:9} {what}" for name, what in COMMANDS.items()), file=sys.stderr)
        return 2
    return importlib.import_module(f"kindred.commands.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
