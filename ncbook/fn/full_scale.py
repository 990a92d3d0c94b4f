"""The page on the networks on all images: the NC1 that training errors would make, and where fn goes late in the second phase."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ncbook.analysis import Estimate, estimate
from ncbook.fn import pages
from ncbook.fn.onset import FITTED, METRIC, trajectories
from ncbook.fn.pages import MISSING, counted, listing, number, percent_with_interval, with_interval
from ncbook.fn.predictor import signal
from ncbook.fn.sweeps import Factor
from ncbook.simplex import collapsed_nc1_closed

CLASSES = 10
"""Of every data set of part two."""


def error_nc1(error: float | np.ndarray | pd.Series) -> np.ndarray:
    """NC1 (trace) of features that are collapsed but for a share `error` of the images, spread evenly over the classes, which lie at the
    means of other classes; the shape is that of `error`. NaN above `FITTED`: such a network has not learned its images."""
    return collapsed_nc1_closed(np.where(error <= FITTED, error, math.nan), CLASSES)


def error_of(nc1: float) -> float:
    """The training error whose `error_nc1` is `nc1`."""
    return (1 - 1 / math.sqrt(1 + nc1)) * (CLASSES - 1) / CLASSES


def with_error_nc1(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table with a column nc1_over_errors: NC1 over the `error_nc1` of the training error, infinite where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return table.assign(nc1_over_errors=table[METRIC] / error_nc1(table["train_error"]))


def late_phase(table: pd.DataFrame, onsets: pd.DataFrame) -> pd.DataFrame:
    """`onsets` with what the phase after the switch came to; NaN where it has no finite record, or features have become one point.

    Columns besides: nc1_least; medians over the second half of the phase, until the run's last finite record: nc1_late, error_late,
    norm_late and over_errors (of nc1_over_errors, of records that have it); change: the median norm of the last quarter over that of the
    quarter before, less 1.
    """
    rows = []
    for labels, path in trajectories(table):
        row = {"key": labels["key"]}
        if len(path.epochs) and not path.one_point:
            passed = (path.epochs - path.start) / (path.epochs[-1] - path.start)
            late, last = passed >= 1 / 2, passed >= 3 / 4
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios = path.metric[late] / error_nc1(path.error[late])
                change = _median(path.norm[last]) / _median(path.norm[late & ~last]) - 1
            row |= {"nc1_least": path.metric.min(), "nc1_late": np.median(path.metric[late]), "error_late": np.median(path.error[late])}
            row |= {"norm_late": np.median(path.norm[late]), "over_errors": _median(ratios[~np.isnan(ratios)]), "change": change}
        rows.append(row)
    columns = ["key", "nc1_least", "nc1_late", "error_late", "norm_late", "over_errors", "change"]
    return onsets.merge(pd.DataFrame(rows, columns=columns), on="key")


def _median(values: np.ndarray) -> float:
    return np.median(values) if len(values) else math.nan


def _by_level(found: pd.DataFrame, factor: Factor, column: str, least: float = 0, most: float = math.inf) -> dict[Any, Estimate]:
    """Level -> the mean of `column`, of `late_phase`, over its runs, within the values that it can have; infinite where one run's is."""
    endless = Estimate(math.inf, math.nan, math.nan, 0)
    cells = found.groupby(factor.column)[column]
    return {level: endless if np.isinf(values).any() else estimate(values).within(least, most) for level, values in cells}


def late_text(found: pd.DataFrame, factor: Factor, column: str) -> str:
    """A column of `late_phase` at the levels where it is finite: `2.00 [1.78, 2.23] with GELU and 1.10 [1.05, 1.15] with ReLU`."""
    known = {level: value for level, value in _by_level(found, factor, column).items() if math.isfinite(value.mean)}
    return listing(f"{with_interval(value, 2)} {factor.at(level)}" for level, value in known.items()) or MISSING


def late_rows(found: pd.DataFrame, factor: Factor) -> list[list[str]]:
    """Rows for a table of `late_phase`: level, runs, nc1_least, nc1_late, error_late, over_errors, norm_late, change."""
    least, late, ratio, norm = (_by_level(found, factor, column) for column in ("nc1_least", "nc1_late", "over_errors", "norm_late"))
    error, change = _by_level(found, factor, "error_late", 0, 1), _by_level(found, factor, "change", -1)
    return [
        [
            factor.label(level),
            _runs_text(found.loc[found[factor.column] == level, "one_point"]),
            *(with_interval(value[level], 4 if value[level].mean < 1 else 1) for value in (least, late)),
            _share(error[level]),
            with_interval(ratio[level], 2),
            with_interval(norm[level]),
            percent_with_interval(change[level], sign=True),
        ]
        for level in least
    ]


def _runs_text(one_point: pd.Series) -> str:
    """`3`, `3 (1 one point)`."""
    return f"{len(one_point)}" + (f" ({gone} one point)" if (gone := one_point.sum()) else "")


def onset_rows(onsets: pd.DataFrame, factor: Factor) -> list[list[str]]:
    """`pages.onset_rows`, and the training errors at T_NC in per cent, from the least to the greatest."""
    rows = pages.onset_rows(onsets, factor.column, factor.label)
    cells = onsets.groupby(factor.column)["error_at_onset"]
    return [[*row, _span(100 * errors.dropna())] for row, (_, errors) in zip(rows, cells, strict=True)]


def _span(values: pd.Series) -> str:
    """`0.49 to 58.41`, `0.49` where there is one value."""
    return " to ".join(dict.fromkeys(number(end, 2) for end in (values.min(), values.max()))) if len(values) else MISSING


def collapse_span(onsets: pd.DataFrame, column: str) -> str:
    """The least and the greatest value of a column of `onsets` over the runs that crossed, and how many times as large the latter is."""
    values = onsets[column].dropna()
    if len(values) < 2:
        return MISSING
    low, high = values.min(), values.max()
    return f"from {number(low, 2)} to {number(high, 2)}, {number(high / low, 1)} times as much"


def passed_text(table: pd.DataFrame, onsets: pd.DataFrame, levels: Mapping[Any, float], factor: Factor) -> str:
    """In how many runs fn fell below the norm that `levels` has for theirs, as `predictor.signal` counts it; how many of these collapsed."""
    passed = {run["key"] for run, path in trajectories(table) if signal(path, levels[run[factor.column]])}
    cells = [(level, cell["key"].isin(passed)) for level, cell in onsets.groupby(factor.column)]
    told = listing(f"{inside.sum()} of {counted(len(inside), 'run')} {factor.at(level)}" for level, inside in cells)
    collapsed = (~onsets.loc[onsets["key"].isin(passed), "censored"]).sum()
    return told + (f"; {collapsed or 'none'} of these {len(passed)} collapsed" if passed else "")


def _share(value: Estimate) -> str:
    """A share in per cent, to a hundredth: `0.83 [0.66, 1.01]`."""
    return with_interval(Estimate(*(100 * part for part in value[:3]), value.n), 2)
