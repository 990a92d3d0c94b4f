"""Does the feature norm tell when collapse sets in? A prediction for every run from the other runs, beside two baselines.

Everything a prediction uses was known at the epoch at which it is made, or comes from other runs. Two things follow.

The crossing. At the switch of the loss the features crash, often within one epoch, and regrow; passing fn* on the way down the crash is no
sign of collapse. That a crossing was the last one is known only afterwards, and so is that a minimum was the minimum: such rules look
into the future. Here a crossing counts, at once and for good, if both records around it lie after the switch, the norm was at or above
fn* at the first and below it at the second, and the network fits its training labels at the second (`onset.FITTED`): a network in the
crash does not, and collapse is a phenomenon of networks that do (Papyan, Han and Donoho 2020). A run whose norm comes from below, or
never falls to fn*, gets no prediction.

The lead. fn* is the mean norm at T_NC, so that runs which are alike cross it about when they collapse, some before and some after: the
mean lead of a homogeneous group is near 0 by construction. The prediction adds the mean lead of the other runs.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ncbook.analysis import estimate
from ncbook.fn.onset import FITTED, METRIC, Trajectory, groups, onsets, passage, require, trajectories

FEATURE_NORM, MEAN_ONSET, EXTRAPOLATED = PREDICTORS = ("feature_norm", "mean_onset", "extrapolated_nc1")
WINDOW = 10
_LEAST_RECORDS = 3
"""To fit a line to."""


class Signal(NamedTuple):
    """The norm's crossing of a level."""

    crossing: float
    """Interpolated between two records, in epochs."""
    known_at: int
    """The epoch of the second of them."""


def signal(run: Trajectory, level: float, fitted: float = FITTED) -> Signal | None:
    """The first crossing of the norm below `level` that counts (see above), or None."""
    counts = (run.norm[:-1] >= level) & (run.norm[1:] < level) & (run.error[1:] <= fitted)
    if not counts.any():
        return None
    at = int(counts.argmax()) + 1
    return Signal(passage(run.epochs, run.norm, level, at), int(run.epochs[at]))


def extrapolate(run: Trajectory, threshold: float, known_at: float, window: int = WINDOW, fitted: float = FITTED) -> float:
    """When the metric will pass `threshold`, by a line through log metric at the last `window` records up to the epoch `known_at`.

    Records at which the network does not fit its training labels are passed over, as in `signal`. NaN where there are fewer than three,
    or where the line does not fall.
    """
    known = np.flatnonzero((run.epochs <= known_at) & (run.error <= fitted) & (run.metric > 0))[-window:]
    if len(known) < _LEAST_RECORDS:
        return math.nan
    slope, intercept = np.polyfit(run.epochs[known] - known_at, np.log(run.metric[known]), 1)
    return float(known_at + (math.log(threshold) - intercept) / slope) if slope < 0 else math.nan


def predictions(
    table: pd.DataFrame,
    threshold: float,
    *,
    metric: str = METRIC,
    leave_out: Sequence[str] = ("key",),
    within: Sequence[str] = ("data", "model"),
    window: int = WINDOW,
) -> pd.DataFrame:
    """T_NC of every run predicted three ways from the other runs that share the columns `within`.

    `leave_out` names the columns whose values the run's sources may not share: ("key",) leaves out the run itself, the columns of a
    condition leave out all runs of that condition, which is harder. Runs that never crossed are predicted but serve as no source.

    - "feature_norm": the run's crossing of fn*, the mean of the sources, plus their mean lead over the same level.
    - "mean_onset": the mean time from switch to T_NC of the sources; known at the switch.
    - "extrapolated_nc1": `extrapolate`, made at the epoch at which the norm's crossing is known, hence from the same past.

    Returns a row for each run and predictor: the columns of `onsets`, predictor, sources (their number), level (the fn* taken from them),
    crossing, made_at_epoch, predicted, error (predicted − T_NC, in epochs) and lead (T_NC − crossing; of "mean_onset" T_NC − switch). A
    lead below 0 means that collapse came first. NaN stands for a prediction that was not made and for an error that is unknown.
    Runs that stop soon after T_NC hide later crossings: they make the norm silent more often, and its mean lead longer than it is.
    Raises `ValueError` for fewer than two runs, a window of fewer than three records, a bad threshold and columns that are missing.
    """
    if window < _LEAST_RECORDS:
        raise ValueError(f"window={window} is too short to fit a line: give at least {_LEAST_RECORDS} records.")
    runs = onsets(table, threshold, metric)
    if len(runs) < 2:
        raise ValueError(f"The table holds {len(runs)} run: a prediction comes from other runs, so give at least two.")
    paths = [path for _, path in trajectories(table, metric)]
    cell, unit = groups(runs, within), groups(runs, leave_out)
    rows = []
    for number, (run, path) in enumerate(zip(runs.to_dict("records"), paths)):
        sources = runs[(cell == cell[number]) & (unit != unit[number]) & ~runs["censored"]]
        for predictor in _predict(path, sources, paths, threshold, window):
            spoken = path.start if predictor["predictor"] == MEAN_ONSET else predictor["crossing"]
            rows.append({**run, **predictor, "error": predictor["predicted"] - run["T_NC"], "lead": run["T_NC"] - spoken})
    return pd.DataFrame(rows).astype({column: runs[column].dtype for column in runs})


def _predict(path: Trajectory, sources: pd.DataFrame, paths: list[Trajectory], threshold: float, window: int) -> list[dict[str, Any]]:
    level = float(sources["fn_star"].mean()) if len(sources) else math.nan
    seen = signal(path, level)
    leads = [row.T_NC - found.crossing for row in sources.itertuples() if (found := signal(paths[row.Index], level))]
    crossing, known_at = seen or (math.nan, math.nan)
    after_switch = float(sources["since_switch"].mean()) if len(sources) else math.nan
    predicted = {
        FEATURE_NORM: (crossing + float(np.mean(leads)) if leads else math.nan, known_at),
        MEAN_ONSET: (path.start + after_switch, path.start),
        EXTRAPOLATED: (extrapolate(path, threshold, known_at, window), known_at),
    }
    shared = {"sources": len(sources), "level": level, "crossing": crossing}
    return [{"predictor": name, **shared, "made_at_epoch": at, "predicted": value} for name, (value, at) in predicted.items()]


def errors(predictions: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """How well each predictor does: a row for each cell of `by` and predictor.

    Columns: runs; silent: runs without a prediction; false: runs that never crossed though the predicted epoch was observed; then, over
    the runs that crossed and that every predictor speaks about, so that all are judged by the same ones: mae_* (mean absolute error in
    epochs: mean, low, high, n), median (of the absolute error), lead_*, ahead (share with a lead above 0), and worse_* (its absolute
    error minus that of "feature_norm", run by run; above 0: the norm predicts better). The Student-t intervals take runs as independent,
    which seeds of one condition and sources in common are not quite: they are rather too narrow.
    Raises `ValueError` for a column that is missing.
    """
    require(predictions, [*by, "key", "predictor", "predicted", "error", "lead", "censored", "last_epoch"])
    cell = groups(predictions, by)
    rows = []
    for number in sorted(cell.unique()):
        part = predictions[cell == number]
        absolute, leads = (part.pivot(index="key", columns="predictor", values=column) for column in ("error", "lead"))
        judged = absolute.abs().dropna()
        for predictor in PREDICTORS:
            own = part[part["predictor"] == predictor]
            lead = leads.loc[judged.index, predictor]
            estimates = {
                "mae": estimate(judged[predictor]),
                "lead": estimate(lead),
                "worse": estimate(judged[predictor] - judged[FEATURE_NORM]),
            }
            rows.append(
                {
                    **part.iloc[0][list(by)].to_dict(),
                    "predictor": predictor,
                    "runs": len(own),
                    "silent": int(own["predicted"].isna().sum()),
                    "false": int((own["censored"] & (own["predicted"] <= own["last_epoch"])).sum()),
                    **{f"{name}_{field}": value for name, found in estimates.items() for field, value in found._asdict().items()},
                    "median": float(judged[predictor].median()),
                    "ahead": float((lead > 0).mean()),
                }
            )
    return pd.DataFrame(rows)
