"""A trained network as one file for where this package is not: `python -m alerce_early.export RUN --out model.onnx`.

Raw stamps and raw metadata in, calibrated probabilities out: recipe, clips, network and calibration are inside.
The file is written only if it gives what the checkpoint gives, on random and on broken stamps.
"""

import argparse
from pathlib import Path

from alerce_early import files
from alerce_early.artifacts.run_folder import checkpoint_of
from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.training import signals

ENDS = {"onnx": ".onnx", "torch": ".pt2", "checkpoint": ".ckpt"}  # of the file of each format


@exit_on_input_error
@signals.listen()
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alerce_early.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"alerce-early {files.VERSION}")
    parser.add_argument("run", type=Path, help="a run folder, a checkpoint, or the name of a pretrained network")
    parser.add_argument(
        "--out", type=Path, help="default: model.onnx or .pt2 in the run folder, or beside the checkpoint"
    )
    parser.add_argument("--format", default="onnx", choices=ENDS, help="default: onnx; checkpoint: for pretrained/")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    asked = parser.parse_args()
    end = ENDS[asked.format]
    if asked.out and asked.out.suffix != end:  # by which it is known again
        raise InputError(f"--out {asked.out}: wanted a name that ends in {end} for --format {asked.format}.")
    checkpoint = checkpoint_of(asked.run)
    out = asked.out or (asked.run / f"model{end}" if asked.run.is_dir() else checkpoint.with_suffix(end))
    if out.exists() and not asked.overwrite:
        raise InputError(f"{out} exists already. Choose another --out, or replace it with --overwrite.")
    from alerce_early.serving.deployed import Deployed  # with torch, which --help need not wait for
    from alerce_early.serving.export import content_of

    deployed = Deployed.load(checkpoint, embedding=True)
    content, different = content_of(deployed, asked.format)
    files.write_bytes(out, content, "--out")
    print(
        f"{out}: {len(content) / 1e6:.1f} MB, model {deployed.model_id}, classes {', '.join(deployed.classes)}.\n"
        f"Largest difference from the checkpoint, on random and broken stamps: {different:.1g}."
    )


if __name__ == "__main__":
    main()
