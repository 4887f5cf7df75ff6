"""Which data a run is of, and what has become of them since: names, sizes and times of files, without their content.

    data.json    of each split: how many examples and files, and digests of their labels, names and sizes, times
    data.npz     the listing itself, compressed, by which a change is told file by file

Two splits are the same data if names, sizes and times are. A copy has other times, all of them, while an edit leaves most
as they were: where no time of up to SAMPLE files, spread over the split, is what it was, their bytes decide instead.

Imports no torch.
"""

import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kindred.data.inventory import Files
from kindred.errors import ConfigError
from kindred.files import whole, write_atomically

if TYPE_CHECKING:
    from kindred.data.datamodule import DataModule

SAMPLE = 32  # files of a split whose bytes are read
BLOCK, BLOCKS = 1 << 16, 16  # of a file: all of it, if it is no larger than these, else as many as are spread over it
SHOWN = 3  # names in a message, of each kind of change
Record = dict[str, Any]


def record(datamodule: "DataModule") -> Record:
    """What stands in data.json, of a DataModule after setup()."""
    splits: dict[str, Any] = {name: _summary(files) for name, files in datamodule.inventory().items()}
    for name, labels in datamodule.labels().items():
        splits.setdefault(name, {})
        splits[name] |= {"examples": len(labels), "labels": _digest(labels, *map(str, datamodule.class_names))}
    return {"source": datamodule.source.name, "splits": splits}


def write_record(directory: Path, datamodule: "DataModule") -> None:
    """data.json and data.npz of a run directory, unless they are there: they say what the run began with."""
    if (directory / "data.json").exists():
        return
    if files := datamodule.inventory():
        columns = ("names", "sizes", "times")
        arrays = {f"{split}/{name}": getattr(own, name) for split, own in files.items() for name in columns}
        with whole(directory / "data.npz") as file:
            np.savez_compressed(file, **arrays)
    write_atomically(directory / "data.json", json.dumps(record(datamodule), indent=2) + "\n")


def read_record(directory: Path) -> Record | None:
    """data.json of a run directory; None if there is none, as of older runs, or if it says something else."""
    try:
        found = json.loads((directory / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    fits = isinstance(found, dict) and isinstance(splits := found.get("splits"), dict)
    return found if fits and all(isinstance(split, dict) for split in splits.values()) else None


def short(found: Record) -> str:
    """Eight letters for the data of a record; a copy's are others."""
    kept = ("labels", "names", "times")
    return _digest(json.dumps({name: [s.get(key) for key in kept] for name, s in sorted(found["splits"].items())}))[:8]


def same(one: Record, other: Record, without: Iterable[str] = ()) -> bool:
    """Whether two records are of the same data.

    Args:
        without: splits that do not count. "test" counts where both have it: it has no part in a training.
    """
    splits = (one["splits"].keys() | other["splits"].keys()) - {*without}
    splits -= {"test"} - (one["splits"].keys() & other["splits"].keys())
    return all(_same(one["splits"].get(name), other["splits"].get(name)) for name in splits)


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    if one is None or other is None:
        return False
    if any(one[key] != other[key] for key in ("labels", "names") if key in one and key in other):
        return False
    if not ("names" in one and "names" in other):  # the source knew no files, or did not yet: labels are all there is
        return True
    return one.get("times") == other.get("times") or _copied(one, other)


def _copied(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    times = [split.get("sample_times") or [] for split in (one, other)]
    return one.get("sample") == other.get("sample") and not any(a == b for a, b in zip(*times, strict=False))


def changes(directory: Path, datamodule: "DataModule", without: Iterable[str] = ()) -> str | None:
    """What has become of the data of a run, in one line; None: nothing, or it is not known what they were.

    Args:
        directory: of the run.
        datamodule: of the data as they are now, after setup().
        without: splits that do not count.
    """
    before = read_record(directory)
    if before is None:
        return None
    now = record(datamodule)
    if same(before, now, without):
        known = {name: split["times"] for name, split in before["splits"].items() if "times" in split}
        if any(times != now["splits"].get(name, {}).get("times", times) for name, times in known.items()):
            print(
                f"{directory}: its data have other times now; names, sizes and the bytes of {SAMPLE} files a split are the "
                "same, so they are taken for a copy",
                file=sys.stderr,
            )
        return None
    said, saved, files = [], _read_listing(directory / "data.npz"), datamodule.inventory()
    for name in sorted({*before["splits"], *now["splits"]} - {*without}):
        was, is_now = before["splits"].get(name), now["splits"].get(name)
        if _same(was, is_now) or (name == "test" and None in (was, is_now)):
            continue
        if was is None or is_now is None:
            said.append(f"{name} is {'new' if was is None else 'gone'}")
            continue
        counts = [split.get("files", split.get("examples", "?")) for split in (was, is_now)]
        number = f" ({counts[0]} files, now {counts[1]})" if counts[0] != counts[1] else ""
        kinds = _differences(saved[name], files[name]) if name in saved and name in files else {}
        told = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if len(names)]
        said.append(f"{name}{number}: {', '.join(told) or 'other labels or names'}")
    return "; ".join(said)


def check_unchanged(directory: Path, datamodule: "DataModule") -> None:
    """Raise a ConfigError if a run would go on with other data than it began with.

    Test images do not count where the run does not look at them.
    """
    found = changes(directory, datamodule, without=() if datamodule.monitor == "test" else ("test",))
    if found is not None:
        raise ConfigError(
            f"{directory}: the data are not those that the run began with: {found}; put them back, or start a new run "
            f"(init_from={directory} begins with its encoder)"
        )


def _differences(before: Files, now: Files) -> dict[str, np.ndarray]:
    """Names that came, that went, and those whose size or time is another, of a split that is no copy."""
    _, old, new = np.intersect1d(before.names, now.names, assume_unique=True, return_indices=True)
    other = (before.sizes[old] != now.sizes[new]) | (before.times[old] != now.times[new])
    if len(other) and (before.times[old] != now.times[new]).all():  # all times say nothing, unless nothing else does
        sizes = before.sizes[old] != now.sizes[new]
        other = sizes if sizes.any() or len(old) < max(len(before.names), len(now.names)) else other
    return {
        "added": np.setdiff1d(now.names, before.names, assume_unique=True),
        "removed": np.setdiff1d(before.names, now.names, assume_unique=True),
        "changed": now.names[np.sort(new[other])],
    }


def _some(names: np.ndarray) -> str:
    shown = [os.fsdecode(bytes(name)).encode("utf-8", "backslashreplace").decode() for name in names[:SHOWN]]
    return ", ".join(shown) + (", ..." if len(names) > SHOWN else "")


def _summary(files: Files) -> Record:
    """Of a split's files, for data.json."""
    chosen = np.unique(np.linspace(0, len(files.names) - 1, SAMPLE).round().astype(int)) if len(files.names) else []
    content = hashlib.sha256()
    for position in chosen:
        for block in _blocks(Path(files.folder, os.fsdecode(bytes(files.names[position])))):
            content.update(block)
    return {
        "files": len(files.names),
        "bytes": int(files.sizes.sum()),
        "names": _digest(b"\0".join(files.names.tolist()), files.sizes),
        "times": _digest(files.times),
        "sample": content.hexdigest()[:16],
        "sample_times": files.times[chosen].tolist() if len(chosen) else [],
    }


def _blocks(path: Path) -> Iterable[bytes]:
    """A small file, or blocks that are spread over a large one; nothing of one that cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, max(BLOCK, size // BLOCKS)):
            file.seek(start)
            yield file.read(BLOCK)


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        found.update(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes())
        found.update(b"\0")
    return found.hexdigest()[:16]


def _read_listing(path: Path) -> dict[str, Files]:
    """data.npz by split; nothing where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as found:
            splits = {name.partition("/")[0] for name in found.files}
            return {s: Files("", *(found[f"{s}/{key}"] for key in ("names", "sizes", "times"))) for s in splits}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return {}
