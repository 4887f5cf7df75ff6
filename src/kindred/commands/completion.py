"""Print what makes Tab complete commands, options, groups, their choices and keys of the configuration.

Once, in ~/.bashrc, or in ~/.zshrc after compinit:

    source <(kindred completion bash)
    source <(kindred completion zsh)
"""

from collections.abc import Sequence

from kindred.commands.command_line import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("kindred completion", __doc__)
    parser.add_argument("shell", choices=("bash", "zsh"))
    options = parser.read(arguments)
    import argcomplete

    print(argcomplete.shellcode(["kindred"], shell=options.shell))
    return 0
