"""Clean a raw file into a store and show what was in it.

`python -m alerce_early.prepare data=alerce data.path=FILE recipe=minmax`
"""

import logging
import time

from omegaconf import DictConfig

from alerce_early.experiments.command import command

log = logging.getLogger(__name__)


@command
def main(config: DictConfig) -> None:
    """Take the same options as train; only data, recipe, augment.margin and outputs matter."""
    from alerce_early.experiments.instantiate import make_data  # with torch, which a misspelt option need not wait for
    from alerce_early.report import data_summary, pictures

    started = time.perf_counter()
    store = make_data(config).store
    pictures.draw(store)
    seconds = time.perf_counter() - started
    drawn = ", ".join(sorted(file.name for file in store.path.glob("*.png")))
    log.info(
        "%s\nstore: %s (%.1f s)\npictures: %s", data_summary.format_summary(store.meta), store.path, seconds, drawn
    )


if __name__ == "__main__":
    main()
