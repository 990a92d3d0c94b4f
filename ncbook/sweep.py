"""From specs to a table: what the store has is taken from there, the rest is trained and stored.

The only place where specs, store and training meet. Training, and torch with it, is imported only if something is missing.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ncbook.spec import RunSpec
from ncbook.store import Run, Store

if TYPE_CHECKING:
    import pandas as pd


class SweepError(RuntimeError):
    """A sweep that cannot begin, or runs that failed; the message says why and what to do."""


class SweepStopped(SweepError):
    """A sweep that was interrupted or ran out of its time; the message says how far it came."""


def distinct(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The specs without repetitions, in their order."""
    specs = list(specs)
    for spec in specs:
        if not isinstance(spec, RunSpec):
            raise SweepError(f"{spec!r} is not a RunSpec: a sweep takes a list of RunSpec.")
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
    Raises `SweepStopped` on Ctrl-C or after `max_minutes`, `SweepError` for bad arguments and failed runs, `StoreError` for damaged ones.
    """
    specs, store = distinct(specs), store or Store()
    if all(spec.key in store for spec in specs):
        print(f"{len(specs)} {'run' if len(specs) == 1 else 'runs'}: all found.", flush=True)
        return

    from ncbook import executor

    executor.train(executor.plan(specs, store, device=device, dtype=dtype, jobs=jobs), store, max_minutes)


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

    Columns: key, model, width, feature_dim, parameters, optimizer, lr, weight_decay, seed, label_noise, noise_seed, epochs, epoch, and the
    metrics. What the store lacks is trained first, as `train_missing` does and with its arguments and errors; `train=False` leaves it out.
    """
    specs, store = distinct(specs), store or Store()
    if train:
        train_missing(specs, device=device, dtype=dtype, jobs=jobs, max_minutes=max_minutes, store=store)
    return table(load_runs([spec for spec in specs if spec.key in store], store))


def table(runs: Sequence[Run]) -> "pd.DataFrame":
    """The tidy table of `sweep`."""
    import pandas as pd

    columns = "key model width feature_dim parameters optimizer lr weight_decay seed label_noise noise_seed epochs epoch".split()
    frames = [pd.DataFrame({**_labels(run), "epoch": run.epochs, **run.metrics}) for run in runs]
    whole = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return whole.astype({"feature_dim": "Int64"})


def _labels(run: Run) -> dict[str, Any]:
    spec = run.spec
    return {
        "key": spec.key,
        "model": spec.model.name,
        "width": spec.model.width,
        "feature_dim": spec.model.feature_dim,
        "parameters": run.provenance["parameters"],
        "optimizer": spec.optimizer.name,
        "lr": spec.optimizer.lr,
        "weight_decay": spec.optimizer.weight_decay,
        "seed": spec.seed,
        "label_noise": spec.data.label_noise,
        "noise_seed": spec.data.noise_seed,
        "epochs": spec.epochs,
    }


def provenance_table(runs: Sequence[Run]) -> "pd.DataFrame":
    """One row for each run: its key and how it was made."""
    import pandas as pd

    return pd.DataFrame([{"key": run.spec.key, **run.provenance} for run in runs])
