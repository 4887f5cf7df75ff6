"""Folders as people have them, each trained, evaluated and compared by the commands alone, typed as in the README."""

import json
import re
import shutil

import pytest
from children import in_child
from image_folders import noisy_classes

from kindred.__main__ import main
from kindred.commands.compare import main as compare

SMALL = ["encoder.widths=[8,16]", "model.hidden_dim=32", "trainer.max_epochs=2", "trainer=cpu", "data.image_size=16"]

# Kind of folder -> what makes it, further overrides, the split that judges, and what must be on the terminal.
KINDS = {
    "classes": (lambda root: noisy_classes(root, 120, {"val": 12, "test": 12}), [], "test", r"data\.batch_size is 64"),
    "210 images": (lambda root: noisy_classes(root, 70), [], "val", r"data\.batch_size is 32 .*knn\.k is 16"),
    "no test split": (
        lambda root: noisy_classes(root, 70, {"val": 12}),
        ["data.batch_size=64"],
        "val",
        r"knn\.k is 16",
    ),
}


def kindred(*words):
    return in_child(lambda: main([*words]), seconds=600)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_trained_evaluated_and_compared(kind, tmp_path, monkeypatch, capfd):
    make, overrides, judge, said = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "my images")
    typed = [
        "train",
        "model=simclr",
        "data=imagefolder",
        "encoder=convnet",
        "data.source.root=my images",
        *SMALL,
        *overrides,
    ]

    for seed in (0, 0, 1):  # the second one is a repeat
        assert kindred(*typed, f"seed={seed}") == 0
    out, err = capfd.readouterr()
    assert re.search(said, err)
    closing = re.findall(r"^on (\w+): +make evaluate RUN=(\S+)$", out, re.MULTILINE)
    assert [on for on, _ in closing] == [judge] * 3
    runs = [place for _, place in closing]

    for place in runs:
        assert kindred("evaluate", "--run", place) == 0
        result = json.loads((tmp_path / place / "evaluation.json").read_text())
        assert result["judged_on"] == judge
        assert result[f"{judge}/linear_top1"] > 0.9  # colours tell the classes apart
        assert "data_changed" not in result
    assert ("there is no test split" in capfd.readouterr().out) == (judge == "val")

    shutil.copytree("my images", "a copy", copy_function=shutil.copyfile)
    shutil.rmtree("my images")
    shutil.move("a copy", "my images")
    assert kindred("train", f"resume={runs[2]}", "trainer.max_epochs=3") == 0
    assert "taken for a copy" in capfd.readouterr().err

    next((tmp_path / "my images" / "train").rglob("*.png")).unlink()
    assert kindred("train", f"resume={runs[2]}", "trainer.max_epochs=4") == 1
    assert re.search(r"^error: .*the data are not those that the run began with: .*1 removed", capfd.readouterr().err)
    assert kindred("evaluate", "--run", runs[0]) == 0
    assert "the data are not those of the training: " in capfd.readouterr().out
    assert kindred(*typed, "seed=2") == 0
    capfd.readouterr()

    assert compare(["logs"]) == 0
    rows = [line.split(line[0])[1:-1] for line in capfd.readouterr().out.splitlines() if line[:1] in ("┃", "│")]
    place = [cell.strip() for cell in rows[0]].index("n")
    counts = sorted(row[place].strip() for row in rows[1:])
    assert counts == ["1", "1", "1 + 1 repeat"]  # the one of 3 epochs, the one of other data, and the two that repeat
