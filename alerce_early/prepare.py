"""Convert a raw file to a cleaned data store and summarise its contents.

`python -m alerce_early.prepare data=alerce data.path=FILE recipe=minmax`
"""

import logging
import time

from omegaconf import DictConfig

from alerce_early.experiments.command import command

log = logging.getLogger(__name__)


@command
def main(config: DictConfig) -> None:
    """Prepare the store of a config; only its data, recipe, augment.margin and outputs matter."""
    from alerce_early.experiments.instantiate import make_data  # a slow import, after the options have been checked
    from alerce_early.report import data_summary, pictures

    started = time.perf_counter()
    store = make_data(config).store
    pictures.draw(store)
    seconds = time.perf_counter() - started
    names = ", ".join(sorted(file.name for file in store.path.glob("*.png")))
    log.info(
        "%s\nstore: %s (%.1f s)\npictures: %s", data_summary.format_summary(store.meta), store.path, seconds, names
    )


if __name__ == "__main__":
    main()
