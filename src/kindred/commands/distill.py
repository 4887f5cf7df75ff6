"""Distil a fine-tuned run into a student, with unlabelled images: it learns what the teacher says of all of them.

    kindred distill --run logs/latest                              into itself: a student of the same kind, from scratch
    kindred distill --run logs/latest encoder.widths=[16,32,64,128]    into a smaller one (or encoder=<name>)
    kindred distill --run logs/latest --init <run>                 into the encoder of a run, which starts with its weights
    kindred distill --run logs/latest model.alpha=0.5              by the true labels too, where the teacher had them

It is a training like any other, which `kindred train` with more words would do too, and goes on with it: kindred train
resume=<run>; the teacher's run is not needed any more then. What words follow are Hydra overrides
(model.temperature=0.1 trainer.max_epochs=60). kindred evaluate of the new run gives its classifier's accuracy on test, and
kindred export the student's encoder. More: docs/labels.md.
"""

from collections.abc import Sequence

from kindred.commands.command_line import Parser, overrides
from kindred.commands.train import start


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("kindred distill", __doc__)
    parser.add_argument("--run", default="logs/latest", help="the teacher: a fine-tuned run (default: %(default)s)")
    parser.add_argument("--init", help="a run that the student's encoder starts from")
    parser.add_argument(
        "--layer", type=int, default=0, help="layers of its projector that are kept (default: %(default)s)"
    )
    parser.add_argument("--trust", action="append", default=[], help="a class of your own that a run's config names")
    parser.add_completed("overrides", by=overrides, nargs="*", help="Hydra overrides")
    options = parser.read(arguments)

    def words() -> list[str]:
        from kindred.runs.by_labels import distill_overrides
        from kindred.runs.run import load_run

        teacher = load_run(options.run, options.trust)
        init = None if options.init is None else load_run(options.init, options.trust)
        return distill_overrides(teacher, init, options.layer, options.overrides)

    return start(words)
