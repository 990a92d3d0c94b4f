"""When collapse sets in: from the tidy table of `sweep` to one row a run, and to summaries that count the runs in which it did not.

T_NC is the first moment at which NC1 falls below a threshold, fn* the feature norm at that moment (Rupa, arXiv 2604.00230). In a run that
changes its loss only the epochs after the switch count: cross-entropy can bring NC1 below the threshold on its own, but at the switch
features and accuracy crash and start anew, so that such a crossing belongs to another process than the one the paper describes.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ncbook.analysis import estimate

METRIC = "nc1_trace_ratio_clean"
FITTED = 0.05
"""The training error up to which a network counts as one that fits its data."""

COLLAPSE, NO_COLLAPSE, NO_FIT, DIVERGED = REGIMES = ("collapse", "no collapse", "no fit", "diverged")
MIXED = "mixed"

_MEASURED = re.compile(r"nc\d|accuracy_|feature_norm$|squared_norm_|imbalance$|(train|test)_(loss|error)")
_TINY = np.finfo(float).tiny


class Trajectory(NamedTuple):
    """The recorded epochs of a run that count: those after its switch with a finite metric and norm. Arrays [records], in order."""

    start: int
    """The switch; 0 in a run without one."""
    epochs: np.ndarray
    metric: np.ndarray
    norm: np.ndarray
    error: np.ndarray
    """Training error on the labels trained on."""
    last: tuple[int, float]
    """The run's last epoch with a finite norm, whether or not it counts, and its training error; (0, NaN) if there is none."""
    diverged: bool
    """The norm of the run's last record is not finite."""
    one_point: bool
    """It is, but the metric is not: all features have become one point. A run with a `stop` ends there."""

    def change_since(self, epoch: float) -> float:
        """Relative change of the norm from `epoch`, if negative so many before the last record, to that record.

        Interpolated in the log of the norm; NaN where no record that counts lies at or before the epoch, or none after.
        """
        if not len(self.epochs):
            return math.nan
        moment = epoch if epoch >= 0 else self.epochs[-1] + epoch
        logs = np.log(np.maximum(self.norm, _TINY))
        return float(np.expm1(logs[-1] - np.interp(moment, self.epochs, logs, left=math.nan, right=math.nan)))


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raises `ValueError` where `table` lacks one of `columns`."""
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"The table has no column {', '.join(missing)}: its columns are {', '.join(map(str, table.columns))}.")


def groups(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """The number of each row's group, rows with equal (or equally missing) values in `columns` being one group; all one without columns."""
    require(table, columns)
    return table.groupby(list(columns), dropna=False).ngroup() if columns else pd.Series(0, index=table.index)


def trajectories(table: pd.DataFrame, metric: str = METRIC) -> Iterator[tuple[dict[str, Any], Trajectory]]:
    """Each run of a tidy table: its labels (every column but epoch and the metrics) and its `Trajectory`, in the table's order.

    A run that stands in the table twice, as in a concatenation of two chapters, counts once. Raises `ValueError` where the table lacks
    key, epoch, train_error, feature_norm or `metric`.
    """
    require(table, ["key", "epoch", "train_error", "feature_norm", metric])
    labels = [column for column in table if column != "epoch" and not _MEASURED.match(column)]
    for _, run in table.drop_duplicates(["key", "epoch"]).sort_values("epoch", kind="stable").groupby("key", sort=False):
        switch = run["switch"].iloc[0] if "switch" in run else None
        start = 0 if pd.isna(switch) else int(switch)
        phase = run[run["epoch"] > start]
        epochs, measured, norm, error = (phase[column].to_numpy(dtype=float) for column in ("epoch", metric, "feature_norm", "train_error"))
        finite = np.isfinite(measured) & np.isfinite(norm)
        alive = run[np.isfinite(run["feature_norm"])]
        last = (int(alive["epoch"].iloc[-1]), float(alive["train_error"].iloc[-1])) if len(alive) else (0, math.nan)
        diverged = not np.isfinite(run["feature_norm"].iloc[-1])
        one_point = not diverged and not np.isfinite(run[metric].iloc[-1])
        yield (
            run[labels].iloc[0].to_dict(),
            Trajectory(start, epochs[finite], measured[finite], norm[finite], error[finite], last, diverged, one_point),
        )


def passage(epochs: np.ndarray, values: np.ndarray, level: float, at: int) -> float:
    """The moment between records `at` − 1 and `at` at which `values`, positive and exponential in between, pass `level`."""
    before, after, level = (math.log(max(value, _TINY)) for value in (values[at - 1], values[at], level))
    return float(epochs[at - 1] + (epochs[at] - epochs[at - 1]) * (level - before) / (after - before))


def onsets(table: pd.DataFrame, threshold: float, metric: str = METRIC) -> pd.DataFrame:
    """One row a run: when `metric` first fell below `threshold` after the switch, and the feature norm then.

    `table` is that of `sweep`. Columns of the result: the labels of the run (all that is no measurement), and

    - T_NC: epochs from the start of the run, interpolated between the records around the crossing, linearly in log `metric`; NaN if the
      run never crossed. The first crossing counts, whatever comes after it: it is the one a person watching would have reported.
    - since_switch: T_NC counted from the switch (T_NC itself where there is none): the time that the phase took.
    - fn_star: feature_norm at T_NC, interpolated in the same way; error_at_onset: the training error then, interpolated linearly. The
      threshold is of features alone: a network may cross it while its classifier still errs.
    - censored: it never crossed, as far as it was observed: until last_epoch, its last record with a finite norm, which lies before the
      switch if the run ended there.
    - diverged: the norm of its last record is not finite. A run may cross before it diverges.
    - one_point: that norm is finite, but `metric` is undefined there, as all features have become one point.
    - at_start: the first record of the phase lies below already, so that T_NC (that record's epoch) is only an upper bound.
    - stayed_below: every record after the crossing is below too; NA if it never crossed.
    - final_train_error: at last_epoch; NaN if there is no such record.

    Raises `ValueError` for a threshold that is not a positive number and for a column that the table lacks.
    """
    if not (math.isfinite(threshold) and threshold > 0):
        raise ValueError(f"threshold={threshold} is no level that {metric} could fall below: give a positive number.")
    rows = [{**labels, **_onset(run, threshold)} for labels, run in trajectories(table, metric)]
    found = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["key", *_onset(_NOTHING, threshold)])
    kept = {column: table[column].dtype for column in found if column in table}
    return found.astype({**kept, "censored": bool, "diverged": bool, "one_point": bool, "at_start": bool, "stayed_below": "boolean"})


_NOTHING = Trajectory(0, *(np.empty(0),) * 4, (0, math.nan), diverged=False, one_point=False)


def _onset(run: Trajectory, threshold: float) -> dict[str, Any]:
    below = run.metric < threshold
    crossed = bool(below.any())
    first = int(below.argmax()) if crossed else 0
    at_start = crossed and first == 0
    moment = math.nan
    if crossed:
        moment = float(run.epochs[0]) if at_start else passage(run.epochs, run.metric, threshold, first)
    return {
        "T_NC": moment,
        "error_at_onset": float(np.interp(moment, run.epochs, run.error)) if crossed else math.nan,
        "since_switch": moment - run.start,
        "fn_star": float(np.exp(np.interp(moment, run.epochs, np.log(np.maximum(run.norm, _TINY))))) if crossed else math.nan,
        "censored": not crossed,
        "diverged": run.diverged,
        "one_point": run.one_point,
        "at_start": at_start,
        "stayed_below": bool(below[first:].all()) if crossed else pd.NA,
        "last_epoch": run.last[0],
        "final_train_error": run.last[1],
    }


def summary(onsets: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rows of `onsets` by cell: columns `by`, runs, censored, diverged, biased, and *_mean, *_low, *_high, *_n for T_NC, since_switch
    and fn_star.

    The estimates are over the runs that crossed, with Student-t intervals, which end at the switch and at a norm of 0. `biased` says that
    some did not: their T_NC is later than anything in the mean, which is too early, and the fn* is that of the quick runs alone. Raises
    `ValueError` for a column that is missing.
    """
    require(onsets, [*by, "T_NC", "since_switch", "fn_star", "censored", "diverged"])
    rows = []
    for group, cell in onsets.groupby(list(by), dropna=False):
        least = {"T_NC": (cell["T_NC"] - cell["since_switch"]).min(), "since_switch": 0, "fn_star": 0}
        estimates = {column: estimate(cell[column]).within(bound)._asdict() for column, bound in least.items()}
        rows.append(
            {
                **dict(zip(by, group)),
                "runs": len(cell),
                **{count: int(cell[count].sum()) for count in ("censored", "diverged")},
                **{f"{column}_{name}": value for column, values in estimates.items() for name, value in values.items()},
                "biased": bool(cell["censored"].any()),
            }
        )
    return pd.DataFrame(rows)


def classify(onsets: pd.DataFrame, fitted: float = FITTED) -> pd.Series:
    """The regime of each run, one of `REGIMES`, beside the rows of `onsets`.

    "no fit": at its end the network errs on more than the share `fitted` of its training labels, as under too strong a weight decay;
    "diverged": it ended without finite numbers and had not crossed; "collapse": it fits and crossed the threshold; "no collapse": it fits
    and had not crossed when it was last observed. Raises `ValueError` for `fitted` outside (0, 1) and for a column that is missing.
    """
    if not 0 < fitted < 1:
        raise ValueError(f"fitted={fitted} is no share of training labels: give a number between 0 and 1.")
    require(onsets, ["censored", "diverged", "final_train_error"])
    conditions = [onsets["censored"] & onsets["diverged"], ~(onsets["final_train_error"] <= fitted), ~onsets["censored"]]
    return pd.Series(np.select(conditions, [DIVERGED, NO_FIT, COLLAPSE], NO_COLLAPSE), index=onsets.index, name="regime")


def where_all_collapse(onsets: pd.DataFrame, by: Sequence[str], fitted: float = FITTED) -> pd.DataFrame:
    """Of the rows of `onsets` those in groups (equal values in `by`) all of whose runs collapse: the quick ones of a group are no sample
    of it. Classes and errors are those of `classify`."""
    return onsets[(classify(onsets, fitted) == COLLAPSE).groupby(groups(onsets, by)).transform("all")]


def regimes(onsets: pd.DataFrame, by: Sequence[str] = ("weight_decay",), fitted: float = FITTED) -> pd.DataFrame:
    """The phase table: columns `by`, runs, the number of runs in each of `REGIMES`, and regime: what all of them share, or "mixed".

    Rows are sorted by `by`. Classes and errors are those of `classify`.
    """
    require(onsets, by)
    classes = classify(onsets, fitted)
    rows = []
    for group, cell in onsets.groupby(list(by), dropna=False):
        counts = classes[cell.index].value_counts().reindex(REGIMES, fill_value=0)
        shared = counts.idxmax() if counts.max() == len(cell) else MIXED
        rows.append({**dict(zip(by, group)), "runs": len(cell), **counts.to_dict(), "regime": shared})
    return pd.DataFrame(rows, columns=[*by, "runs", *REGIMES, "regime"])
