"""From specs to a table: what the store has is taken from there, the rest is trained and stored.

The only place where specs, store and training meet. Training, and torch with it, is imported only if something is missing.
"""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ncbook.spec import RunSpec
from ncbook.store import Run, Store

if TYPE_CHECKING:
    import pandas as pd


DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bf16", "tf32", "float64")
"""Those of `train.DTYPES`, which cannot be read without torch."""


class SweepError(RuntimeError):
    """A sweep that cannot begin, or runs that failed; the message says why and what to do."""


class SweepStopped(SweepError):
    """A sweep that was interrupted or ran out of its time; the message says how far it came."""


class SweepArgumentError(SweepError, ValueError):
    """What a sweep was asked for cannot be; nothing was trained."""


def cores() -> int:
    """How many processes this one may run side by side at full speed."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def distinct(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The specs without repetitions, in their order."""
    specs = list(specs)
    for spec in specs:
        if not isinstance(spec, RunSpec):
            raise SweepArgumentError(f"{spec!r} is not a RunSpec: a sweep takes a list of RunSpec.")
    return list({spec.key: spec for spec in specs}.values())


def train_missing(
    specs: Iterable[RunSpec],
    *,
    device: str = "auto",
    dtype: str = "float32",
    jobs: int | None = None,
    max_minutes: float | None = None,
    store: Store | None = None,
) -> None:
    """Trains and stores the runs that the store lacks, after printing what that costs.

    `jobs`: processes, by default one per core on the CPU and one on the GPU. `dtype`: float32, bf16 (mixed precision), tf32 (GPU), float64.
    Raises `SweepStopped` on Ctrl-C or after `max_minutes`, `SweepArgumentError` for bad arguments, `SweepError` for failed runs and
    `StoreError` for damaged ones.
    """
    specs, store = distinct(specs), store or Store()
    require_arguments(device, dtype, jobs, max_minutes)
    store.require_sound(spec.key for spec in specs)
    if all(spec.key in store for spec in specs):
        print(f"{len(specs)} {'run' if len(specs) == 1 else 'runs'}: all found.", flush=True)
        return

    from ncbook import executor

    executor.train(executor.plan(specs, store, device=device, dtype=dtype, jobs=jobs), store, max_minutes)


def require_arguments(device: str, dtype: str, jobs: int | None = None, max_minutes: float | None = None) -> None:
    """Raises `SweepArgumentError` for what no machine can do."""
    if device not in DEVICES:
        raise SweepArgumentError(f"device={device!r} is unknown: choose one of {', '.join(DEVICES)}.")
    if dtype not in DTYPES:
        raise SweepArgumentError(f"dtype={dtype!r} is unknown: choose one of {', '.join(DTYPES)}.")
    if dtype == "tf32" and device == "cpu":
        raise SweepArgumentError("dtype='tf32' exists on NVIDIA GPUs only; on the CPU use float32 or bf16.")
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise SweepArgumentError(
            f"jobs={jobs!r} is not a number of processes: give a whole number from 1, or leave it out for one per core."
        )
    number = isinstance(max_minutes, (int, float)) and not isinstance(max_minutes, bool)
    if max_minutes is not None and not (number and max_minutes > 0):
        raise SweepArgumentError(f"max_minutes={max_minutes!r} is not a duration: give a number above 0, or leave it out for no limit.")


def load_runs(specs: Iterable[RunSpec], store: Store | None = None) -> list[Run]:
    """The runs of the specs, in their order, without repetitions. Raises `StoreError` where one is missing or damaged."""
    store = store or Store()
    return [store.load(spec.key) for spec in distinct(specs)]


def sweep(
    specs: Iterable[RunSpec],
    *,
    train: bool = True,
    device: str = "auto",
    dtype: str = "float32",
    jobs: int | None = None,
    max_minutes: float | None = None,
    store: Store | None = None,
) -> "pd.DataFrame":
    """The runs of the specs as a tidy table, one row for each run and recorded epoch.

    Columns: `LABELS`, epoch, and the metrics. What the store lacks is trained first, as `train_missing` does and with its
    arguments and errors; `train=False` leaves it out.
    """
    specs, store = distinct(specs), store or Store()
    if train:
        train_missing(specs, device=device, dtype=dtype, jobs=jobs, max_minutes=max_minutes, store=store)
    return table(load_runs([spec for spec in specs if spec.key in store], store))


def table(runs: Sequence[Run]) -> "pd.DataFrame":
    """The tidy table of `sweep`."""
    import pandas as pd

    labels = [_labels(run) for run in runs]
    columns = {name: pd.Series([row[name] for row in labels], dtype=kind) for name, kind in LABELS.items()}
    rows = pd.DataFrame(columns).loc[[i for i, run in enumerate(runs) for _ in run.epochs]].reset_index(drop=True)
    measured = [pd.DataFrame({"epoch": run.epochs, **run.metrics}) for run in runs]
    return rows.join(pd.concat(measured, ignore_index=True)) if measured else rows.assign(epoch=pd.Series(dtype="int64"))


LABELS = {
    "key": "object",
    "data": "object",
    "subset": "Int64",
    "label_noise": "float64",
    "noise_seed": "int64",
    "model": "object",
    "width": "int64",
    "depth": "Int64",
    "activation": "object",
    "feature_dim": "Int64",
    "parameters": "int64",
    "optimizer": "object",
    "lr": "float64",
    "momentum": "float64",
    "weight_decay": "float64",
    "batch_size": "int64",
    "seed": "int64",
    "epochs": "int64",
    "switch": "Int64",
    "reduction": "object",
    "optimizer_state": "object",
    "factor": "float64",
    "factor_epoch": "Int64",
    "target": "object",
}
"""The columns of the tidy table that say what a run is, and their types; missing where a run has no such thing.

`switch`: last epoch of cross-entropy, with its `reduction` and `optimizer_state`; `factor`, `factor_epoch` and `target`: the intervention.
"""


def _labels(run: Run) -> dict[str, Any]:
    spec = run.spec
    switch, intervention = spec.switch, spec.intervention
    return {
        **vars(spec.model),
        **vars(spec.optimizer),
        "key": spec.key,
        "data": spec.data.name,
        "subset": spec.data.subset,
        "label_noise": spec.data.label_noise,
        "noise_seed": spec.data.noise_seed,
        "model": spec.model.name,
        "parameters": run.provenance["parameters"],
        "optimizer": spec.optimizer.name,
        "batch_size": spec.batch_size,
        "seed": spec.seed,
        "epochs": spec.epochs,
        "switch": switch and switch.epoch,
        "reduction": switch and switch.reduction,
        "optimizer_state": switch and switch.optimizer_state,
        "factor": intervention and intervention.factor,
        "factor_epoch": intervention and intervention.epoch,
        "target": intervention and intervention.target,
    }
