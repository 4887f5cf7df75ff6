"""What is done with wandb's library for one part of a run, in a process that may wait for a server: see wandb_process."""

import json
import shlex
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kindred.files import write_atomically

STEP = "trainer/global_step"
STAGING = Path("artifacts", "staging")  # where wandb keeps a copy of each picture of a table until it is uploaded
INCOMPLETE = "incomplete"  # a file in the folder of an online part that the server did not take in full


class Session:
    """One part of a W&B run, from a start or a resume to its end; a resumed training has several.

    Args:
        directory: the run directory; its `wandb.json` names the W&B run: id, project, entity.
        settings: of it, as `wandb.init` takes them.
        seconds: for the server to answer at the start, and again for the upload at the end.
        upload: seconds more for large files.
        process: of the training, whose use of the machine W&B shows.
        say: prints a line for the user.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any],
        seconds: float,
        upload: float,
        process: int,
        say: Callable[[str], None],
    ) -> None:
        self.directory, self.seconds, self.upload, self.say = directory, seconds, upload, say
        parts = sorted((directory / "wandb").glob("*run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
        self.waiting = [path.parent for path in parts if not _uploaded(path)]
        saved = json.loads((directory / "wandb.json").read_text())
        self.run = self._connect(settings | {key: saved[key] for key in ("id", "project", "entity")}, process)
        # A W&B sweep decides all but the mode, and a server the entity.
        now = {"id": self.run.id, "project": self.run.project, "entity": self.run.entity or None}
        mode = "disabled" if self.run.disabled else "offline" if self.run.offline else "online"
        write_run_name(directory, now | {"mode": mode})
        self.run.define_metric("*", step_metric=STEP)
        self.run.define_metric("epoch")

    def _connect(self, settings: dict[str, Any], process: int) -> Any:
        """The run, online if the server answers, else offline; tells which."""
        import wandb

        limits = wandb.Settings(
            console="off",
            init_timeout=self.seconds,
            finish_timeout=self.seconds + self.upload,
            finish_timeout_raises=True,
            x_stats_pid=process,
            program=sys.argv[0],
        )
        settings = settings | {"dir": self.directory, "resume": "allow", "settings": limits}
        reason = "asked for by WANDB_MODE or wandb's settings"
        if self.waiting:  # what is uploaded later than this part would end up behind it
            reason = "an earlier part of the run is not uploaded yet"
            run = wandb.init(mode="offline", **settings)
        else:
            try:
                run = wandb.init(**settings)
            except Exception as error:
                traceback.print_exc()
                reason = " ".join(str(error).split())[:200]
                self._end_service()  # which would not take the same run a second time
                run = wandb.init(mode="offline", **settings)
        if run.offline:
            self.say(f"logging offline ({reason}); to upload later: {self._upload_command(run)}")
        elif not run.disabled:
            self.say(str(run.url))
        return run

    def _end_service(self) -> None:
        """End wandb's own process; it may wait for the server, so this does not wait for it."""
        import wandb

        ending = threading.Thread(target=wandb.teardown, daemon=True)
        ending.start()
        ending.join(min(1.0, self.seconds))

    def _upload_command(self, run: Any) -> str:
        """What uploads this part after those that wait: each is appended to what the server has of the run."""
        parts = [*self.waiting, Path(run.dir).parent]
        offline = all(part.name.startswith("offline-") for part in parts)
        what = [str(self.directory / "wandb")] if offline else ["--include-online", *map(str, parts)]
        return shlex.join(["wandb", "sync", *what])

    def log(self, row: dict[str, Any]) -> None:
        """One row of the history."""
        self.run.log(row)

    def log_images(self, images: dict[str, str]) -> None:
        """Image files under the names that they are to have."""
        import wandb

        if images:
            self.log({name: wandb.Image(path) for name, path in images.items()})

    def log_neighbours(
        self,
        queries: np.ndarray,
        query_names: Sequence[str],
        neighbours: np.ndarray,
        neighbour_names: Sequence[Sequence[str]],
        similarities: np.ndarray,
    ) -> None:
        """A table with a row for each query and neighbour; arguments as of `kindred.tracking.figures.draw_neighbours`."""
        import wandb

        columns: list[str | int] = ["query", "query class", "rank", "neighbour", "neighbour class", "similarity"]
        table = wandb.Table(columns=columns)
        for query, name, *found in zip(queries, query_names, neighbours, neighbour_names, similarities, strict=True):
            picture = _picture(query)
            for rank, (neighbour, its_name, similarity) in enumerate(zip(*found, strict=True), start=1):
                table.add_data(picture, str(name), rank, _picture(neighbour), str(its_name), float(similarity))
        # Online, W&B asks the server before it takes a table.
        logging = threading.Thread(target=self.log, args=({"neighbours": table},), daemon=True)
        logging.start()
        logging.join(self.seconds / 2)

    def log_artifact(self, files: dict[str, str], metadata: dict[str, Any]) -> None:
        """Files, under the names that they are to have, as the next version of the run's artifact."""
        import wandb

        artifact = wandb.Artifact(f"run-{self.run.id}", type="model", metadata=metadata)
        for name, path in files.items():
            artifact.add_file(path, name, skip_cache=True)  # which would be one more copy, in the user's home
        taken = threading.Event()

        def log() -> None:
            self.run.log_artifact(artifact)
            taken.set()

        # Online, W&B asks the server before it takes one.
        threading.Thread(target=log, daemon=True).start()
        if not taken.wait(self.seconds + self.upload / 2):
            self.say(f"the server did not take checkpoints and figures; they are in {self.directory}")

    def update_summary(self, values: dict[str, float]) -> None:
        """Plain scalars of the run's summary."""
        self.run.summary.update(values)

    def finish(self, exit_code: int) -> None:
        """End the part; what the server did not take in time stays on disk."""
        command, mark = self._upload_command(self.run), Path(self.run.dir).parent / INCOMPLETE
        if not self.run.offline and mark.parent.is_dir():
            mark.touch()  # before: this process may be ended on the way
        try:
            self.run.finish(exit_code)
            if not self.run.offline:  # a part that is offline is uploaded from there later
                shutil.rmtree(self.directory / "wandb" / STAGING, ignore_errors=True)
            mark.unlink(missing_ok=True)
        except Exception:
            traceback.print_exc()
            self.say(f"not everything is uploaded; to upload it later: {command}")
        self._end_service()


def write_run_name(directory: Path, name: dict[str, Any]) -> None:
    """wandb.json: id, project and entity of the W&B run, and the mode in which it was logged to last."""
    write_atomically(directory / "wandb.json", json.dumps(name, indent=2) + "\n")


def _uploaded(path: Path) -> bool:
    """Whether W&B has all of a part: since it was logged, or since `wandb sync`, which leaves a mark."""
    logged = not path.parent.name.startswith("offline-") and not (path.parent / INCOMPLETE).exists()
    return logged or path.with_suffix(".wandb.synced").exists()


def _picture(image: np.ndarray) -> Any:
    """uint8 [C, H, W] for W&B."""
    import wandb
    from PIL import Image

    pixels = image.transpose(1, 2, 0)
    return wandb.Image(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
