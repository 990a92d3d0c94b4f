"""The experiments of part two: from a notebook's parameters to the runs it needs, around one baseline.

The paper leaves most settings open; `BASELINE` is the choice made in the chapter on calibration and used in every other one. One function
a chapter; its argument names are the notebook's parameters. Shared by all: `data` (the images), `subset` (training images, 0: all),
`switch` (last epoch of cross-entropy), `epochs` (the most that are trained: a run ends `MARGIN` epochs after collapse) and `seeds`.
All raise `SpecError` for an empty list, a repeated or an impossible value.
"""

import dataclasses
import itertools

from ncbook.experiments import distinct_values
from ncbook.spec import (
    IMAGES,
    DataSpec,
    InterventionSpec,
    ModelSpec,
    OptimizerSpec,
    RunSpec,
    SpecError,
    StopSpec,
    SwitchSpec,
    require_choice,
)

THRESHOLD, SHALLOW_THRESHOLD = 0.01, 0.05
"""Of NC1 (trace ratio) at T_NC, and the paper's for shallow networks."""
MARGIN = 30
"""Epochs that a run goes on after T_NC, so that what follows can be seen."""

OPTIMIZERS = {
    "adam 0.001": OptimizerSpec(name="adam", lr=1e-3, weight_decay=1e-4),
    "adam 0.0003": OptimizerSpec(name="adam", lr=3e-4, weight_decay=1e-4),
    "sgd 0.01": OptimizerSpec(name="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4),
    "sgd 0.05": OptimizerSpec(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4),
    "sgd 0.1": OptimizerSpec(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4),
}
"""Optimiser and learning rate, by the name that notebooks use; momentum 0.9 with SGD, constant rates, the paper's weight decay."""

BASELINE = RunSpec(
    model=ModelSpec(name="mlp", depth=5, width=256),
    optimizer=OPTIMIZERS["adam 0.001"],
    epochs=600,
    seed=0,
    data=DataSpec(name="mnist", label_noise=0),
    record="phases",
    switch=SwitchSpec(epoch=200),
    stop=StopSpec(nc1=THRESHOLD, margin=MARGIN),
)
"""The settings that every chapter on perceptrons starts from."""

RESNET20 = OptimizerSpec(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-3)
"""The optimiser of ResNet-20: the paper names SGD and the weight decay."""


def _runs(variants: list[RunSpec], data: str, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
    """Each variant with each seed, on these images and for these epochs."""
    if isinstance(subset, bool) or not isinstance(subset, int) or subset < 0:
        raise SpecError(f"subset={subset!r} is no number of training images: give a whole number, 0 for all.")
    require_choice("data", data, IMAGES)
    images = DataSpec(name=data, label_noise=0, subset=subset or None)
    runs = [
        dataclasses.replace(run, data=images, epochs=epochs, seed=seed, switch=dataclasses.replace(run.switch, epoch=switch))
        for run, seed in itertools.product(variants, distinct_values("seeds", seeds))
    ]
    return list({run.key: run for run in runs}.values())


def _varied(part: str, field: str, values: list) -> list[RunSpec]:
    """The baseline with each of the values in `part.field`."""
    return [dataclasses.replace(BASELINE, **{part: dataclasses.replace(getattr(BASELINE, part), **{field: value})}) for value in values]


def _optimizers(names: list[str]) -> list[OptimizerSpec]:
    return [OPTIMIZERS[name] for name in distinct_values("optimizers", names, OPTIMIZERS)]


def fn_calibration_specs(
    optimizers: list[str],
    reductions: list[str],
    optimizer_states: list[str],
    widths: list[int],
    learning_rates: list[float],
    batch_sizes: list[int],
    data: str,
    subset: int,
    switch: int,
    epochs: int,
    seeds: list[int],
) -> list[RunSpec]:
    """The settings that the paper leaves open: optimisers, reductions and optimiser states in every combination, and departures from the
    baseline in width, learning rate or batch size, one at a time."""
    axes = {"reductions": reductions, "optimizer_states": optimizer_states}
    combined = itertools.product(_optimizers(optimizers), *(distinct_values(name, values) for name, values in axes.items()))
    variants = [
        dataclasses.replace(BASELINE, optimizer=optimizer, switch=SwitchSpec(epoch=1, reduction=reduction, optimizer_state=state))
        for optimizer, reduction, state in combined
    ]
    variants += [
        *_varied("model", "width", distinct_values("widths", widths)),
        *_varied("optimizer", "lr", distinct_values("learning_rates", learning_rates)),
        *(dataclasses.replace(BASELINE, batch_size=size) for size in distinct_values("batch_sizes", batch_sizes)),
    ]
    return _runs(variants, data, subset, switch, epochs, seeds)


def fn_baseline_specs(data: str, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
    """The baseline itself."""
    return _runs([BASELINE], data, subset, switch, epochs, seeds)


def fn_depth_specs(depths: list[int], data: str, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
    return _runs(_varied("model", "depth", distinct_values("depths", depths)), data, subset, switch, epochs, seeds)


def fn_activation_specs(activations: list[str], data: str, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
    return _runs(_varied("model", "activation", distinct_values("activations", activations)), data, subset, switch, epochs, seeds)


def fn_weight_decay_specs(weight_decays: list[float], data: str, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
    """All weight decays and seeds fit one stack."""
    return _runs(_varied("optimizer", "weight_decay", distinct_values("weight_decays", weight_decays)), data, subset, switch, epochs, seeds)


def fn_full_scale_specs(
    activations: list[str], weight_decays: list[float], data: str, subset: int, switch: int, epochs: int, seeds: list[int]
) -> list[RunSpec]:
    """The baseline with each activation, and with each weight decay."""
    variants = [
        *_varied("model", "activation", distinct_values("activations", activations)),
        *_varied("optimizer", "weight_decay", distinct_values("weight_decays", weight_decays)),
    ]
    return _runs(variants, data, subset, switch, epochs, seeds)


def fn_width_specs(widths: list[int], data: str, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
    return _runs(_varied("model", "width", distinct_values("widths", widths)), data, subset, switch, epochs, seeds)


def fn_conditions_specs(
    learning_rates: list[float],
    batch_sizes: list[int],
    optimizers: list[str],
    data: str,
    subset: int,
    switch: int,
    epochs: int,
    seeds: list[int],
) -> list[RunSpec]:
    """The baseline, and departures from it in learning rate, batch size or optimiser, one at a time. Its own values may be listed."""
    variants = [
        BASELINE,
        *_varied("optimizer", "lr", distinct_values("learning_rates", learning_rates)),
        *(dataclasses.replace(BASELINE, batch_size=size) for size in distinct_values("batch_sizes", batch_sizes)),
        *(dataclasses.replace(BASELINE, optimizer=optimizer) for optimizer in _optimizers(optimizers)),
    ]
    return _runs(variants, data, subset, switch, epochs, seeds)


def fn_intervention_specs(
    factors: list[float], delays: list[int], targets: list[str], data: str, subset: int, switch: int, epochs: int, seeds: list[int]
) -> list[RunSpec]:
    """The baseline left alone, and with its features scaled by each factor, `delays` epochs after the switch."""
    axes = {"delays": delays, "targets": targets, "factors": factors}
    combined = itertools.product(*(distinct_values(name, values) for name, values in axes.items()))
    scaled = [
        dataclasses.replace(
            BASELINE,
            epochs=epochs,
            switch=dataclasses.replace(BASELINE.switch, epoch=switch),
            intervention=InterventionSpec(epoch=switch + delay, factor=factor, target=target),
        )
        for delay, target, factor in combined
    ]
    return _runs([BASELINE, *scaled], data, subset, switch, epochs, seeds)


def _resnet20(width: int) -> RunSpec:
    return dataclasses.replace(BASELINE, model=ModelSpec(name="resnet20", width=width), optimizer=RESNET20)


def fn_cifar_resnet20_specs(width: int, data: str, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
    """ResNet-20 under SGD, its features those after the global average pool."""
    return _runs([_resnet20(width)], data, subset, switch, epochs, seeds)


def fn_grid_specs(datasets: list[str], resnet_width: int, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
    """The baseline's MLP and ResNet-20, each with its own optimiser, on each data set."""
    variants = [BASELINE, _resnet20(resnet_width)]
    return [run for data in distinct_values("datasets", datasets, IMAGES) for run in _runs(variants, data, subset, switch, epochs, seeds)]


def fn_equilibrium_specs(
    weight_decays: list[float], learning_rates: list[float], data: str, subset: int, switch: int, epochs: int, seeds: list[int]
) -> list[RunSpec]:
    """Runs that go on after collapse, to the last epoch: the baseline with each weight decay and learning rate."""
    variants = [
        *_varied("optimizer", "weight_decay", distinct_values("weight_decays", weight_decays)),
        *_varied("optimizer", "lr", distinct_values("learning_rates", learning_rates)),
    ]
    return _runs([dataclasses.replace(run, stop=None) for run in variants], data, subset, switch, epochs, seeds)
