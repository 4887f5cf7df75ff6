"""The comparison on the terminal: which rows and columns there are, what stands in them, and what is left out."""

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from written_runs import composed, write_run

from kindred.commands import compare
from kindred.commands.compare import main, print_table, read_runs
from kindred.commands.errors import REPORT
from kindred.study.comparison import Comparison
from kindred.study.groups import find_runs


def table(text):
    """The rows of a printed table as lists of stripped cells, the headings first."""
    lines = [line for line in text.splitlines() if line[:1] in "┃│" and line]
    return [[cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]] for line in lines]


@pytest.fixture
def run_main(tmp_path, monkeypatch, capsys):
    """Runs the command line in an empty directory; status, table, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, api=None):
        status = main(arguments, api)
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, table=table(out), out=out, err=err)

    return call


def test_rows_are_settings_and_cells_mean_and_deviation(tmp_path, run_main):
    for temperature, values in {0.1: (0.5, 0.6, 0.7), 0.05: (0.4,)}.items():
        for seed, value in enumerate(values):
            more = {"val/linear_top1": value - 0.1, "val/uniformity": -1.5 - seed, "train/alignment": 0.25}
            changes = {"model.temperature": temperature, "model.optimizer.lr": 0.001}
            where = tmp_path / "logs" / f"{temperature}-{seed}"
            write_run(where, [0.9, value], seed=seed, changes=changes, more=more)
    done = run_main("logs/*")
    assert done.status == 0
    assert done.table == [
        ["temperature", "n", "kNN", "kNN best", "linear", "linear best", "uniformity", "alignment", "seconds"],
        ["0.05", "1", "0.400", "0.900", "0.300", "0.300", "-1.50", "0.250", "10"],
        [
            *("0.1", "3", "0.600 ± 0.100", "0.900 ± 0.000", "0.500 ± 0.100", "0.500 ± 0.100"),
            *("-2.50 ± 1.00", "0.250 ± 0.000", "11 ± 1"),
        ],
    ]
    assert done.out.endswith("page: comparison.html\n")
    assert (tmp_path / "comparison.html").stat().st_size > 1_000_000
    assert not list(tmp_path.glob(".comparison*"))


def test_fifty_runs(tmp_path, run_main):
    for place in range(50):
        changes = {"model.temperature": 0.1 * (1 + place // 5)}
        value = 0.5 + 0.01 * (place // 5) + 0.001 * (place % 5)
        write_run(tmp_path / "logs" / f"{place:02}", [value], seed=place % 5, changes=changes, pictures=True)
    rows = run_main("logs", "--output", "pages/all.html").table
    assert [row[1] for row in rows[1:]] == ["5"] * 10
    # Means of v, v + 0.001, ..., v + 0.004; their deviation is 0.001 sqrt(10 / 4).
    assert [row[2] for row in rows[1:]] == [f"{0.502 + 0.01 * step:.3f} ± 0.002" for step in range(10)]
    page = (tmp_path / "pages" / "all.html").read_text()
    assert page.count("<figure>") == 100
    assert len(page) < 20_000_000


def test_nothing_differs_and_the_directories_are_the_names(tmp_path, run_main):
    write_run(tmp_path / "logs" / "only", [0.5])
    assert [row[:2] for row in run_main("logs").table] == [["run", "n"], ["only", "1"]]
    write_run(tmp_path / "logs" / "twin", [0.7], seed=1)
    assert run_main("logs").table[1][:3] == ["only, twin", "2", "0.600 ± 0.141"]


def test_an_unfinished_run_is_marked_and_not_averaged(tmp_path, run_main):
    write_run(tmp_path / "logs" / "a", [0.5, 0.6])
    write_run(tmp_path / "logs" / "b", [0.2], seed=1, finished=False)
    write_run(tmp_path / "logs" / "c", seed=2, finished=False)
    done = run_main("logs")
    assert [row[:4] for row in done.table] == [
        ["run", "state", "n", "kNN"],
        ["a", "", "1", "0.600"],
        ["b", "unfinished, epoch 1", "1", "0.200"],
    ]
    assert done.err == "left out: 1 run that never reached a step\n"


def test_runs_that_never_reached_a_step_are_counted_and_left_out(tmp_path, run_main):
    write_run(tmp_path / "logs" / "a", [0.5])
    for name in "bcd":
        write_run(tmp_path / "logs" / name, finished=False)
    # Cut in its first epoch, after the untrained encoder's evaluation.
    (tmp_path / "logs" / "d" / "metrics.csv").write_text("step,epoch,val/knn_top1\n0,0,0.25\n")
    done = run_main("logs")
    assert [row[0] for row in done.table] == ["run", "a"]
    assert done.err == "left out: 3 runs that never reached a step\n"
    done = run_main("logs/[bcd]")
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[-1] == "error: no run has reached a step yet"


def test_a_place_without_a_run_among_several_is_left_out_with_a_word(tmp_path, run_main):
    write_run(tmp_path / "logs" / "a", [0.5])
    (tmp_path / "empty").mkdir()
    done = run_main("empty", "logs/*", "logs/a", "wandb:lab/other", api=Project("lab/kin", []))
    assert (done.status, [row[0] for row in done.table]) == (0, ["run", "a"])
    first, second = done.err.splitlines()
    assert first.startswith("left out: empty: there is no run")
    assert second.startswith("left out: lab/other cannot be read as a W&B project")
    done = run_main("empty", "nowhere")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert done.err.startswith("error: empty: there is no run")


def test_runs_that_cannot_be_read_are_named_and_left_out(tmp_path, run_main):
    write_run(tmp_path / "logs" / "good", [0.5])
    with (write_run(tmp_path / "logs" / "torn", [0.5]) / "metrics.csv").open("a") as file:
        file.write("8,two\n")  # a row of it, which is left out; the run is not
    broken = {
        "config": ("config.yaml", "a: [1\n"),
        "list": ("config.yaml", "[]\n"),
        "summary": ("summary.json", "[1, 2]"),
        "evaluation": ("evaluation.json", "{"),
    }
    for name, (file, text) in broken.items():
        write_run(tmp_path / "logs" / name, [0.5])
        (tmp_path / "logs" / name / file).write_text(text)
    done = run_main("logs")
    assert (done.status, len(done.table), done.table[1][0]) == (0, 2, "good, torn")
    complaints = done.err.splitlines()
    complaints.remove("logs/torn/metrics.csv: 1 damaged row left out")
    assert [line.partition(" cannot be read: ")[0] for line in complaints] == [
        f"left out: logs/{name}" for name in sorted(broken)
    ]
    assert all(line.partition(" cannot be read: ")[2] for line in complaints)
    done = run_main("logs/config", "logs/list")
    assert done.status == 1
    assert done.err.splitlines()[-1] == "error: there is no run that can be read"


def test_metrics_of_the_test_split_and_of_an_evaluation_have_their_own_columns(tmp_path, run_main):
    write_run(tmp_path / "logs" / "a", [0.5])
    write_run(tmp_path / "logs" / "b", [0.5], more={"test/knn_top1": 0.25}, changes={"data.val_size": 0})
    (tmp_path / "logs" / "b" / "evaluation.json").write_text('{"test/linear_top1": 0.875}')
    heading, a, b = run_main("logs").table
    assert heading == ["val_size", "n", "kNN", "kNN best", "test kNN", "test kNN best", "evaluated linear", "seconds"]
    assert a[4:7] == ["", "", ""]
    assert b[4:7] == ["0.250", "0.250", "0.875"]


def test_an_evaluation_of_earlier_weights_is_said_and_left_out(tmp_path, run_main):
    for name, step in (("a", 4), ("b", 8)):
        write_run(tmp_path / "logs" / name, [0.5, 0.6], changes={"data.source.root": name})
        (tmp_path / "logs" / name / "evaluation.json").write_text(f'{{"step": {step}, "test/linear_top1": 0.75}}')
    done = run_main("logs")
    assert [(row[0], row[4]) for row in done.table] == [("root", "evaluated linear"), ("a", ""), ("b", "0.750")]
    assert done.err == "left out: 1 evaluation of an earlier step than the run's last\n"


def test_sort_puts_the_highest_first_and_those_without_last(tmp_path, run_main):
    for name, knn, more in (("a", 0.5, {}), ("b", 0.7, {"val/tolerance": 0.1}), ("c", 0.6, {"val/tolerance": 0.2})):
        write_run(tmp_path / "logs" / name, [knn], more=more, changes={"data.source.root": name})
    first = {m: [row[0] for row in run_main("logs", "--sort", m).table[1:]] for m in ("kNN", "val/tolerance")}
    assert first == {"kNN": ["b", "c", "a"], "val/tolerance": ["c", "b", "a"]}
    done = run_main("logs", "--sort", "val/accuracy")
    assert done.status == 1
    assert done.err.startswith("error: --sort val/accuracy: no run has it; they have epoch, epochs, seconds")


def test_a_place_without_runs_is_one_line(run_main):
    done = run_main("logs/photos/*")
    assert (done.status, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert done.err.startswith("error: logs/photos/*: there is no run")


def test_a_page_is_no_directory(tmp_path, run_main):
    write_run(tmp_path / "logs" / "a", [0.5])
    done = run_main("logs", "--output", "logs")
    assert (done.status, done.err) == (
        1,
        "error: --output logs: that is a directory; name a file, such as comparison.html\n",
    )


def test_a_bug_shows_where_it_comes_from(tmp_path, run_main, monkeypatch):
    write_run(tmp_path / "logs" / "a", [0.5])
    monkeypatch.setattr(compare, "page", lambda comparison: "".join([comparison]))
    done = run_main("logs")
    assert done.status == 1
    assert done.err.startswith("Traceback (most recent call last):")
    assert done.err.splitlines()[-2].startswith("TypeError: ")
    assert done.err.splitlines()[-1] == f"error: {REPORT}"


def test_a_narrow_terminal_gets_two_tables(tmp_path):
    more = {"val/linear_top1": 0.5, "val/uniformity": -1.5, "val/effective_rank": 20.0}
    for seed in range(2):
        write_run(tmp_path / str(seed), [0.5], seed=seed, more=more)
    comparison = Comparison.of(find_runs([tmp_path]))
    console = Console(width=90, force_terminal=True, color_system=None, file=io.StringIO())
    print_table(comparison, console)
    rows = table(console.file.getvalue())
    assert rows[0] == ["run", "n", "kNN", "kNN best", "linear", "linear best"]
    assert rows[2] == ["run", "n", "uniformity", "effective rank", "seconds"]
    assert rows[3] == ["0, 1", "2", "-1.50 ± 0.00", "20.0 ± 0.0", "10 ± 1"]


def printed(comparison, width):
    """The lines of a comparison on a terminal of that width."""
    console = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    print_table(comparison, console)
    return console.file.getvalue().splitlines()


METHODS = ("mocov2", "nnclr", "simclr", "supcon")


@pytest.fixture
def four_methods(tmp_path):
    """Each as its recipe says, with another learning rate too for the first; two seeds of each."""
    more = {"val/linear_top1": 0.5, "val/uniformity": -1.5, "val/effective_rank": 20.0, "train/alignment": 0.5}
    for method in METHODS:
        for seed in range(2):
            knn = [0.5, 0.6 + 0.1 * seed]
            write_run(tmp_path / f"{method}{seed}", knn, overrides=(f"model={method}",), seed=seed, more=more)
    changes = {"model.optimizer.lr": 0.5, "data.batch_size": 64}
    write_run(tmp_path / "more", [0.9], overrides=("model=mocov2",), changes=changes, more=more)
    return Comparison.of(find_runs([tmp_path]))


def test_four_methods_on_eighty_columns(four_methods):
    lines = printed(four_methods, 80)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    rows = table("\n".join(lines))
    heading, *accuracies = rows[:6]
    assert heading == ["model", "lr", "n", "kNN", "kNN best", "linear"]  # one method had two learning rates
    assert accuracies == [
        ["mocov2", "0.12", "2", "0.650 ± 0.071", "0.650 ± 0.071", "0.500 ± 0.000"],
        ["mocov2", "0.5", "1", "0.900", "0.900", "0.500"],
        ["nnclr", "0.12", "2", "0.650 ± 0.071", "0.650 ± 0.071", "0.500 ± 0.000"],
        ["simclr", "0.06", "2", "0.650 ± 0.071", "0.650 ± 0.071", "0.500 ± 0.000"],
        ["supcon", "0.12", "2", "0.650 ± 0.071", "0.650 ± 0.071", "0.500 ± 0.000"],
    ]
    headings = [row for row in rows if row[0] == "model"]
    assert [row[3:] for row in headings[1:]] == [
        ["linear best"],
        ["batch_size", "uniformity", "effective rank"],
        ["alignment", "seconds"],
    ]
    assert [row[3] for row in rows[12:18]] == ["batch_size", "256", "64", "256", "128", "256"]
    # What the recipes say for each method.
    assert "page only, since they follow from model: temperature, warmup_epochs, max_epochs" in " ".join(
        " ".join(lines).split()
    )


def test_wide_enough_it_is_one_table_with_every_setting(four_methods):
    (heading, *rows) = table("\n".join(printed(four_methods, 300)))
    assert heading[:6] == ["model", "temperature", "warmup_epochs", "lr", "max_epochs", "batch_size"]
    assert len(rows) == 5


def test_names_that_take_the_whole_width_are_numbered_and_accuracies_stay_readable(tmp_path):
    places = [f"/data/of/someone/{'with/long/names/' * 4}{name}" for name in "ab"]
    for place, knn in zip(places, (0.5, 0.75), strict=True):
        write_run(tmp_path / place[-1], [knn], changes={"data.source.root": place})
    lines = printed(Comparison.of(find_runs([tmp_path])), 80)
    assert max(map(len, lines)) <= 80
    assert "".join(lines).replace(" ", "").startswith(f"1root{places[0]}2root{places[1]}")
    rows = table("\n".join(lines))
    assert rows[:3] == [["row", "n", "kNN", "kNN best"], ["1", "1", "0.500", "0.500"], ["2", "1", "0.750", "0.750"]]


def test_the_best_accuracy_is_marked(tmp_path):
    for temperature, knn in ((0.1, 0.5), (0.2, 0.7), (0.5, 0.7), (1.0, 0.6)):
        write_run(tmp_path / str(temperature), [knn], changes={"model.temperature": temperature})
    comparison = Comparison.of(find_runs([tmp_path]))
    best = {
        column.heading: [g.settings["model.temperature"] for g in comparison.best(column)]
        for column in comparison.columns
    }
    assert best == {"kNN": [0.2, 0.5], "kNN best": [0.2, 0.5], "seconds": []}


def test_settings_of_someone_else_do_nothing_to_the_terminal(tmp_path, run_main):
    for name in ("\x1b[2J[red]a", "[/red]b"):
        changes = {"data.source.root": name, "model.\x1bm": len(name)}
        write_run(tmp_path / "logs" / str(len(name)), [0.5], changes=changes)
    done = run_main("logs")
    assert [row[:2] for row in done.table] == [["\ufffdm", "root"], ["7", "[/red]b"], ["10", "\ufffd[2J[red]a"]]
    assert "\x1b" not in done.out


def test_comparing_imports_no_torch(tmp_path):
    write_run(tmp_path / "run", [0.5], pictures=True)
    code = (
        "import sys; from kindred.commands import compare; "
        f"compare.main([{str(tmp_path)!r}, '--output', {str(tmp_path / 'page.html')!r}]); "
        "sys.exit(bool({'torch', 'lightning', 'wandb', 'matplotlib'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


class Project:
    """Stands in for wandb.Api: one project with the given runs."""

    def __init__(self, name, runs):
        self.name, self.found = name, runs

    def runs(self, path, lazy):
        if path != self.name:
            raise ValueError(f"Could not find project {path}\nand more")
        return self.found


def wandb_run(name, temperature, history, state="finished", **summary):
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(composed(f"model.temperature={temperature}"))
    return SimpleNamespace(
        entity="lab",
        project="kin",
        id=f"id-{name}",
        name=name,
        state=state,
        config=config,
        summary_metrics=summary,
        scan_history=lambda: iter(history),
    )


def row(step, **metrics):
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return {"_step": 0, "_timestamp": 1.5, "trainer/global_step": step, "epoch": step / 4, **named}


def test_a_wandb_project_reads_as_directories_do(tmp_path, run_main):
    untrained = row(0, val__knn_top1=0.9)
    resumed = [row(4, val__knn_top1=0.5), row(8, train__loss=9.0), row(8, train__loss=1.0), row(8, val__knn_top1=0.4)]
    images = {"_step": 9, "figures/views": {"_type": "image-file"}}
    api = Project(
        "lab/kin",
        [
            wandb_run("first", 0.1, [untrained, *resumed, images], epochs=2, seconds=33.0),
            wandb_run("cut", 0.2, [untrained, row(4, val__knn_top1=0.3)], "crashed", epochs=7),
            wandb_run("scores", 0.1, [images]),
        ],
    )
    for place in ("wandb:lab/kin", "lab/kin"):
        done = run_main(place, api=api)
        assert done.status == 0, done.err
        assert done.table == [
            ["temperature", "state", "n", "kNN", "kNN best", "seconds"],
            ["0.1", "", "1", "0.400", "0.500", "33"],
            ["0.2", "unfinished, epoch 1", "1", "0.300", "0.300", ""],
        ]
    [run, _] = read_runs(["wandb:lab/kin"], api)
    assert run.metrics["step"].tolist() == [0, 4, 8]
    assert run.metrics["train/loss"][2] == 1.0
    assert run.summary["untrained/knn_top1"] == 0.9
    write_run(tmp_path / "logs" / "here", [0.5])
    assert len(run_main("logs", "lab/kin", api=api).table) == 4


def test_a_wandb_project_that_cannot_be_read_is_one_line(run_main):
    done = run_main("lab/other", api=Project("lab/kin", []))
    message = "error: lab/other cannot be read as a W&B project: Could not find project lab/other\n"
    assert (done.status, done.err) == (1, message)
    done = run_main("wandb:lab/kin", api=Project("lab/kin", [wandb_run("scores", 0.1, [])]))
    assert (done.status, done.err) == (1, "error: lab/kin: none of its 1 runs in W&B is a training\n")
