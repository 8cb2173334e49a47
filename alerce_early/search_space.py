"""What a search is about: options as for a sweep of train -m, as Optuna's distributions."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from alerce_early.config import compose_config, to_plain, translate_errors


def parse_options(options: Sequence[str]) -> tuple[dict[str, str | None], dict[str, BaseDistribution]]:
    """Return what is fixed and what is to be searched, by key, of the command line and its yamls' sweeps."""
    given = _overrides(options)
    config = compose_config(*[o.input_line or "" for o in given if not o.is_sweep_override()], hydra=True)
    params = to_plain(config.hydra.sweeper.get("params")) or {}
    named = {o.get_key_element(): o for o in [*_overrides([f"{k}={v}" for k, v in params.items()]), *given]}
    fixed = {
        key: None if o.is_delete() and o.value() is None else o.get_value_element_as_str()
        for key, o in named.items()
        if not o.is_sweep_override()
    }
    return fixed, {key: _distribution(o) for key, o in named.items() if o.is_sweep_override()}


def one_of(values: BaseDistribution) -> Any:
    """Any value of a distribution."""
    return values.choices[0] if isinstance(values, CategoricalDistribution) else values.low  # type: ignore[attr-defined]


def _overrides(options: Sequence[str]) -> list[Override]:
    with translate_errors():
        return OverridesParser.create().parse_overrides(list(options))


def _distribution(override: Override) -> BaseDistribution:
    """Hydra's sweep as Optuna's distribution: intervals and ranges are ordered, all else are names."""
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        kind: Any = IntDistribution if isinstance(sweep.start, int) else FloatDistribution
        return kind(sweep.start, sweep.end, log="log" in sweep.tags)
    if isinstance(sweep, RangeSweep):
        values: list[Any] = list(override.sweep_iterator())
        kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
        return kind(min(values), max(values), step=abs(sweep.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))
