"""Judges on trial: rank correlation and cost against loops and scipy, and what a comparison shows of them."""

import json
import math
from itertools import combinations

import matplotlib.image
import numpy as np
import pytest
from scipy.stats import kendalltau
from written_runs import write_run

from kindred.commands.compare import main
from kindred.study.groups import find_runs
from kindred.study.judges import chosen, kendall, try_judges

METHODS = ("simclr", "mocov2", "nnclr")


def drawn(count, seed=0, levels=7):
    """Scores and accuracies with ties, and the weights of some samples of them."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, levels, count) / levels
    y = x + generator.integers(0, levels, count) / levels
    return x, y, generator.multinomial(count, np.full(count, 1 / count), 20)


def test_kendall_against_scipy():
    x, y, weights = drawn(15)
    expected = [kendalltau(np.repeat(x, w), np.repeat(y, w)).statistic for w in weights]
    np.testing.assert_allclose(kendall(x, y, weights), expected, rtol=1e-12)
    assert np.isnan(kendall(np.ones(15), y, weights)).all()


def test_kendall_within_methods_against_loops():
    x, y, weights = drawn(15, seed=1)
    method = np.arange(15) % 3
    same = method[:, None] == method[None]
    for w, actual in zip(weights, kendall(x, y, weights, same), strict=True):
        runs = np.repeat(np.arange(15), w)
        pairs = [(i, j) for i, j in combinations(runs, 2) if method[i] == method[j]]
        signs = np.sign([(x[i] - x[j], y[i] - y[j]) for i, j in pairs])
        agree = (signs[:, 0] * signs[:, 1]).sum()
        assert actual == pytest.approx(agree / math.sqrt((signs[:, 0] != 0).sum() * (signs[:, 1] != 0).sum()))
    everything = np.ones((15, 15), dtype=bool)
    np.testing.assert_allclose(kendall(x, y, weights, everything), kendall(x, y, weights))


def test_the_chosen_run_against_loops():
    x, y, weights = drawn(12, seed=2, levels=3)
    for w, actual in zip(weights, chosen(x, y, weights), strict=True):
        runs = np.repeat(np.arange(12), w)
        best = [y[i] for i in runs if x[i] == max(x[runs])]
        assert actual == pytest.approx(sum(best) / len(best))


def write_judged(folder, count=24, seed=0, evaluated=True):
    """Runs of which RankMe tells how good they are, alpha as it is near 1, uniformity the contrary, and LiDAR nothing."""
    generator = np.random.default_rng(seed)
    qualities = generator.permutation(count) / count
    noise = generator.permutation(count)
    for number, (quality, chance) in enumerate(zip(qualities, noise, strict=True)):
        more = {
            "val/rankme": 10 + 50 * quality,
            "val/alpha_req": 1 + (1 - quality) * (-1) ** number,
            "val/uniformity": -3 + quality,
            "val/lidar": float(chance),
            "val/linear_top1": 0.5 + 0.4 * quality,
        }
        if number:
            more["val/info_nce"] = 1.0  # which one run lacks
        changes = {"model.temperature": 0.1 + number / 100}
        method = f"model={METHODS[number % 3]}"
        path = write_run(folder / f"{number:02}", [0.5], overrides=(method,), changes=changes, more=more)
        if evaluated:
            (path / "evaluation.json").write_text(json.dumps({"step": 4, "test/linear_top1": 0.55 + 0.4 * quality}))
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return write_judged(tmp_path_factory.mktemp("judged") / "logs")


def test_judges_of_known_worth(judged):
    (trial,) = try_judges(find_runs([judged]))
    assert (trial.data, len(trial.methods), set(trial.methods)) == ("photos", 24, set(METHODS))
    found = {verdict.heading: verdict for verdict in trial.verdicts}
    assert found.keys() == {"RankMe", "alpha-ReQ, near 1", "uniformity, low", "LiDAR", "train loss, low"}
    assert [verdict.heading for verdict in trial.verdicts][-2:] == [
        "uniformity, low",
        "train loss, low",
    ]  # the same for all
    for good in ("RankMe", "alpha-ReQ, near 1"):
        verdict = found[good]
        for estimate, value in ((verdict.tau, 1), (verdict.within, 1), (verdict.regret, 0), (verdict.regret_within, 0)):
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, value, value))
    worst = found["uniformity, low"]
    assert worst.tau.value == worst.within.value == pytest.approx(-1)
    assert worst.regret.value == pytest.approx(40 * 23 / 24)
    lidar = found["LiDAR"]
    assert lidar.tau.value == pytest.approx(kendalltau(lidar.scores, trial.truth).statistic)
    assert lidar.tau.low < 0 < lidar.tau.high
    assert lidar.regret.value == pytest.approx(100 * (trial.truth.max() - trial.truth[lidar.scores.argmax()]))
    labelled = {verdict.heading: verdict for verdict in trial.labelled}
    assert labelled["linear on val"].tau.value == pytest.approx(1)
    assert labelled["any run, at random"].regret.value == pytest.approx(100 * (trial.truth.max() - trial.truth.mean()))
    assert math.isnan(labelled["any run, at random"].tau.value)


def test_the_interval_is_of_runs_drawn_anew(judged):
    (trial,) = try_judges(find_runs([judged]))
    (lidar,) = [verdict for verdict in trial.verdicts if verdict.heading == "LiDAR"]
    generator = np.random.default_rng(99)
    taus = []
    for _ in range(600):
        runs = generator.integers(0, 24, 24)
        taus.append(kendalltau(lidar.scores[runs], trial.truth[runs]).statistic)
    assert (lidar.tau.low, lidar.tau.high) == pytest.approx(np.percentile(taus, [2.5, 97.5]), abs=0.05)


def test_what_a_comparison_shows(judged, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(judged), "--judges", "docs/judges.md"]) == 0
    out = capsys.readouterr().out
    assert "photos: judges of 24 runs, against a linear classifier's accuracy on test (0.550 to 0.933)" in out
    (line,) = [line for line in out.splitlines() if line.strip().startswith("RankMe ")]
    assert line.split("  ")[0].strip() == "RankMe"
    assert line.count("1.00 [1.00, 1.00]") == 2
    assert line.count("0.0 [0.0, 0.0]") == 2
    text = (tmp_path / "docs" / "judges.md").read_text()
    assert "| RankMe | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 0.0 [0.0, 0.0] | 0.0 [0.0, 0.0] |\n" in text
    assert "](judges-photos.png)" in text
    assert matplotlib.image.imread(tmp_path / "docs" / "judges-photos.png").shape[1] > 1000
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<td>1.00 [1.00, 1.00]</td>") == 6
    assert '<figure><img src="data:image/png;base64,' in page


def test_too_few_runs_and_runs_without_an_accuracy_on_test(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_judged(tmp_path / "few", count=4)
    write_judged(tmp_path / "unevaluated", count=6, evaluated=False)
    assert main(["few", "unevaluated"]) == 0
    assert "judges of" not in capsys.readouterr().out
    assert main(["few", "unevaluated", "--judges", "judges.md"]) == 1
    assert capsys.readouterr().err == (
        "error: --judges judges.md: fewer than 5 of these runs have judges and an accuracy on test; kindred evaluate "
        "--brief gives them one\n"
    )
    assert not (tmp_path / "judges.md").exists()
