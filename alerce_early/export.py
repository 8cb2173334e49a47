"""Export a network to one file that runs without this package.

python -m alerce_early.export RUN --out model.onnx

The file takes raw stamps and metadata and returns calibrated probabilities: it contains the recipe, the network and the
calibration. It is written only if it agrees with the checkpoint on random and on invalid stamps.
"""

import argparse
from pathlib import Path

from alerce_early import files
from alerce_early.artifacts.run_folder import checkpoint_of
from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.training import signals

ENDS = {"onnx": ".onnx", "torch": ".pt2", "checkpoint": ".ckpt"}  # extension of each format


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="python -m alerce_early.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"alerce-early {files.VERSION}")
    parser.add_argument("run", type=Path, help="a run folder, a checkpoint, or the name of a pretrained network")
    parser.add_argument(
        "--out", type=Path, help="default: model.onnx (or .pt2, .ckpt) in the run folder or next to the checkpoint"
    )
    parser.add_argument(
        "--format",
        default="onnx",
        choices=ENDS,
        help="onnx (default), torch (a torch.export program), or checkpoint (network only, float16 weights)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    given = parser.parse_args()
    end = ENDS[given.format]
    if given.out and given.out.suffix != end:  # `predict` recognises the format by its extension
        raise InputError(f"--out {given.out}: expected a name that ends in {end} for --format {given.format}.")
    checkpoint = checkpoint_of(given.run)
    out = given.out or (given.run / f"model{end}" if given.run.is_dir() else checkpoint.with_suffix(end))
    if out.exists() and not given.overwrite:
        raise InputError(f"{out}: already exists. Choose another --out, or replace it with --overwrite.")
    from alerce_early.serving.deployed import Deployed  # imports torch, which would delay --help
    from alerce_early.serving.export import content_of

    deployed = Deployed.load(checkpoint, embedding=True)
    content, different = content_of(deployed, given.format)
    files.write_bytes(out, content, "--out")
    print(
        f"{out}: {len(content) / 1e6:.1f} MB, model {deployed.model_id}, classes {', '.join(deployed.classes)}.\n"
        f"Largest difference from the checkpoint, on random and invalid stamps: {different:.1g}."
    )


if __name__ == "__main__":
    main()
