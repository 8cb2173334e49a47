"""An archive on the cluster there is: Ray hands the files out, and each core does with one what `predict` does."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alerce_early.errors import InputError, require_extra
from alerce_early.serving import inputs
from alerce_early.serving.classifier import load
from alerce_early.serving.inputs import Source
from alerce_early.serving.predict import predict

with require_extra("--engine ray", "cluster"):
    import ray
    from ray.data import ActorPoolStrategy


class Worker:
    """One core with the network: a batch of files to what became of each. Made by Ray, on whichever machine."""

    def __init__(
        self,
        runs: Sequence[str],
        runtime: str | None,
        survey: str,
        out: str,
        schemas: str | None,
        embedding: bool,
        flags: Sequence[str],
    ):
        self.classifier = load(*runs, runtime=runtime, embedding=embedding)
        self.out, self.schemas = Path(out), schemas
        self.classifier.survey = survey
        for text in flags:
            self.classifier.flag(text)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        said = [self._classify(Path(file)) for file in batch["item"].tolist()]
        return {name: [one[name] for one in said] for name in ("file", "classified", "rejected", "problem")}

    def _classify(self, file: Path) -> dict[str, Any]:
        """Go on with a file where a process that was killed left it; one that is done is passed over."""
        try:
            source = replace(inputs.find([file], self.classifier.spec, schemas=self.schemas), workers=0)
            found = predict(self.classifier, source, output_of(file, self.out))
        except InputError as error:  # of one file, which does not stop the others
            return {"file": str(file), "classified": 0, "rejected": 0, "problem": str(error)}
        return {
            **{"file": str(file), "classified": found.classified, "rejected": found.rejected},
            "problem": "; ".join(found.cut),
        }


def output_of(file: Path, out: Path) -> Path:
    """Return the table of one file of the archive."""
    return out / f"{file.name.removesuffix('.parquet')}.parquet"


def classify_archive(
    runs: Sequence[str],
    runtime: str | None,
    survey: str,
    source: Source,
    out: Path,
    embedding: bool = False,
    flags: Sequence[str] = (),
) -> bool:
    """Classify every file of a source into a table of its own in `out`; True if none had a problem.

    runs, runtime, survey, embedding, flags: of `classifier.load` and the `Classifier`, to load the network anywhere;
    files and `out`, too, are where all of them see them. A row is a duplicate within its file alone. The same command
    goes on after a kill.
    Raises InputError where two files would have the same table.
    """
    files = [file.absolute() for file in source.files]
    times = Counter(output_of(file, out) for file in files)
    if twice := [path for path, number in times.items() if number > 1]:
        raise InputError(f"--engine ray: two files of the input would become {twice[0]}; give them one at a time.")
    where = [str(Path(run).absolute()) if Path(run).exists() else run for run in runs]
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    cores = max(1, min(int(ray.cluster_resources().get("CPU", 1)), len(files)))
    work = ray.data.from_items([str(file) for file in files], override_num_blocks=len(files)).map_batches(
        Worker,
        fn_constructor_args=[where, runtime, survey, str(out.absolute()), source.schemas, embedding, flags],
        batch_size=1,
        num_cpus=1,
        compute=ActorPoolStrategy(size=cores),
    )
    totals: Counter[str] = Counter()
    for row in work.iter_rows():
        totals.update(classified=row["classified"], rejected=row["rejected"], problems=bool(row["problem"]))
        if row["problem"]:
            print(f"error: {row['file']}: {row['problem']}", file=sys.stderr, flush=True)
    print(
        f"{len(files):,} files: {totals['classified']:,} classified, {totals['rejected']:,} rejected: {out}", flush=True
    )
    return not totals["problems"]
