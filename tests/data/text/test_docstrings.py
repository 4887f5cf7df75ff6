"""Docstrings as prose: what is left of one, and that no split can be told from another, nor a class from its name."""

import collections

import numpy as np
import pytest

from kindred.data.text.docstrings import ALIKE, WORDS, class_words, collect, deal, distinct, hide
from kindred.data.text.extraction import prose, read_docstrings
from kindred.data.text.topics import TOPICS

NUMPYDOC = """
    Compute the `wiggle` of :func:`~scipy.signal.chirp` waves, see https://example.org/x.

    More on **that**.

    Parameters
    ----------
    wave : array_like
        Some wave [1]_.

    See Also
    --------
    other : Another function.

    Notes
    -----
    It is fast.

    .. versionadded:: 1.2

    References
    ----------
    .. [1] A. Author, "Title", 1999.

    Examples
    --------
    >>> wiggle(3)
    4
    """


def test_prose_is_what_a_docstring_says():
    expected = (
        "Compute the wiggle of scipy.signal.chirp waves, see More on that . wave : array_like Some wave . It is fast."
    )
    assert prose(NUMPYDOC) == expected


def test_code_between_prose_ends_at_an_empty_line():
    assert prose("Before.\n\n>>> f(1)\n2\n\nAfter.") == "Before. After."
    assert prose("Do it.\n\nArgs:\n    x: the number.\n\nExample::\n\n    f(x)\n").startswith("Do it. x: the number.")


def test_public_functions_and_classes_are_read_without_being_run(tmp_path):
    (tmp_path / "sub" / "tests").mkdir(parents=True)
    (tmp_path / "sub" / "tests" / "test_x.py").write_text('def f():\n    "Not this."\n')
    (tmp_path / "bad.py").write_text("def (:\n")
    lines = ["raise SystemExit", "def one():", '    "First."', "def _two():", '    "Hidden."']
    lines += ["class Three:", '    "Third."', "    def f(self):", '        "No."']
    (tmp_path / "sub" / "mod.py").write_text("\n".join(lines))
    found = [tuple(docstring) for docstring in read_docstrings(tmp_path, "lib.part")]
    assert found == [("lib.part.sub.mod", "one", "First."), ("lib.part.sub.mod", "Three", "Third.")]


def test_words_that_topics_and_packages_are_called_by_are_hidden():
    hidden = class_words()
    assert (
        hide("The scipy.stats.norm of two Graphs and linear_models or _polynomials, linearly", hidden)
        == "The norm of two and or , linearly"
    )
    for topic, places in TOPICS.items():
        for name in (topic, *places):
            assert hide(name, hidden).strip(" .") == "", name


def test_of_texts_that_are_alike_one_is_kept():
    first = "one two three four five six seven eight nine ten"
    near = first.replace("ten", "eleven")  # 7 of 9 triples
    assert ALIKE < 7 / 9
    far = "one two three alpha beta gamma delta epsilon zeta eta"
    assert distinct([first, far, near, "x " + first]).tolist() == [0, 1]


def test_modules_are_dealt_whole_and_shares_are_near():
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 9, 300)
    modules = [f"m{number}" for number, size in enumerate(sizes) for _ in range(size)]
    labels = np.array([number % 5 for number, size in enumerate(sizes) for _ in range(size)])
    parts = deal(labels, modules)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(modules)))
    seen = [{modules[position] for position in positions} for positions in parts.values()]
    assert sum(map(len, seen)) == len(set().union(*seen))
    for label in range(5):
        whole = (labels == label).sum()
        for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs((labels[parts[split]] == label).sum() - share * whole) <= 9


@pytest.mark.slow
def test_the_real_ones_are_many_distinct_and_split_by_module():
    labels, found = collect()
    counts = collections.Counter(labels.tolist())
    assert len(found) >= 5000
    assert len(counts) == len(TOPICS) >= 15
    assert min(counts.values()) >= 50
    texts = [docstring.prose for docstring in found]
    assert len(set(texts)) == len(texts)
    assert min(len(text.split()) for text in texts) >= WORDS
    assert not any(class_words().search(text) for text in texts)
    parts = deal(labels, [docstring.module for docstring in found])
    modules = {split: {found[position].module for position in positions} for split, positions in parts.items()}
    assert not modules["train"] & (modules["val"] | modules["test"])
    assert not modules["val"] & modules["test"]
    for positions in parts.values():
        assert set(labels[positions]) == set(range(len(TOPICS)))
