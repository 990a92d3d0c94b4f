"""Statistics on the tidy tables of `sweep`: tables in, tables out. Nothing here trains, draws or writes prose.

A *curve* is one model under one optimiser, seen over its widths; a *point* of it is one width.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CURVE = ["model", "optimizer"]
POINT = [*CURVE, "width", "parameters"]

REPORT_EPOCHS = {"exp1": 3000, "exp2": 15000, "exp3": 3000, "exp4": 2000, "layers": 3000}
"""How long the report trained, by experiment; "layers" looks into the networks of "exp1"."""
REPORT_SEEDS = 1
REPORT_COMPARED_SEEDS = 3
"""Of the networks that its experiment 4 compares across seeds."""
REPORT_LABEL_NOISE = 0.2
REPORT_METRICS = {"nc1": "nc1_trace_ratio_noisy", "nc2": "nc2_gram_noisy", "nc3": "nc3_uncentred_noisy", "nc4": "nc4_noisy"}
"""The report's names of its metrics, and the columns of our tables that follow the same formula on the same labels."""

_BOUNDS = {
    r"(train|test)_error$|accuracy_|nc4_|biased$": (0, 1),
    "debiased$": (-1, 1),
    r"nc\d_|feature_norm$|(train|test)_loss$|std$|range$|wobble$": (0, math.inf),
}
"""Metrics, as regular expressions, and between which values they lie. CKA is a cosine between positive semidefinite matrices or,
`debiased`, between U-centred ones, whose product may be negative."""

_REFERENCE = Path(__file__).resolve().parent.parent / "book" / "reference"


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval; `low` and `high` are NaN where `n` < 2."""

    mean: float
    low: float
    high: float
    n: int

    def within(self, least: float, most: float = math.inf) -> "Estimate":
        """With the interval cut to the values that the quantity can have: it still contains the truth as often as before."""
        return self._replace(low=max(self.low, least), high=min(self.high, most))


class Peak(NamedTuple):
    """Positions along a curve: its interior peak, and the lowest points before and after it."""

    before: int
    top: int
    after: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student-t interval of the finite values; all NaN and n = 0 where there is none."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    n = len(finite)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = float(finite.mean())
    if n == 1:
        return Estimate(mean, np.nan, np.nan, 1)
    half = float(stats.t.ppf(0.975, n - 1) * finite.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def last_epoch(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `runs` measured after each run's own last epoch: one row a run, none of a run that its `stop` ended before."""
    return runs[runs["epoch"] == runs["epochs"]].reset_index(drop=True)


def bounds(metric: str) -> tuple[float, float]:
    """Between which values a metric lies."""
    return next((known for pattern, known in _BOUNDS.items() if re.match(pattern, metric)), (-math.inf, math.inf))


def _estimates(table: pd.DataFrame, metrics: Sequence[str], by: list[str]) -> pd.DataFrame:
    rows = [
        {**dict(zip(by, group)), "metric": metric, **estimate(members[metric])._asdict()}
        for group, members in table.groupby(by)
        for metric in metrics
    ]
    return pd.DataFrame(rows, columns=[*by, "metric", *Estimate._fields])


def seed_means(last: pd.DataFrame, metrics: Sequence[str], by: Sequence[str] = POINT) -> pd.DataFrame:
    """Each metric's `Estimate` over the rows that share `by`, within the metric's bounds: columns `by`, metric, mean, low, high, n."""
    means = _estimates(last, metrics, list(by))
    least, most = ([bounds(metric)[side] for metric in means["metric"]] for side in (0, 1))
    return means.assign(low=means["low"].clip(lower=least), high=means["high"].clip(upper=most))


def paired_differences(
    last: pd.DataFrame,
    metrics: Sequence[str],
    *,
    column: str = "optimizer",
    of: str = "sgd",
    minus: str = "adam",
    by: Sequence[str] = ("model", "width"),
) -> pd.DataFrame:
    """Each metric where `column` is `of` minus the same where it is `minus`, in pairs of one seed.

    Returns columns `by`, metric, mean, low, high, n; no row where no seed has both.
    """
    by = list(by)
    sides = [last[last[column] == value].set_index([*by, "seed"])[list(metrics)] for value in (of, minus)]
    shared = sides[0].index.intersection(sides[1].index)
    return _estimates((sides[0].loc[shared] - sides[1].loc[shared]).reset_index(), metrics, by)


def interior_peak(values: Sequence[float]) -> Peak | None:
    """The most prominent interior maximum: lower points lie on both sides, and the lesser of the two drops is the greatest.

    Returns None where there is none (a monotone curve, a valley, fewer than three points). NaN are passed over.
    """
    curve = np.asarray(values, dtype=float)
    best, prominence = None, 0.0
    for top in range(1, len(curve) - 1):
        left, right = curve[:top], curve[top + 1 :]
        if np.isnan(curve[top]) or np.isnan(left).all() or np.isnan(right).all():
            continue
        drop = min(curve[top] - np.nanmin(left), curve[top] - np.nanmin(right))
        if drop > prominence:
            best, prominence = Peak(int(np.nanargmin(left)), top, top + 1 + int(np.nanargmin(right))), drop
    return best


def held_out_peaks(seeds: pd.DataFrame) -> list[Peak | None]:
    """For each seed, a column of `seeds`, the interior peak of the mean curve of the others; a single seed's own.

    At positions that its own noise has chosen a seed's peak stands too high and its minimum too low, and an interval around their
    difference leaves out 0 in a fifth of curves of pure noise; at those that the other seeds choose in about one of fifteen, as the seeds
    that choose are partly the same.
    """
    others = [seeds.drop(columns=seed) for seed in seeds] if seeds.shape[1] > 1 else [seeds]
    return [interior_peak(curves.mean(axis=1)) for curves in others]


def peaks(last: pd.DataFrame, metric: str = "test_error") -> pd.DataFrame:
    """The interior peak of each curve's seed mean; one row a curve that has one.

    Columns: model, optimizer; width and parameters of the peak, mean/low/high/n of the metric there; before_width, after_width: the
    lowest points on either side; rise_* and fall_*: how far the peak stands over each, every seed at the positions of `held_out_peaks`, or
    0 if they have none; beyond_*: the metric at the greatest width minus that at the lowest point before the peak, at the same positions,
    without seeds that have none; seed_widths: where each single seed's own peak lies (seeds without one are left out).
    """
    rows = []
    for (model, optimizer), curve in last.groupby(CURVE):
        seeds = curve.set_index(["width", "parameters", "seed"])[metric].unstack().sort_index().dropna(how="all")
        if (peak := interior_peak(seeds.mean(axis=1))) is None:
            continue
        widths = [int(width) for width in seeds.index.get_level_values("width")]
        curves = list(zip(seeds.to_numpy().T, held_out_peaks(seeds)))
        rise = estimate([values[at.top] - values[at.before] if at else 0.0 for values, at in curves])
        fall = estimate([values[at.top] - values[at.after] if at else 0.0 for values, at in curves])
        beyond = estimate([values[-1] - values[at.before] for values, at in curves if at])
        own = [interior_peak(seeds[seed]) for seed in seeds]
        rows.append(
            {
                "model": model,
                "optimizer": optimizer,
                "width": widths[peak.top],
                "parameters": int(seeds.index[peak.top][1]),
                **estimate(seeds.iloc[peak.top])._asdict(),
                "before_width": widths[peak.before],
                "after_width": widths[peak.after],
                **{f"rise_{name}": value for name, value in rise._asdict().items()},
                **{f"fall_{name}": value for name, value in fall._asdict().items()},
                **{f"beyond_{name}": value for name, value in beyond._asdict().items()},
                "seed_widths": tuple(widths[one.top] for one in own if one),
            }
        )
    shifts = [f"{kind}_{name}" for kind in ("rise", "fall", "beyond") for name in Estimate._fields]
    return pd.DataFrame(rows, columns=[*POINT, *Estimate._fields, "before_width", "after_width", *shifts, "seed_widths"])


def _fisher(r: float, n: int, variance: float) -> tuple[float, float]:
    """95 % interval of a correlation through Fisher's z, whose variance is `variance` / (n − 3)."""
    if n < 4 or np.isnan(r):
        return np.nan, np.nan
    if abs(r) >= 1:
        return r, r
    half = stats.norm.ppf(0.975) * np.sqrt(variance / (n - 3))
    return float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half))


def correlations(last: pd.DataFrame, metrics: Sequence[str], against: str = "test_error") -> pd.DataFrame:
    """Over the widths of each curve's seed mean: how each metric goes with `against`.

    Columns: model, optimizer, metric, kind ("pearson" or "spearman"), r, low, high, n (the number of widths). The intervals are Fisher's,
    for Spearman with the variance of Bonett and Wright (2000), NaN below 4 widths; r is NaN below 3 widths or where a side is constant.
    """
    rows = []
    for (model, optimizer), curve in last.groupby(CURVE):
        means = curve.groupby("width")[[against, *metrics]].mean()
        for metric in metrics:
            pair = means[[against, metric]].dropna()
            n = len(pair)
            defined = n >= 3 and (pair.nunique() > 1).all()
            for kind in ("pearson", "spearman"):
                r = float(pair.corr(kind).iloc[0, 1]) if defined else np.nan
                low, high = _fisher(r, n, 1 if kind == "pearson" else 1 + r**2 / 2)
                rows.append((model, optimizer, metric, kind, r, low, high, n))
    return pd.DataFrame(rows, columns=[*CURVE, "metric", "kind", "r", "low", "high", "n"])


def diverged(last: pd.DataFrame) -> int:
    """How many runs ended without a finite training loss."""
    return int((~np.isfinite(last["train_loss"])).sum())


def report_points(experiment: str) -> pd.DataFrame:
    """The report's own points as read from its figures, metrics and columns under our names.

    Columns: metric, value (NaN where its figure hides the point), model, optimizer, width, and parameters ("exp1"), epoch ("exp2") or
    feature_dim ("exp3"). Raises `ValueError` where the report has no table for `experiment`.
    """
    path = _REFERENCE / f"report_{experiment}.csv"
    if not path.exists():
        known = ", ".join(sorted(file.stem.removeprefix("report_") for file in _REFERENCE.glob("*.csv")))
        raise ValueError(f"experiment={experiment!r} has no table of the report's points: choose one of {known}.")
    points = pd.read_csv(path).rename(columns={"params": "parameters"})
    if experiment == "exp2":
        points = points.assign(model="resnet1d", optimizer="adam", metric="test_error").rename(columns={"test_error": "value"})
    if experiment == "exp3":
        points = points.melt("feature_dim", var_name="metric").assign(model="resnet1d", optimizer="sgd", width=64)
    return points.replace({"metric": REPORT_METRICS})


def report_cka() -> dict[str, Any]:
    """The report's CKA as its file has it: the parts cross_width, drift and cross_seed."""
    return json.loads((_REFERENCE / "report_exp4.json").read_text())


def report_drift() -> pd.DataFrame:
    """The report's drift as points to draw: metric (the layer), epoch, value, and, as in `drift_means`, kind and since."""
    drift = report_cka()["drift"]
    points = pd.DataFrame({"epoch": drift["epochs"], **{layer: drift[layer] for layer in ("L0", "L1", "L2")}})
    return points.melt("epoch", var_name="metric").assign(kind="biased", since="first")


def report_configurations(experiment: str) -> pd.DataFrame:
    """The networks that the report trained for an experiment, one row each: model, optimizer, width, and feature_dim in "exp3".

    None for "layers": the report has no such measurements.
    """
    if experiment == "layers":
        return pd.DataFrame(columns=[*CURVE, "width"])
    if experiment == "exp4":
        cka = report_cka()
        widths = [cka["cross_width"]["small"], cka["cross_width"]["large"], cka["drift"]["width"]]
        return pd.DataFrame({"model": "resnet1d", "optimizer": "adam", "width": widths})
    points = report_points(experiment)
    return points[[column for column in (*CURVE, "width", "feature_dim") if column in points]].drop_duplicates()


def beside_report(means: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The rows of `seed_means` that the report has too, with columns report and difference (ours minus the report's)."""
    report = points.rename(columns={"value": "report"}).drop(columns="parameters", errors="ignore").dropna()
    both = means.merge(report, on=[column for column in report if column in means])
    return both.assign(difference=both["mean"] - both["report"])
