"""The course of a run, from the first epoch to the last: terminal phase, the crash at the switch, collapse, and what NC2 and NC3 do."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from ncbook.analysis import estimate
from ncbook.fn.onset import METRIC, onsets
from ncbook.fn.pages import counted, listing, number, percent, with_interval
from ncbook.fn.paper import Reported

TERMINAL = {"terminal": 0.01, "interpolating": 0.001}
"""Columns of `courses`, and the training error of whose first passing they give the epoch: the paper does not say what opens its terminal
phase, and no error at all is rare with Adam at a constant rate."""
EARLY = 10
"""The epoch at which the paper reads the norm of cross-entropy."""
STRUCTURE = {
    "nc2_equinorm_clean": "NC2 (norms)",
    "nc2_equiangularity_clean": "NC2 (angles)",
    "nc2_gram_clean": "NC2 (Grams)",
    "nc3_clean": "NC3",
}
"""The metrics of NC2 and NC3, as the page calls them."""


def courses(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """`onset.onsets` with what else marks a run's course; NaN where the run has no such moment.

    Columns besides: terminal and interpolating (first recorded epoch with a training error of at most `TERMINAL`), norm_early (fn at epoch
    `EARLY`), norm_switch, error_switch (at the last record of cross-entropy), norm_after, error_after (at the first record after it),
    norm_top (the highest fn from then to T_NC, or to the end), norm_end, and compression (norm_early / fn_star).
    """
    found = onsets(table, threshold)
    rows = []
    for row in found.to_dict("records"):
        run = table[table["key"] == row["key"]].drop_duplicates("epoch").sort_values("epoch")
        switch = 0 if pd.isna(row["switch"]) else row["switch"]
        before, after = run[run["epoch"] <= switch], run[run["epoch"] > switch]
        approach = after[after["epoch"] <= row["T_NC"]] if math.isfinite(row["T_NC"]) else after
        norm_early = _first(run.loc[run["epoch"] == EARLY, "feature_norm"])
        rows.append(
            {
                **{column: _first(run.loc[run["train_error"] <= level, "epoch"]) for column, level in TERMINAL.items()},
                "norm_early": norm_early,
                "norm_switch": _first(before["feature_norm"][::-1]),
                "error_switch": _first(before["train_error"][::-1]),
                "norm_after": _first(after["feature_norm"]),
                "error_after": _first(after["train_error"]),
                "norm_top": float(approach["feature_norm"].max()),
                "norm_end": _first(run["feature_norm"][::-1]),
                "compression": norm_early / row["fn_star"],
            }
        )
    return found.join(pd.DataFrame(rows))


def _first(values: pd.Series) -> float:
    return float(values.iloc[0]) if len(values) else math.nan


def course_rows(courses: pd.DataFrame, reported: Mapping[str, Reported]) -> list[list[str]]:
    """Rows for a `pages.numbered_table`: what it is, ours (mean and interval over the runs that have it), how many have it, the paper's."""
    late = f"with a training error of at most {percent(TERMINAL['interpolating'])}"
    quantities = [
        ("terminal", f"First epoch with a training error of at most {percent(TERMINAL['terminal'])}", 1, reported.get("terminal_epoch")),
        ("interpolating", f"First epoch {late}", 1, None),
        ("norm_early", f"fn at epoch {EARLY}", 2, reported.get("terminal_norm")),
        ("norm_switch", "fn at the switch", 2, None),
        ("norm_after", "fn at the first record after it", 2, None),
        ("norm_top", "Highest fn from there to collapse", 2, None),
        ("T_NC", "$T_{NC}$, epoch", 1, reported.get("T_NC")),
        ("since_switch", "$T_{NC}$, epochs after the switch", 1, reported.get("since_switch")),
        ("fn_star", "fn\\*", 3, reported.get("fn_star")),
        ("compression", f"fn at epoch {EARLY} over fn\\*", 1, reported.get("compression")),
        ("norm_end", "fn at the last epoch", 3, None),
    ]
    rows = []
    for column, label, digits, theirs in quantities:
        value = estimate(courses[column]).within(0)
        paper = f"{theirs.value:g} ({theirs.place})" if theirs else "–"
        rows.append([label, with_interval(value, digits), f"{value.n} of {len(courses)}", paper])
    return rows


def structure_rows(table: pd.DataFrame, metrics: Mapping[str, str] = STRUCTURE) -> list[list[str]]:
    """Rows for a `pages.numbered_table`: the metric, and over the runs its mean at the switch, just after it, and at the last record;
    in how many runs the last lies below the first, and below the second."""
    rows = []
    for metric, label in metrics.items():
        at = _phase_ends(table, metric)
        below = [f"{int((at['end'] < at[column]).sum())} of {len(at)}" for column in ("switch", "after")]
        rows.append([label, *(with_interval(estimate(at[column]).within(0)) for column in ("switch", "after", "end")), *below])
    return rows


def _phase_ends(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row a run: the metric at the last record of cross-entropy, at the first after it, and at the last of all."""
    rows = []
    for _, run in table.drop_duplicates(["key", "epoch"]).sort_values("epoch").groupby("key", sort=False):
        switch = run["switch"].fillna(0).iloc[0]
        before, after = run.loc[run["epoch"] <= switch, metric], run.loc[run["epoch"] > switch, metric]
        rows.append((_first(before[::-1]), _first(after), _first(after[::-1])))
    return pd.DataFrame(rows, columns=["switch", "after", "end"])


def structure_text(table: pd.DataFrame, metrics: Mapping[str, str] = STRUCTURE) -> str:
    """Which of the metrics ended below their value at the switch in every run, which in some, which in none: a clause."""
    groups: dict[str, list[str]] = {"every run": [], "some runs only": [], "no run": []}
    for metric, label in metrics.items():
        at = _phase_ends(table, metric)
        fell = at["end"] < at["switch"]
        groups["every run" if fell.all() else "some runs only" if fell.any() else "no run"].append(label)
    return "; ".join(f"in {where}: {listing(labels)}" for where, labels in groups.items() if labels)


def crash_text(courses: pd.DataFrame) -> str:
    """What the first record after the switch shows: a sentence."""
    norms, errors = ([estimate(courses[f"{part}_{side}"]).mean for side in ("switch", "after")] for part in ("norm", "error"))
    if not all(map(math.isfinite, (*norms, *errors))):
        return "The records on the two sides of the switch are not all finite."
    moved = "falls" if norms[1] < norms[0] else "rises"
    erred = "rises" if errors[1] > errors[0] else "falls" if errors[1] < errors[0] else "stays"
    over = f" (means over {counted(len(courses), 'run')})" if len(courses) > 1 else ""
    return (
        f"At the first record after the change of loss the feature norm {moved} from {number(norms[0], 2)} to {number(norms[1], 2)} "
        f"and the training error {erred} from {percent(round(errors[0], 3))} to {percent(round(errors[1], 3))}{over}."
    )


def approach_text(courses: pd.DataFrame) -> str:
    """From which side the norm comes to fn*, over the runs that collapsed: a sentence."""
    crossed = courses[~courses["censored"]]
    if crossed.empty:
        return "No run collapsed, so that there is no fn* to approach."
    above = int((crossed["norm_top"] > crossed["fn_star"] * (1 + 1e-6)).sum())
    return (
        f"Between the switch and collapse the norm stood above fn* before it came down to it in {above} of "
        f"{counted(len(crossed), 'run')} that collapsed"
        + (f", at its highest {number((crossed['norm_top'] / crossed['fn_star']).mean(), 1)} times as high on average." if above else ".")
    )


def lowest_text(table: pd.DataFrame) -> str:
    """How far NC1 got after the switch: a sentence."""
    after = table.loc[table["epoch"] > table["switch"].fillna(0), METRIC]
    return f"The lowest NC1 measured after the switch is {number(after.min(), 4)}."


def against_paper(values: Sequence[float], paper: float, digits: int = 3) -> str:
    """Where the paper's value stands to our mean and interval: a clause."""
    ours = estimate(values).within(0)
    if not ours.n:
        return f"not measured, against the paper's {paper:g}"
    beside = f"{with_interval(ours, digits)} against the paper's {paper:g}, {percent(round(ours.mean / paper - 1, 3), sign=True)}"
    if ours.n < 2:
        return beside + " (one value, no interval)"
    return beside + (", inside the interval" if ours.low <= paper <= ours.high else ", outside the interval")
