"""Claims of papers over runs: which runs count, the numbers against loops, what is drawn and refused."""

import json
import statistics
from itertools import product

import matplotlib.image
import numpy as np
import pytest
import yaml
from written_runs import write_run

from kindred.commands.compare import main
from kindred.config import compose
from kindred.config_files import CONFIGS, config_names
from kindred.errors import ConfigError
from kindred.study.claims import claims_over
from kindred.study.claims_report import markdown, rows
from kindred.study.groups import find_runs
from kindred.study.sweeps.checking import check
from kindred.study.sweeps.reading import read_sweep

CLAIMS = sorted(path.stem for path in (CONFIGS / "published").glob("nnclr_*.yaml"))
ACCURACY = {
    ("simclr", "small"): 0.8,
    ("simclr", "crop_only"): 0.5,
    ("nnclr", "small"): 0.7,
    ("nnclr", "crop_only"): 0.65,
}


def write(folder, model, views, seed, accuracy, *more, evaluations=()):
    """A run, with evaluations as (file's ending, its content)."""
    overrides = (f"model={model}", f"views={views}", *more)
    measured = {"val/linear_top1": accuracy}
    path = write_run(folder, [0.5], overrides=overrides, seed=seed, more=measured)
    for ending, content in evaluations:
        (path / f"evaluation{ending}.json").write_text(json.dumps({"data": "photos", "labels": 1.0, **content}))
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """SimCLR and NNCLR with all views and with crops alone, three seeds, one of them twice; and what does not count."""
    folder = tmp_path_factory.mktemp("claims")
    for (model, views), seed in product(ACCURACY, range(3)):
        accuracy = ACCURACY[model, views] + 0.01 * seed
        few = {"labels": 0.01, "step": 4, "test/linear_top1": accuracy - 0.3}
        evaluations = [
            ("", {"step": 4, "test/linear_top1": accuracy - 0.1}),
            ("-labels0.01", few),
            ("-labels0.1", {**few, "labels": 0.1, "step": 3}),  # of an earlier step than the run's last
            ("-digits", {"data": "digits", "step": 4, "test/linear_top1": accuracy - 0.2}),
            ("-digits-labels0.01", {"data": "digits", "labels": 0.01, "step": 4, "test/linear_top1": 0.1}),
        ]
        write(folder / f"{model}-{views}-{seed}", model, views, seed, accuracy, evaluations=evaluations)
    write(folder / "again", "simclr", "small", 0, 0.9)
    write(folder / "oracle", "nnclr", "small", 0, 0.99, "neighbours=oracle")
    write(folder / "nearest", "nnclr", "small", 0, 0.75, "neighbours=nearest")
    write(folder / "momentum", "nnclr", "small", 0, 0.6, "model.momentum=0.9")
    write(folder / "mocov2", "mocov2", "small", 0, 0.99)
    return folder


@pytest.fixture(scope="module")
def claims(study):
    return {claim.name: claim for claim in claims_over(find_runs([study]))}


def test_which_claims_the_runs_say_something_of(claims):
    assert set(claims) == {name for name in CLAIMS if name not in ("nnclr_top_k", "nnclr_support")}  # of one size alone
    assert rows(claims["nnclr_neighbours"]) == [["Nearest", "0.750", "1", ""], ["Oracle", "0.990", "1", ""]]
    assert claims["nnclr_momentum"].measured == {(None,): pytest.approx([0.7, 0.71, 0.72]), (0.9,): [0.6]}
    assert [row[0] for row in rows(claims["nnclr_momentum"])] == ["none", "0.9"]


def test_accuracies_of_trainings_and_a_repeated_seed_counts_once(claims):
    measured = claims["nnclr_augmentation"].measured
    assert set(measured) == set(ACCURACY)
    for place, values in measured.items():
        first = (0.8 + 0.9) / 2 if place == ("simclr", "small") else ACCURACY[place]
        assert sorted(values) == pytest.approx(sorted([first, *(ACCURACY[place] + 0.01 * seed for seed in (1, 2))]))
    assert claims["nnclr_augmentation"].published["nnclr", "crop_only"] == pytest.approx(0.756 * (1 - 0.021), abs=5e-4)


def test_accuracies_of_evaluations(claims):
    labels = claims["nnclr_labels"].measured
    assert set(labels) == {(model, share) for model in ("simclr", "nnclr") for share in (0.01, 1.0)}  # 0.1 is outdated
    assert labels["nnclr", 0.01] == pytest.approx([0.4, 0.41, 0.42])
    transfer = claims["nnclr_transfer"].measured
    assert set(transfer) == {(model, data) for model in ("simclr", "nnclr") for data in ("photos", "digits")}
    assert transfer["simclr", "digits"] == pytest.approx([0.6, 0.61, 0.62])


def test_the_table_against_loops(claims):
    claim = claims["nnclr_labels"]
    table = {tuple(row[:2]): row[2:] for row in rows(claim)}
    assert table["nnclr", "0.1"] == ["", "", "0.698"]
    assert table["nnclr", "1"] == ["0.610 ± 0.010", "3", ""]
    values = claim.measured["simclr", 0.01]
    expected = f"{sum(values) / 3:.3f} ± {statistics.stdev(values):.3f}"
    assert table["simclr", "0.01"] == [expected, "3", "0.483"]
    assert [row[1] for row in rows(claim)] == ["0.01", "0.1", "1"] * 2
    assert f"| simclr | 0.01 | {expected} | 3 | 0.483 |" in markdown(claim)


def test_what_the_command_writes(study, tmp_path, capsys):
    options = ["--output", str(tmp_path / "page.html"), "--claims", str(tmp_path / "out" / "claims.md")]
    assert main([str(study), *options]) == 0
    text = (tmp_path / "out" / "claims.md").read_text()
    for name in ("nnclr_augmentation", "nnclr_labels", "nnclr_momentum"):
        assert f"({name}-photos.png)" in text
        picture = matplotlib.image.imread(tmp_path / "out" / f"{name}-photos.png")
        assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20
    above, alone = (
        matplotlib.image.imread(tmp_path / "out" / f"nnclr_{name}-photos.png") for name in ("labels", "momentum")
    )
    assert above.shape[0] > alone.shape[0]  # nothing was published below it
    assert f"claims: {tmp_path / 'out' / 'claims.md'}" in capsys.readouterr().out


def test_runs_that_differ_in_more_than_the_claim_compares(study, tmp_path, capsys):
    write(tmp_path / "longer", "nnclr", "crop_only", 3, 0.9, "trainer.max_epochs=30")
    options = ["--output", str(tmp_path / "page.html"), "--claims", str(tmp_path / "claims.md")]
    assert main([str(study), str(tmp_path / "longer"), *options]) == 1
    said = capsys.readouterr().err
    assert (
        "nnclr_augmentation.yaml: where: runs with model=nnclr, views=crop_only differ in trainer.max_epochs, 15 and 30"
        in said
    )
    assert not (tmp_path / "claims.md").exists()


def test_each_data_set_that_was_trained_on_is_a_claim_of_its_own(study, tmp_path):
    for seed, momentum in enumerate(("null", 0.9)):
        overrides = ("data=digits", "model.queue_size=4096", f"model.momentum={momentum}")
        write(tmp_path / f"digits-{momentum}", "nnclr", "small", seed, 0.95, *overrides)
    found = {claim.data: claim for claim in claims_over(find_runs([study, tmp_path])) if claim.name == "nnclr_momentum"}
    assert list(found) == ["photos", "digits"]
    assert found["digits"].measured == {(None,): [0.95], (0.9,): [0.95]}
    assert len(found["photos"].measured[None,]) == 3


def test_runs_of_which_no_claim_is_made(tmp_path, capsys):
    write(tmp_path / "run", "mocov2", "small", 0, 0.9)
    options = ["--output", str(tmp_path / "page.html"), "--claims"]
    assert main([str(tmp_path / "run"), *options, str(tmp_path / "claims.md")]) == 1
    assert "these runs compare nothing that a claim in configs/published/ is about" in capsys.readouterr().err
    assert main([str(tmp_path / "run"), *options, str(tmp_path)]) == 1
    assert f"--claims {tmp_path}: that is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"where": ...}, "where: needs a value"),
        ({"wher": {}}, "wher: no such key"),
        ({"columns": ["accuracy"]}, r"columns is \['accuracy'\]: give one or two settings, and accuracy"),
        ({"rows": [["nnclr", "small", 75.6]]}, r"rows: \['nnclr', 'small', 75.6\] has to hold .* between 0 and 1"),
        ({"rows": [["nnclr", 0.756]]}, r"rows: \['nnclr', 0.756\] has to hold model, views, accuracy"),
    ],
)
def test_a_file_that_is_no_claim(changes, message, tmp_path, monkeypatch):
    good = {"claim": "x", "source": "y", "where": {}, "columns": ["model", "views", "accuracy"], "rows": []}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "published").mkdir(parents=True)
    text = {key: value for key, value in (good | changes).items() if value is not ...}
    (tmp_path / "configs" / "published" / "mine.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(ConfigError, match=rf"mine\.yaml: {message}"):
        claims_over([])


@pytest.mark.parametrize("name", CLAIMS)
def test_each_claim_has_a_sweep_whose_trainings_count(name):
    """`where` lets a sweep's first training count, and what is compared is varied, published values among it."""
    text, sweep = yaml.safe_load((CONFIGS / "published" / f"{name}.yaml").read_text()), read_sweep(name)
    config = check(sweep)
    for key, wanted in text["where"].items():
        found = config.choices.get(key) if key in config.choices else _value(config, key)
        assert found == wanted or found in (wanted if isinstance(wanted, list) else []), key
    for place, column in enumerate(text["columns"]):
        if column in ("model", "views", "model.queue_size", "model.momentum", "model.neighbours.k"):
            assert {row[place] for row in text["rows"]} <= set(sweep.parameters[column]["values"])
    assert set(sweep.parameters) <= {"seed", "neighbours", *text["columns"]}
    assert name in config_names("sweep")


def _value(config, key):
    for part in key.split("."):
        config = None if config is None else config.get(part)
    return config


def test_trainings_that_two_claims_ask_for_are_the_same():
    """Those of nnclr_labels and nnclr_transfer are nnclr_augmentation's with all views: all but where they are kept."""
    found = [read_sweep(name) for name in ("nnclr_labels", "nnclr_transfer", "nnclr_augmentation")]
    both = [compose([*sweep.base, "model=nnclr", "views=small", "seed=1"]) for sweep in found]
    assert both[0] == both[1] == both[2]
