"""Which folder is which split, and which of them hold labels."""

import os
from collections.abc import Mapping

from kindred.data.folders.labels import Labels
from kindred.data.folders.listing import IMAGES, Kind, Listing, list_files
from kindred.errors import ConfigError

OTHERS = ("bank", "val", "test")  # beside train


def split_folders(root: str, kind: Kind) -> dict[str, str]:
    """Split -> its folder. Without any of them the root itself is the train split.

    Raises:
        ConfigError: no such root, or other splits without train.
    """
    if not os.path.isdir(root):
        raise ConfigError(f"data.source.root: there is no folder {os.path.abspath(root)}; {kind.layout}")
    folders = {name: os.path.join(root, name) for name in ("train", *OTHERS)}
    there = {name: folder for name, folder in folders.items() if os.path.isdir(folder)}
    if there and "train" not in there:
        raise ConfigError(f"data.source.root: there is no folder {os.path.abspath(folders['train'])}; {kind.layout}")
    return there or {"train": root}


def list_splits(root: str, labels: str, kind: Kind, skip: bool) -> dict[str, Listing]:
    """Split -> its files. A bank is there whenever train has no labels and another split, which judges, has.

    Args:
        labels: "auto": by class folders, where there are any. "none": train has no labels, its folders are no classes.
            Else a CSV file's path (`Labels`).
        kind, skip: see `list_files`.

    Raises:
        ConfigError: naming the key and the path.
    """
    folders, listings = split_folders(root, kind), {}
    otherwise = f"; or set data.source.labels=none, for folders that are no classes and {kind.several} without labels"
    for split, folder in folders.items():
        layout = "either"
        if (labels == "none" and split == "train") or labels not in ("auto", "none"):
            layout = "flat"
        elif split == "bank" or (split != "train" and listings["train"].class_names):
            layout = "classes"
        hint = otherwise if split == "train" else ""
        listings[split] = list_files(folder, kind, layout, skip, hint)
    if labels not in ("auto", "none"):
        table = Labels(root, labels)
        table.check(listings, kind.several)
        listings = {split: table.of(listing) for split, listing in listings.items()}
    else:
        _check_classes(root, kind, listings)
    if (
        "bank" not in listings
        and not listings["train"].class_names
        and listings.get("val", listings["train"]).class_names
    ):
        listings["bank"] = listings.pop("val")  # of which the DataModule cuts val examples
    return listings


def _check_classes(root: str, kind: Kind, listings: Mapping[str, Listing]) -> None:
    """All splits with labels must have the same classes."""
    labelled = [split for split in listings if listings[split].class_names]
    for split in labelled[1:]:
        expected, found = (set(listings[one].class_names) for one in (labelled[0], split))
        if found != expected:
            raise ConfigError(
                f"data.source.root: {os.path.abspath(listings[split].folder)} and its {labelled[0]}/ have different class "
                f"folders: missing {sorted(expected - found)}, not in {labelled[0]} {sorted(found - expected)}; "
                f"{kind.layout}"
            )


def may_be_judged(root: str, labels: str) -> bool:
    """Whether there can be labels of two classes or more, from a look at the folders and without listing a file."""
    try:
        folders = split_folders(root, IMAGES)
    except ConfigError:  # for a training to say
        return True
    if labels not in ("auto", "none") or "bank" in folders:
        return True
    judging = [folder for split, folder in folders.items() if split == "val" or (split == "train" and labels == "auto")]
    return any(_folders(folder) > 1 for folder in judging)


def _folders(place: str) -> int:
    with os.scandir(place) as entries:
        return sum(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
