"""From the command line to a checked configuration, and from that to objects.

`compose` puts the YAML files of configs/ together, `check` compares every key with the signature of what it configures
(Hydra passes an unknown key that stands in a file), `build` instantiates one part. Imports torch only in `check`/`build`.
"""

from kindred.config.composing import YamlLoader, compose
from kindred.config.parts import build, check, nodes, resolve, value_fault
from kindred.config.resolvers import fitted, linear_lr, sqrt_lr
from kindred.errors import ConfigError

__all__ = [
    "ConfigError",
    "YamlLoader",
    "build",
    "check",
    "compose",
    "fitted",
    "linear_lr",
    "nodes",
    "resolve",
    "sqrt_lr",
    "value_fault",
]
