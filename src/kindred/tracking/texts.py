"""Nearest neighbours of texts, to be read: a page and a table in the terminal."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kindred.files import write_atomically
from kindred.tracking.figures import QUIET, RIGHT, WRONG

SHOWN, NEAREST, LENGTH = 3, 3, 160  # in a terminal: queries, neighbours of each, characters of a text
STYLE = f"""body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; width: 100%; margin-bottom: 2em }}
td {{ vertical-align: top; padding: .35em .6em; border-top: 1px solid {QUIET}55 }}
td:first-child, td:nth-child(2) {{ white-space: nowrap }}
tr.query td {{ font-weight: 600; border-top: 2px solid {QUIET} }}
tr.right td:nth-child(2) {{ color: {RIGHT} }} tr.wrong td:nth-child(2) {{ color: {WRONG} }}"""


class Neighbours(NamedTuple):
    """Held-out texts, and the bank texts nearest to each, with their classes."""

    queries: Sequence[str]  # [Q]
    query_names: Sequence[str]  # [Q]
    texts: Sequence[Sequence[str]]  # [Q][k], nearest first
    names: Sequence[Sequence[str]]  # [Q][k]
    similarities: np.ndarray  # [Q, k], cosines

    def rows(self, queries: int | None = None, nearest: int | None = None) -> Iterator[tuple[str, str, str, str]]:
        """(kind, similarity, class, text) of the first `queries`, each followed by its first `nearest` neighbours."""
        for query, name, *near in list(zip(*self, strict=True))[:queries]:
            yield "query", "", name, query
            for text, other, similarity in list(zip(*near, strict=True))[:nearest]:
                yield "right" if other == name else "wrong", f"{similarity:.2f}", other, text


def write_neighbours(path: Path, found: Neighbours) -> None:
    """A page with all of them; names of another class than the query's are red."""
    lines = [
        f'<tr class="{kind}"><td>{similarity}</td><td>{escape(name)}</td><td>{escape(text)}</td></tr>'
        for kind, similarity, name, text in found.rows()
    ]
    table = "\n".join(lines)
    page = f'<!doctype html>\n<meta charset="utf-8">\n<title>Nearest neighbours</title>\n<style>{STYLE}</style>\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{page}<h1>Held-out texts, and the nearest ones</h1>\n<table>\n{table}\n</table>\n")


def print_neighbours(found: Neighbours) -> None:
    """The first few of them on the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "class", "held-out texts, and the nearest ones")
    for kind, similarity, name, text in found.rows(SHOWN, NEAREST):
        style = {"query": "bold", "right": "green", "wrong": "red"}[kind]
        short = text if len(text) <= LENGTH else f"{text[: LENGTH - 1]}…"
        table.add_row(similarity, Text(name, style=style), Text(short, style="bold" if kind == "query" else ""))
    Console().print(table)
