"""Docstrings out of Python files, as prose: nothing is imported or executed."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NOT_PUBLIC = re.compile(r"(^|/)(tests?|testing|conftest|setup|externals|_vendor\w*|_vendored)(\.py$|/)")


class Docstring(NamedTuple):
    """What one public function or class says of itself."""

    module: str  # dotted, of the file
    name: str
    prose: str


def read_docstrings(root: Path, package: str) -> Iterator[Docstring]:
    """The docstrings of the public functions and classes at the top level of every file below `root`, in a fixed order.

    Args:
        root: folder of the package; a file that is no Python of this version is passed over.
        package: its dotted name.
    """
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).as_posix()
        if NOT_PUBLIC.search(place):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        module = ".".join([package, *place.removesuffix(".py").removesuffix("/__init__").split("/")])
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                yield Docstring(module, node.name, prose(ast.get_docstring(node, clean=False) or ""))


# Sections that name other functions, or hold no prose.
DROPPED = re.compile(
    r"^(see also|references?|examples?|usage|tutorials?|author|attributes|methods|shape|:?keyword|\.\. rubric::.*)\b:*\W*$",
    re.IGNORECASE,
)
HEADING = re.compile(r"^[A-Z][\w ]{0,30}:{0,2}$")
UNDERLINE = re.compile(r"^\s*([=\-~^\"*+])\1{2,}\s*$")
MARKUP = (
    (re.compile(r"\.\. (\w|-)+::.*"), " "),  # directives
    (re.compile(r":\w+(:\w+)*:`~?([^`<]*)[^`]*`"), r"\2"),  # roles keep what they show
    (re.compile(r"\[\d+\]_|\|\w+\||https?://\S+|[`*|~\\$]"), " "),
    (re.compile(r"\s+"), " "),
)


def prose(docstring: str) -> str:
    """A docstring on one line, without code, headings, references and markup."""
    lines, dropped, code = [], False, False
    found = inspect.cleandoc(docstring).splitlines()
    for line, after in zip(found, [*found[1:], ""], strict=False):
        if not (text := line.strip()):
            code = False
            continue
        if UNDERLINE.match(line):
            continue
        if HEADING.match(text) and (
            UNDERLINE.match(after) or (text.endswith(":") and line == text) or DROPPED.match(text)
        ):
            dropped = bool(DROPPED.match(text))
            continue
        code = text.startswith((">>>", "...")) or code
        if not dropped and not code:
            lines.append(text)
    text = " ".join(lines)
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    return text.strip()
