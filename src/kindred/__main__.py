"""Contrastive representation learning, exact on any number of devices.

Type `kindred <command> --help` for what a command takes; key=value words are Hydra overrides of the configuration.
"""

import importlib
import os
import re
import sys
from collections.abc import Sequence

from kindred.commands.command_line import COMPLETING, Parser
from kindred.config_files import own_configs

COMMANDS = {
    "train": "train one method on one data set",
    "finetune": "fine-tune a finished run by labels",
    "distill": "distil a fine-tuned run into a student",
    "evaluate": "judge a finished run on the test split",
    "compare": "runs side by side: a table and a page",
    "sweep": "many trainings from one sweep file",
    "export": "write a run's encoder to a file",
    "completion": "what makes Tab complete all of this in bash or zsh",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if COMPLETING in os.environ:
        words = _words_to_complete()
    if words and words[0] in COMMANDS:
        if own_configs() and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # for the classes that files of one's own name, as `python -m kindred` has it
        return importlib.import_module(f"kindred.commands.{words[0]}").main(words[1:])
    commands = "\n".join(f"  {name:11} {what}" for name, what in COMMANDS.items())
    parser = Parser("kindred", __doc__, usage="kindred <command> ...", epilog=f"commands:\n{commands}")
    parser.add_argument("command", nargs="?", choices=COMMANDS, help="one of those below")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    if parser.read(words[:1]).version:
        from importlib.metadata import version

        print(f"kindred {version('kindred')}")
        return 0
    parser.print_help(sys.stderr)
    return 2


def _words_to_complete() -> list[str]:
    """The command on the line that a shell completes, if it is whole; argcomplete then starts behind it."""
    command = re.match(r"\s*\S+\s+(\S+)\s", os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])])
    if command is None or command[1] not in COMMANDS:
        return []
    os.environ[COMPLETING] = "2"
    return [command[1]]


if __name__ == "__main__":
    sys.exit(main())
