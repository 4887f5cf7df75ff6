"""Write the encoder of a run to a file that others can use, with its normalisation inside and a model card beside it.

    kindred export --run logs/latest                       encoder.safetensors, for Kindred or plain torch
    kindred export --run logs/latest --format onnx         encoder.onnx, for ONNX runtimes
    kindred export --run logs/latest --format torch-export encoder.pt2, for torch without this code
    kindred export --run logs/latest --format huggingface  a folder for timm and transformers: huggingface/config.json and
                                                           model.safetensors; of timm's models, and of ResNets that it has

All take images float32 [B, C, S, S] with S = data.image_size and any B, and give features [B, F]. Values are in [0, 1], for
huggingface normalised. Resizing stays outside: it depends on the images' sizes, and runtimes do not agree on how
antialiasing rounds; README.md says what it was.
"""

from collections.abc import Sequence
from pathlib import Path

from kindred.commands.command_line import Parser
from kindred.commands.errors import attempt
from kindred.runs.exporting.model_card import FILES
from kindred.runs.run import load_run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status. Errors that Kindred raised on purpose take one line."""
    parser = Parser("kindred export", __doc__)
    parser.add_argument("--run", default="logs/latest", help="run directory (default: %(default)s)")
    parser.add_argument("--format", choices=list(FILES), default="safetensors", help="default: %(default)s")
    where = "where the file and its card go (default: <run>/export, of huggingface <run>/export/huggingface)"
    parser.add_argument("--output", type=Path, help=where)
    parser.add_argument("--license", default="unknown", help="of the weights, for the card (default: %(default)s)")
    parser.add_argument("--trust", action="append", default=[], help="a class of your own that the run's config names")
    options = parser.read(arguments)

    def work() -> None:
        from kindred.runs.exporting.export import export

        path = export(load_run(options.run, options.trust), options.format, options.output, options.license)
        size, card = path.stat().st_size / 1e6, path.parent / "README.md"
        print(f"{path}: {size:.1f} MB, same features as the run; model card: {card}")

    return attempt(work)
