"""How benchmarks write down what they measured: a table to read, the numbers, and where they come from."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save(folder: Path, name: str, markdown: str, results: Any, packages: tuple[str, ...], notes: str = "") -> None:
    """Print `markdown` with hardware, versions and command below it; write `<name>.md` and `<name>.json` to `folder`."""
    versions = {package: version(package) for package in packages}
    command = " ".join(["python", *sys.argv])
    about = (
        f"`{command}`: {f'{notes}; ' if notes else ''}{os.cpu_count()} cores of {processor()}; "
        f"{', '.join(f'{package} {number}' for package, number in versions.items())}; {datetime.now(UTC):%Y-%m-%d}."
    )
    text = f"{markdown}\n\n{about}\n"
    print(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(text)
        record = {"command": command, "notes": notes, "processor": processor(), "cores": os.cpu_count()}
        record |= {"versions": versions, "results": results}
        (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
