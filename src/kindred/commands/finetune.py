"""Fine-tune a finished run by labels: its encoder and the first layers of its projector, with a classifier on them.

    kindred finetune --run logs/latest                      by all labels
    kindred finetune --run logs/latest --labels 0.01        by 1% of those of each class
    kindred finetune --run logs/latest --layer 0            the classifier is on the encoder's features
    kindred finetune --run logs/latest --labels 0.1 --scratch   the same network from random weights: the base line

It is a training like any other, which `kindred train` with more words would do too, and goes on with it: kindred train
resume=<run>. What words follow are Hydra overrides (model.optimizer.lr=0.1 seed=1 trainer.max_epochs=20). The labelled
images are those that kindred evaluate --labels takes with that seed, which is the other base line: the frozen encoder.
kindred evaluate of the new run gives its classifier's accuracy on test. More: docs/labels.md.
"""

from collections.abc import Sequence

from kindred.commands.command_line import Parser, overrides
from kindred.commands.train import start


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("kindred finetune", __doc__)
    parser.add_argument("--run", default="logs/latest", help="run directory (default: %(default)s)")
    parser.add_argument("--labels", type=float, default=1.0, help="share of the train labels (default: all)")
    parser.add_argument(
        "--layer", type=int, default=1, help="layers of the projector that are kept (default: %(default)s)"
    )
    parser.add_argument("--scratch", action="store_true", help="from random weights")
    parser.add_argument("--trust", action="append", default=[], help="a class of your own that the run's config names")
    parser.add_completed("overrides", by=overrides, nargs="*", help="Hydra overrides")
    options = parser.read(arguments)

    def words() -> list[str]:
        from kindred.runs.by_labels import finetune_overrides
        from kindred.runs.run import load_run

        run = load_run(options.run, options.trust)
        return finetune_overrides(run, options.labels, options.layer, options.scratch, options.overrides)

    return start(words)
