"""Texts of one's own: folders and tables, their labels, their tokenizer, and what is wrong with them in one line."""

import csv
import json
import os

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from kindred.data.datamodule import DataModule
from kindred.data.source import NoTestError
from kindred.data.text.folder import TextFolder
from kindred.data.text.tokenizer import encode, special, train_tokenizer
from kindred.errors import ConfigError
from kindred.runs.fingerprint import check_unchanged, write_record
from kindred.runs.judging.features import cut, judged_on

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "dogs,",
    "foxes",
    "and",
    "hens",
    "ran",
    "away",
    "from",
    "it",
    "all",
    "day",
]


def sentences(count, seed=0):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, 10)) for _ in range(count)]


def read(source):
    """Split -> (texts as the tokenizer gives them back, class names)."""
    source.prepare()
    found = {}
    for split in ("train", "val", "test"):
        if (source.folder / f"{split}.npy").exists():
            examples = source.load(split)
            names = [*source.class_names, None]
            texts = source.tokenizer.decode_batch(examples.array[:, 0].tolist())
            found[split] = list(zip(texts, [names[label] for label in examples.labels], strict=True))
    return found


def small(root, **options):
    return TextFolder(str(root), vocab_size=120, length=40, **options)


def test_a_folder_a_class_with_and_without_splits(tmp_path):
    for place in ("b", "a", "b/inner"):
        (tmp_path / place).mkdir()
    written = dict(
        zip(("b/1.txt", "a/1.txt", "b/inner/2.txt", "loose.txt", "a/.hidden.txt"), sentences(5), strict=True)
    )
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    expected = [
        (written["a/1.txt"], "a"),
        (written["b/1.txt"], "b"),
        (written["b/inner/2.txt"], "b"),
        (written["loose.txt"], None),
    ]
    assert sorted(read(small(tmp_path))["train"], key=str) == sorted(expected, key=str)
    split = tmp_path / "split"
    for part in ("train", "val"):
        for name in "ab":
            (split / part / name).mkdir(parents=True)
            (split / part / name / "x.txt").write_text(f"{name} {part}, train, val")
    assert read(small(split)) == {
        part: [(f"{name} {part}, train, val", name) for name in "ab"] for part in ("train", "val")
    }
    with pytest.raises(NoTestError, match=r"data\.source\.root: .*split has no test texts"):
        small(split).load("test")


def folder_of(root, count=12):
    for name in "ab":
        (root / name).mkdir(parents=True)
        for place, text in enumerate(sentences(count, ord(name))):
            (root / name / f"{place:02}.txt").write_text(text)
    return root


def set_up(root):
    source = small(root)
    source.prepare()
    datamodule = DataModule(source, None, 8, val_size=0.25)
    datamodule.setup()
    return datamodule


def test_a_run_knows_the_files_of_its_texts(tmp_path):
    root = folder_of(tmp_path / "texts")
    assert small(root).inventory("test") is None
    files = small(root).inventory("train")
    assert [name.decode() for name in files.names] == [f"{name}/{place:02}.txt" for name in "ab" for place in range(12)]
    assert files.sizes.sum() == sum(len(text) for name in "ab" for text in sentences(12, ord(name)))
    run = tmp_path / "run"
    run.mkdir()
    write_record(run, set_up(root))
    check_unchanged(run, set_up(root))
    (root / "a" / "03.txt").write_text("the cat ran away from it all while the dogs sat on a mat")
    with pytest.raises(ConfigError, match=r"train: 1 changed \(a/03\.txt\)"):
        check_unchanged(run, set_up(root))
    (tmp_path / "own.csv").write_text("text,label\nthe cat,x\n")
    assert small(tmp_path / "own.csv").inventory("train").names.tolist() == [b"own.csv"]


def test_without_test_texts_those_of_val_judge(tmp_path):
    datamodule = set_up(folder_of(tmp_path / "texts"))
    assert judged_on(datamodule) == "val"
    assert {name: len(part.labels) for name, part in cut(datamodule).items()} == {"train": 16, "val": 2, "test": 6}


def test_tables_with_columns_by_name_and_rows_without_a_label(tmp_path):
    rows = list(zip(sentences(30), ["x", "", "y"] * 10, strict=True))
    with open(tmp_path / "own.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "body"])
        writer.writerows([(label, f"{text}\nand, more") for text, label in rows])
    (tmp_path / "own.jsonl").write_text(
        "".join(json.dumps({"body": text} | ({"kind": label} if label else {"kind": None} if number % 2 else {})) + "\n"
                for number, (text, label) in enumerate(rows))
    )  # fmt: skip
    named = [(text, label or None) for text, label in rows]
    assert read(small(tmp_path / "own.jsonl", text="body", label="kind")) == {"train": named}
    lines = [(f"{text} and, more", label) for text, label in named]
    assert read(small(tmp_path / "own.csv", text="body", label="kind")) == {"train": lines}


def test_the_tokenizer_is_trained_on_train_alone_and_kept(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in sentences(50)))
    (tmp_path / "val.jsonl").write_text(json.dumps({"text": "quizzical zebras zzz"}))
    source = small(tmp_path)
    source.prepare()
    kept = Tokenizer.from_file(str(source.folder / "tokenizer.json"))
    assert kept.to_str() == train_tokenizer(sentences(50), 120, 40).to_str()
    assert kept.token_to_id("z") is None
    assert small(tmp_path).folder == source.folder
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in sentences(50, seed=1)))
    assert small(tmp_path).folder != source.folder


def test_tokens_come_with_the_number_of_their_word():
    tokenizer = train_tokenizer(sentences(200), 200, 12)
    tokens, word = encode(tokenizer, ["The cat sat, xyz"])[0]
    pieces = [tokenizer.id_to_token(token) for token in tokens]
    assert pieces[:4] == ["▁the", "▁cat", "▁sat", ","]
    assert word[:4].tolist() == [0, 1, 2, 3]
    assert word[pieces.index("[PAD]") :].tolist() == [-1] * (12 - pieces.index("[PAD]"))


def test_a_tokenizer_of_elsewhere_is_read_with_its_own_special_tokens(tmp_path):
    vocabulary = {"<unk>": 0, "cat": 1, "<mask>": 2, "mat": 3, "<pad>": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "own.json"))
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "cat on mat"}))
    source = small(tmp_path, tokenizer=str(tmp_path / "own.json"))
    source.prepare()
    assert source.load("train").array[0, 0, :5].tolist() == [1, 0, 3, 4, 4]
    assert special(source.tokenizer) == (4, 2)
    source = TextFolder(str(tmp_path), vocab_size=4, tokenizer=str(tmp_path / "own.json"))
    with pytest.raises(
        ConfigError, match=r"data\.source\.vocab_size is 4, but .*own\.json has 5 tokens: set it to that"
    ):
        source.prepare()


def wrong(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return TextFolder(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "x"}\n{"body": "y"}',
            r"data\.source\.text: line 2 of .*a\.jsonl has no text 'text'; it has 'body'",
        ),
        ("a.jsonl", b"{", r"line 1 of .*a\.jsonl is no JSON"),
        ("a.jsonl", b"[1]", r"line 1 of .*a\.jsonl is a list, not an object"),
        ("a.csv", b"title,label\nx,y\n", r"line 2 of .*a\.csv has no text 'text'; it has 'title', 'label'"),
        ("a.csv", b"text,label\n\xff,y\n", r"a\.csv is no UTF-8 text"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line_that_says_where(tmp_path, name, content, message):
    with pytest.raises(ConfigError, match=message) as caught:
        wrong(tmp_path, name, content).prepare()
    assert "\n" not in str(caught.value)
    assert not any(path.name.startswith("tokens") for path in (tmp_path / ".kindred").glob("*"))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.source\.root: there is no folder .*nowhere; expected <root>/<class>"):
        small(tmp_path / "nowhere").prepare()
    with pytest.raises(ConfigError, match=r"there is no file .*none\.csv"):
        small(tmp_path / "none.csv").prepare()
    with pytest.raises(ConfigError, match=r"has no train texts"):
        small(tmp_path).prepare()
    (tmp_path / "train.csv").write_text("text,label\na b c,x\n")
    (tmp_path / "val.csv").write_text("text,label\na b c,z\n")
    with pytest.raises(ConfigError, match=r"val has the class 'z', which train lacks"):
        small(tmp_path).prepare()
    with pytest.raises(ConfigError, match=r"data\.source\.tokenizer: there is no file nothing\.json"):
        small(tmp_path, tokenizer="nothing.json").prepare()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"data\.source\.tokenizer: .*bad\.json is no tokenizer\.json"):
        small(tmp_path, tokenizer=str(tmp_path / "bad.json")).prepare()
    os.remove(tmp_path / "bad.json")
