"""All that a laptop measures in under ten minutes, in one table: what `make bench` runs.

    python benchmarks/table.py [--output benchmarks/results] [--only losses knn] [--keep]

Each script runs in a process of its own, one after the other, and may be run alone; bench.md and bench.json are written
anew after each, from whatever results there are. A run that was interrupted goes on with `--keep`, which leaves out the
scripts that have results. A row that misses its target gets the paragraph under its name in not_reached.md. What chunks.py,
which takes longer, unchanged.py, steps.py --compile, training.py --steps and gpu.py have measured is shown too, with its
own hardware.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from report import Row, row_table

HERE = Path(__file__).parent
SCRIPTS = {
    "views": ["--repeats", "3"],
    "losses": ["--repeats", "5"],
    "queues": [],
    "knn": ["--repeats", "2"],
    "loading": [],
    "training": ["--rounds", "1"],
    "steps": ["--rounds", "2"],
    "busy": [],
    "startup": ["--repeats", "3"],
    "scaling": ["--repeats", "2"],
}
ELSEWHERE = [
    "chunks",
    "unchanged",
    "steps_compiled",
    "trainer_step",
    "time_to_accuracy",
    "time_to_accuracy-50000",
    "gpu",
]
VIEW_TARGETS = {"lightly": (10, 1), "torchvision": (10, 1), "Kornia": (1.5, 1)}  # at 32x32, at 224x224


def rows_of(name: str, results: dict) -> list[Row]:
    """The rows in the results of a script."""
    if name == "views":
        return view_rows(results)
    if name == "startup":
        peer, kindred = zip(*results["seconds"], strict=True)
        what, against = "from the command to the first training step", "python -c 'import lightning, torchvision'"
        return [Row(what, against, "s", list(kindred), list(peer), "at most", 1.3)]
    return [Row(**row) for row in results["rows"]]


def view_rows(results: dict) -> list[Row]:
    rows = []
    for recipe, rates in results.items():
        for peer, theirs in rates.items():
            if peer != "Kindred":
                target = next(pair for name, pair in VIEW_TARGETS.items() if peer.startswith(name))
                bound = target[0 if recipe.startswith("32x32") else 1]
                rows.append(
                    Row(f"views, {recipe}", peer, "views/s/core", rates["Kindred"], theirs, "times more", bound)
                )
    return rows


def paragraphs(path: Path) -> dict[str, str]:
    """Title -> text of the sections `## <title>` of a Markdown file; none without the file."""
    sections = path.read_text().split("\n## ")[1:] if path.exists() else []
    return {title.strip(): text.strip() for title, _, text in (section.partition("\n") for section in sections)}


def write(folder: Path, reasons: dict[str, str]) -> list[Row]:
    """bench.md and bench.json in `folder`, from the results of the scripts in it."""
    rows, sources = [], {}
    for name in (*SCRIPTS, *ELSEWHERE):
        if (path := folder / f"{name}.json").exists():
            record = json.loads(path.read_text())
            rows += rows_of(name, record.pop("results"))
            sources[name] = record
    missed = [row for row in rows if row.reached is False]
    lines = [
        "# Measured",
        "",
        row_table(rows),
        "",
        "x: times faster, smaller or more; plain numbers and ms: Kindred over ",
    ]
    lines[-1] += (
        "the peer, or more than it; %: off the theory's exponent. Each value is of one turn that both took together."
    )
    lines += ["", f"Targets reached: {sum(row.reached is True for row in rows)}, missed: {len(missed)}."]
    for row in missed:
        title = f"{row.what}, against {row.against}"
        lines += [
            "",
            f"## {title}",
            "",
            reasons.get(title, reasons.get(row.what, "Not explained yet (not_reached.md).")),
        ]
    lines += ["", "## Where the numbers come from", ""]
    for name, record in sources.items():
        versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
        notes = f"{record['notes']}; " if record["notes"] else ""
        hardware = f"{record['cores']} cores of {record['processor']}"
        lines.append(f"- {name}: `{record['command']}`: {notes}{hardware}; {versions}; {record.get('date', '')}")
    (folder / "bench.md").write_text("\n".join(lines) + "\n")
    found = [{**vars(row), "values": row.values, "reached": row.reached} for row in rows]
    (folder / "bench.json").write_text(json.dumps({"rows": found, "sources": sources}, indent=2) + "\n")
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path(os.path.relpath(HERE / "results")), help="folder for all results"
    )
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="scripts to run")
    parser.add_argument("--keep", action="store_true", help="leave out scripts that have results in the folder")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.only:
        if options.keep and (options.output / f"{name}.json").exists():
            continue
        command = [
            sys.executable,
            os.path.relpath(HERE / f"{name}.py"),
            "--output",
            str(options.output),
            *SCRIPTS[name],
        ]
        if subprocess.run(command).returncode:
            failed.append(name)
        write(options.output, paragraphs(HERE / "not_reached.md"))
    write(options.output, paragraphs(HERE / "not_reached.md"))
    print((options.output / "bench.md").read_text())
    if failed:
        print(f"failed, and left out: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
