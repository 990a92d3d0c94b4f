"""The experiments: from a notebook's parameters to the runs it needs, with the report's own settings.

One function an experiment; its argument names are the notebook's parameters. All raise `SpecError` for an empty list, a repeated or an
impossible value.
"""

import itertools
from collections.abc import Iterable
from typing import Any

from ncbook.spec import SIGNAL_MODELS, DataSpec, ModelSpec, OptimizerSpec, RunSpec, SpecError

REPORT_OPTIMIZERS = {
    "sgd": OptimizerSpec(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="cosine"),
    "adam": OptimizerSpec(name="adam", lr=1e-3, weight_decay=1e-4),
}
"""The report's optimiser settings, by the name that notebooks use."""

SGD_CONSTANT = OptimizerSpec(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4)
"""SGD without annealing, as in the report's experiment 3."""


def distinct_values(name: str, values: Any, known: Iterable | None = None) -> list:
    """`values` as a list. Raises `SpecError` where it is no list, is empty, repeats a value or has one that is not among `known`."""
    if not isinstance(values, (list, tuple)):
        raise SpecError(f"{name}={values!r} is not a list: write one, even of a single value (papermill itself takes lists by -y only).")
    if not values:
        raise SpecError(f"{name}=[] is empty: give at least one value.")
    if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
        raise SpecError(f"{name}={list(values)} has {repeated[0]!r} twice: give each value once.")
    if known is not None and (unknown := [value for value in values if value not in known]):
        raise SpecError(f"{name}={list(values)} has {unknown[0]!r}, an unknown one: choose from {', '.join(map(str, known))}.")
    return list(values)


def _seeds_and_data(seeds: list[int], label_noise: float, noise_seed: int) -> tuple[list[int], DataSpec]:
    return distinct_values("seeds", seeds), DataSpec(label_noise=label_noise, noise_seed=noise_seed)


def exp1_specs(
    widths: list[int], models: list[str], optimizers: list[str], epochs: int, seeds: list[int], label_noise: float, noise_seed: int
) -> list[RunSpec]:
    """Experiment 1, model-wise double descent: every model x optimiser x width x seed. The weights after the last epoch are kept."""
    axes = [
        distinct_values("models", models, SIGNAL_MODELS),
        distinct_values("optimizers", optimizers, REPORT_OPTIMIZERS),
        distinct_values("widths", widths),
    ]
    seeds, data = _seeds_and_data(seeds, label_noise, noise_seed)
    return [
        RunSpec(
            model=ModelSpec(name=model, width=width),
            optimizer=REPORT_OPTIMIZERS[optimizer],
            epochs=epochs,
            seed=seed,
            data=data,
            snapshots=(epochs,),
        )
        for model, optimizer, width, seed in itertools.product(*axes, seeds)
    ]


def exp2_specs(widths: list[int], epochs: int, seeds: list[int], label_noise: float, noise_seed: int) -> list[RunSpec]:
    """Experiment 2, epoch-wise: ResNet1D under Adam, densely recorded, every width x seed."""
    seeds, data = _seeds_and_data(seeds, label_noise, noise_seed)
    return [
        RunSpec(
            model=ModelSpec(name="resnet1d", width=width),
            optimizer=REPORT_OPTIMIZERS["adam"],
            epochs=epochs,
            seed=seed,
            data=data,
            record="dense",
        )
        for width, seed in itertools.product(distinct_values("widths", widths), seeds)
    ]


def exp3_specs(feature_dims: list[int], width: int, epochs: int, seeds: list[int], label_noise: float, noise_seed: int) -> list[RunSpec]:
    """Experiment 3, the feature dimension: ResNet1D with a projector under SGD at a constant rate. The last weights are kept."""
    seeds, data = _seeds_and_data(seeds, label_noise, noise_seed)
    return [
        RunSpec(
            model=ModelSpec(name="resnet1d", width=width, feature_dim=dim),
            optimizer=SGD_CONSTANT,
            epochs=epochs,
            seed=seed,
            data=data,
            snapshots=(epochs,),
        )
        for dim, seed in itertools.product(distinct_values("feature_dims", feature_dims), seeds)
    ]


DRIFT_EPOCHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 15000)
"""Epochs at which experiment 4 keeps the weights of the networks whose drift it follows."""


def exp4_specs(
    small_width: int,
    large_width: int,
    width: int,
    epochs: int,
    drift_epochs: int,
    drift_seeds: list[int],
    seeds: list[int],
    label_noise: float,
    noise_seed: int,
) -> list[RunSpec]:
    """Experiment 4, similarity of representations: ResNet1D under Adam at a constant rate.

    A small and a large network of each seed for `epochs`, and one of `width`, its weights kept at `DRIFT_EPOCHS` and at the end; those of
    `drift_seeds` go on to `drift_epochs`, passing through the same weights at `epochs`.
    """
    seeds, data = _seeds_and_data(seeds, label_noise, noise_seed)
    drift_seeds = distinct_values("drift_seeds", drift_seeds)
    if strangers := sorted(set(drift_seeds) - set(seeds)):
        raise SpecError(f"drift_seeds={drift_seeds} has {strangers[0]}, which is not among seeds={seeds}: add it there or leave it out.")
    if drift_epochs < epochs:
        raise SpecError(f"drift_epochs={drift_epochs} is less than epochs={epochs}: the drift goes on beyond the other comparisons.")
    if len({small_width, large_width, width}) < 3:
        raise SpecError(f"small_width={small_width}, large_width={large_width} and width={width} must be three different widths.")

    def run(width: int, seed: int, last: int, kept: tuple[int, ...]) -> RunSpec:
        model = ModelSpec(name="resnet1d", width=width)
        return RunSpec(model=model, optimizer=REPORT_OPTIMIZERS["adam"], epochs=last, seed=seed, data=data, snapshots=kept)

    pairs = [run(w, seed, epochs, (epochs,)) for w, seed in itertools.product((small_width, large_width), seeds)]
    lasts = {seed: drift_epochs if seed in drift_seeds else epochs for seed in seeds}
    followed = [run(width, seed, last, (*(e for e in DRIFT_EPOCHS if e <= last), epochs, last)) for seed, last in lasts.items()]
    return pairs + followed
