"""Classify an archive on a Ray cluster: each core runs `predict` on one file at a time."""

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
    """A Ray actor with the network on one core of any machine.

    Parameters
    ----------
    runs, runtime, survey, out, embedding, flags
        See `classify_archive`.
    schemas : str or None
        See `Source`.
    """

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
        """Classify a batch of files; return file, numbers of classified and rejected rows, and problem of each."""
        done = [self._classify(Path(file)) for file in batch["item"].tolist()]
        return {name: [one[name] for one in done] for name in ("file", "classified", "rejected", "problem")}

    def _classify(self, file: Path) -> dict[str, Any]:
        """Classify a file, or continue where a killed process stopped; finished files are skipped."""
        try:
            source = replace(inputs.find([file], self.classifier.spec, schemas=self.schemas), workers=0)
            found = predict(self.classifier, source, output_of(file, self.out))
        except InputError as error:  # one bad file must not stop the others
            return {"file": str(file), "classified": 0, "rejected": 0, "problem": str(error)}
        return {
            **{"file": str(file), "classified": found.classified, "rejected": found.rejected},
            "problem": "; ".join(found.cut),
        }


def output_of(file: Path, out: Path) -> Path:
    """Return the path of the table of one file of the archive."""
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
    """Classify every file of a source into its own table.

    Duplicates are found within each file only. Repeat the same command to resume after a kill.

    Parameters
    ----------
    runs : sequence of str
        Networks to average, see `classifier.load`.
    runtime : str or None
        See `classifier.load`.
    survey : str
        Survey whose packets are accepted, "" for any.
    source : Source
        The files, at a path that all machines can read.
    out : Path
        Folder of the tables, at a path that all machines can write.
    embedding : bool, default False
        See `classifier.load`.
    flags : sequence of str
        See `Classifier.flag`.

    Returns
    -------
    bool
        Whether all files were classified without problems.

    Raises
    ------
    InputError
        If two files would be written to the same table.
    """
    files = [file.absolute() for file in source.files]
    times = Counter(output_of(file, out) for file in files)
    if twice := [path for path, number in times.items() if number > 1]:
        raise InputError(
            f"--engine ray: two files of the input would be written to {twice[0]}. Give them one at a time."
        )
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
