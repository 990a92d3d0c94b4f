"""What the chapters on depth, activation, weight decay and width share: the baseline varied in one setting, and the onset over it.

From tables to words and rows. A sentence says what its numbers decide, and says so where they decide nothing: with one seed,
with one level, or where runs did not collapse.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ncbook.analysis import Estimate, estimate
from ncbook.fn.experiments import BASELINE, MARGIN
from ncbook.fn.onset import trajectories, where_all_collapse
from ncbook.fn.pages import (
    column_estimate,
    counted,
    crossed_text,
    listing,
    name,
    number,
    percent,
    percent_with_interval,
    power,
    with_interval,
)
from ncbook.fn.statistics import (
    UNDECIDED,
    Curve,
    coefficient_of_variation,
    extremes,
    relative_effect,
    shape_over,
    shifts,
    spread_over_conditions,
    variation_over_conditions,
)

ONE_RUN = "one run a level, no interval"
_WORDS = {"since_switch": "the time from the switch to collapse", "fn_star": "fn*"}


@dataclass(frozen=True)
class Factor:
    """The setting that a chapter varies: its column in the tables, the baseline's level, and how levels are written."""

    column: str
    base: Any
    axis: str
    noun: str
    """What stands before a level in a sentence: `depth 3`."""
    label: Callable[[Any], str] = str
    preposition: str = "at"

    def called(self, *levels: Any) -> str:
        """`depth 1, 2 and 3`."""
        return f"{self.noun} {listing(map(self.label, levels))}".strip()

    def at(self, *levels: Any) -> str:
        """`at depth 1, 2 and 3`."""
        return f"{self.preposition} {self.called(*levels)}"


DEPTH = Factor("depth", BASELINE.model.depth, "hidden layers", "depth")
ACTIVATION = Factor("activation", BASELINE.model.activation, "activation", "", name, "with")
WEIGHT_DECAY = Factor("weight_decay", BASELINE.optimizer.weight_decay, "weight decay $\\lambda$", "λ =", power)
WIDTH = Factor("width", BASELINE.model.width, "width (units a layer)", "width")


def by_level(onsets: pd.DataFrame, factor: Factor, value: str) -> dict[Any, pd.Series]:
    """Level -> its values, of the runs that crossed; levels without any are left out."""
    return {level: values for level, cell in onsets.groupby(factor.column) if len(values := cell[value].dropna())}


def reference(onsets: pd.DataFrame, factor: Factor) -> Any:
    """The level that others are held against: the baseline's, or the first where that is not on the page."""
    levels = sorted(set(onsets[factor.column]))
    return factor.base if factor.base in levels else levels[0]


def onset_texts(onsets: pd.DataFrame, factor: Factor, threshold: float) -> dict[str, str]:
    """What every chapter says of its runs: texts without a full stop.

    threshold, margin, levels, crossed, quickest, reference; time_shape and norm_shape (which pairs of levels differ), time_shift and
    norm_shift (the largest effect against the reference), spread (of times and norms over the levels).
    onsets: of `onset.onsets` at `threshold`.
    """
    return {
        "threshold": f"{threshold:g}",
        "margin": f"{MARGIN}",
        "levels": factor.called(*sorted(set(onsets[factor.column]))),
        "crossed": crossed_text(onsets, threshold),
        "quickest": quickest_text(onsets, factor),
        "reference": factor.called(reference(onsets, factor)),
        "time_shape": shape_text(onsets, factor, "since_switch"),
        "norm_shape": shape_text(onsets, factor, "fn_star"),
        "time_shift": _largest_shift_text(onsets, factor, "since_switch"),
        "norm_shift": _largest_shift_text(onsets, factor, "fn_star"),
        "spread": _spread_text(onsets, factor),
    }


def quickest_text(onsets: pd.DataFrame, factor: Factor) -> str:
    """Which level collapses first, and how certain that is."""
    times = by_level(onsets, factor, "since_switch")
    if not times:
        return "no run collapsed, so that none can be called the quickest"
    best = min(times, key=lambda level: times[level].mean())
    text = f"{factor.called(best)}, {with_interval(estimate(times[best]).within(0), 1)} epochs after the switch"
    if len(times) == 1:
        return f"{text}, the only one {factor.preposition} which a run collapsed"
    if min(map(len, times.values())) < 2:
        return f"{text} (how certain that is cannot be said where a level has one run)"
    return f"{text} (and in {percent(round(shape_over(onsets, factor.column).least_share, 3))} of samples drawn again from the seeds)"


def shape_text(onsets: pd.DataFrame, factor: Factor, value: str) -> str:
    """Which pairs of levels differ in `value`, beyond Tukey's simultaneous intervals; a single pair by its effect, as in the tables."""
    levels = by_level(onsets, factor, value)
    if len(levels) < 2:
        return f"{_WORDS[value]} is known at {counted(len(levels), 'level')}, which gives no shape"
    pairs = math.comb(sum(len(values) >= 2 for values in levels.values()), 2)
    if not pairs:
        order = factor.called(*sorted(levels, key=lambda level: levels[level].mean()))
        return f"the shape of {_WORDS[value]} is undecided ({ONE_RUN}; from least to greatest: {order})"
    curve = shape_over(onsets, factor.column, value)
    if pairs == 1:
        shape = _one_pair({level: values for level, values in levels.items() if len(values) >= 2}, reference(onsets, factor), factor)
    elif pd.api.types.is_numeric_dtype(onsets[factor.column]):
        shape = _ordered_shape(curve, pairs, {level: values.mean() for level, values in levels.items()}, factor)
    else:
        shape = _named_pairs(curve, pairs, factor)
    text = f"{_WORDS[value]} {shape}"
    if partly := [level for level in curve.censored if level in levels]:
        slow = "longer than these numbers say, since not all runs collapsed"
        text += f"; {factor.at(*partly)} it is {slow if value == 'since_switch' else 'that of the runs that collapsed alone'}"
    if value == "since_switch":
        if never := [level for level in curve.censored if level not in levels]:
            text += f"; {factor.at(*never)} no run collapsed"
    return text


def _one_pair(pair: dict[Any, pd.Series], base: Any, factor: Factor) -> str:
    """The effect of the one level against the other, `base` if it is one of them, with the scatter of each apart."""
    against, level = sorted(pair, key=lambda level: level != base)
    moved = relative_effect(pair[level], pair[against])
    verb = "differs" if moved.low > 0 or moved.high < 0 else "is not told apart"
    return f"{verb} in the one pair with several runs each: {effect(moved)} {factor.at(level)}, against {factor.called(against)}"


def _ordered_shape(curve: Curve, pairs: int, means: dict[Any, float], factor: Factor) -> str:
    """Of each kind of pairs how many there are, and the one that is furthest apart."""
    counts = []
    for verb, moved in (("rises", curve.rises), ("falls", curve.falls)):
        low, high = max(moved, key=lambda pair: abs(math.log(means[pair[1]] / means[pair[0]])), default=(None, None))
        counts.append(f"{verb} in {len(moved)}" + (f" (most from {factor.called(low)} to {factor.label(high)})" if moved else ""))
    kind = "has an undecided shape" if curve.shape == UNDECIDED else f"is {curve.shape}"
    return f"{kind}: of {counted(pairs, 'pair')} of levels it {listing(counts)}, beyond simultaneous 95 % intervals"


def _named_pairs(curve: Curve, pairs: int, factor: Factor) -> str:
    higher = [*((high, low) for low, high in curve.rises), *curve.falls]
    if not higher:
        return f"differs in none of {counted(pairs, 'pair')}, beyond simultaneous 95 % intervals"
    named = listing(f"with {factor.label(high)} than with {factor.label(low)}" for high, low in higher)
    return f"differs in {len(higher)} of {counted(pairs, 'pair')}, beyond simultaneous 95 % intervals: it is greater {named}"


def _largest_shift_text(onsets: pd.DataFrame, factor: Factor, value: str) -> str:
    """The largest effect on `value` against the reference, of the levels that collapsed: `+21 % [+15 %, +27 %] at depth 8`."""
    compared = _compared(onsets, factor, [value])
    known = compared.dropna(subset="mean")
    if known.empty:
        return "unknown, for want of a second level that collapsed"
    row = known.loc[known["mean"].abs().idxmax()]
    reserves = [] if math.isfinite(row["low"]) else ["one run on one side, no interval"]
    others = (known["at_least"] & (known["level"] != row["level"])).reindex(compared.index, fill_value=False)
    for which, words in ((others, "it may be larger"), (compared["n"] == 0, "no run collapsed")):
        if which.any():
            reserves.append(f"{factor.at(*compared.loc[which, 'level'])} {words}")
    return f"{row['text']} {factor.at(row['level'])}" + (f" ({'; '.join(reserves)})" if reserves else "")


def effect(value: Estimate) -> str:
    """`+21 % [+15 %, +27 %]`, without an interval where either side has one run."""
    return percent_with_interval(value, sign=True)


def _spread_text(onsets: pd.DataFrame, factor: Factor) -> str:
    """How far times and norms spread over the levels at which every run collapsed: the quick runs of the others are no sample of them."""
    complete = where_all_collapse(onsets, [factor.column])
    levels = sorted(set(complete[factor.column]))
    if len(levels) < 2:
        return "at fewer than two levels did every run collapse, so that there is no spread over them"
    spread = spread_over_conditions(complete, [factor.column])
    time, norm = (percent_with_interval(value) for value in (spread.onset, spread.norm))
    scatter = "the unknown scatter of seeds included" if math.isnan(spread.norm_within) else "less the scatter of seeds"
    moved = f"the time to collapse varies by {time} and fn* by {norm}"
    others = "; the others are not in it" if len(complete) < len(onsets) else ""
    return f"over {factor.called(*levels)}, where every run collapsed, {moved} (standard deviations of logarithms, {scatter}){others}"


def variation_text(onsets: pd.DataFrame, by: str) -> str:
    """The coefficient of variation of fn* over the levels of `by` and their seeds, with its interval and the number of runs."""
    variation = variation_over_conditions(onsets, [by])
    if variation.n < 2:
        return f"no coefficient of variation of fn* ({counted(variation.n, 'run')} collapsed)"
    return f"a coefficient of variation of fn* of {percent_with_interval(variation)} over {counted(variation.n, 'run')}"


def shift_rows(onsets: pd.DataFrame, factor: Factor) -> list[list[str]]:
    """Rows for a table: level, effect on the time from switch to collapse, effect on fn*, both against the reference.

    ≥ stands before a time where runs of the level, and none of the reference, did not collapse; such a bound has no interval.
    """
    rows: dict[Any, list[str]] = {}
    for row in _compared(onsets, factor, ["since_switch", "fn_star"]).to_dict("records"):
        rows.setdefault(row["level"], [factor.label(row["level"])]).append(row["text"])
    return list(rows.values())


def _compared(onsets: pd.DataFrame, factor: Factor, values: Sequence[str]) -> pd.DataFrame:
    """`shifts` against the reference, with the effect as text and whether it is only known to be at_least that large."""
    base = reference(onsets, factor)
    complete = not onsets.loc[onsets[factor.column] == base, "censored"].any()
    compared = shifts(onsets, {factor.column: base}, values)
    compared["at_least"] = (compared["value"] == "since_switch") & (compared["censored"] > 0) & (compared["n"] > 0) & complete
    compared["text"] = [
        f"≥ {percent(row['mean'], sign=True)}" if row["at_least"] else effect(column_estimate(row, ""))
        for row in compared.to_dict("records")
    ]
    return compared


def steps_text(onsets: pd.DataFrame, factor: Factor, value: str) -> str:
    """The effect of each step to the next level that collapsed: `from width 64 to 128: −25 % [−30 %, −19 %]`."""
    levels = by_level(onsets, factor, value)
    if len(levels) < 2:
        return "fewer than two levels collapsed"
    steps = [
        f"from {factor.called(low)} to {factor.label(high)}: {effect(relative_effect(levels[high], levels[low]))}"
        for low, high in itertools.pairwise(levels)
    ]
    return "; ".join(steps)


def range_text(onsets: pd.DataFrame, factor: Factor, value: str) -> str:
    """The greatest level over the least, by means of logarithms: `+21 % [+15 %, +27 %] (depth 8 over depth 3)`."""
    levels = by_level(onsets, factor, value)
    if len(levels) < 2:
        return "unknown, since fewer than two levels collapsed"
    most, least, logs = extremes({level: np.log(values) for level, values in levels.items()})
    apart = Estimate(*(math.expm1(part) for part in logs[:3]), logs.n)
    return f"{effect(apart)} ({factor.called(most)} over {factor.called(least)})"


# Depth: two thresholds, and where the norm goes


def threshold_rows(strict: pd.DataFrame, loose: pd.DataFrame, factor: Factor) -> list[list[str]]:
    """Rows for a table: level; runs that crossed and fn*, at the loose threshold and at the strict one; ratio of the norms within a run."""
    rows = []
    both = strict.merge(loose, on=["key", factor.column], suffixes=("_strict", "_loose"))
    for level, cell in both.groupby(factor.column):
        columns = []
        for which in ("loose", "strict"):
            crossed = (~cell[f"censored_{which}"]).sum()
            columns += [f"{crossed} of {len(cell)}", with_interval(estimate(cell[f"fn_star_{which}"]).within(0))]
        rows.append([factor.label(level), *columns, with_interval(estimate(cell["fn_star_loose"] / cell["fn_star_strict"]).within(0), 2)])
    return rows


def threshold_texts(strict: pd.DataFrame, loose: pd.DataFrame, factor: Factor) -> dict[str, str]:
    """fn* of the lowest level over that of the highest: mixed (loose threshold over strict), at_loose and at_strict (one for both)."""
    low, high = (choose(strict[factor.column]) for choose in (min, max))
    if low == high:
        return dict.fromkeys(("mixed", "at_loose", "at_strict"), f"unknown, with {factor.called(low)} alone")

    def apart(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
        left, right = (side.loc[side[factor.column] == level, "fn_star"].dropna() for side, level in ((ours, low), (theirs, high)))
        if left.empty or right.empty:
            return f"unknown, since no run collapsed {factor.at(low if left.empty else high)}"
        return f"{effect(relative_effect(left, right))} ({factor.called(low)} over {factor.called(high)})"

    return {"mixed": apart(loose, strict), "at_loose": apart(loose, loose), "at_strict": apart(strict, strict)}


def endings(table: pd.DataFrame, onsets: pd.DataFrame) -> pd.DataFrame:
    """`onsets` with what the phase after the switch came to; NaN where it has no finite record.

    Columns besides: nc1_least (the least NC1), norm_end (fn at the last record) and drift (its relative change over the `MARGIN` epochs
    before that; NaN in shorter phases).
    """
    rows = []
    for labels, path in trajectories(table):
        row = {"key": labels["key"], "nc1_least": math.nan, "norm_end": math.nan, "drift": math.nan}
        if len(path.epochs):
            row |= {"nc1_least": path.metric.min(), "norm_end": path.norm[-1], "drift": path.change_since(-MARGIN)}
        rows.append(row)
    return onsets.merge(pd.DataFrame(rows), on="key")


def ending_rows(ended: pd.DataFrame, factor: Factor) -> list[list[str]]:
    """Rows for a table: level, last epoch, fn there, fn* and the drift; `ended` as `endings` gives it."""
    rows = []
    for level, cell in ended.groupby(factor.column):
        last = sorted(set(cell["last_epoch"]))
        span = f"{last[0]}" if len(last) == 1 else f"{last[0]} to {last[-1]}"
        norms = [with_interval(estimate(cell[column]).within(0)) for column in ("fn_star", "norm_end")]
        rows.append([factor.label(level), span, *norms, percent_with_interval(estimate(cell["drift"]), sign=True)])
    return rows


def ending_texts(ended: pd.DataFrame, factor: Factor) -> dict[str, str]:
    """falling: at how many levels the norm still falls at the end; apart: the greatest norm at the end over the least."""
    drifts = {level: estimate(cell["drift"]) for level, cell in ended.groupby(factor.column)}
    known = {level: drift for level, drift in drifts.items() if drift.n >= 2}
    falling = [level for level, drift in known.items() if drift.high < 0]
    if not known:
        reason = ONE_RUN if ended["drift"].notna().any() else "the phase is too short"
        text = f"whether the norm has come to rest is undecided ({reason})"
    elif falling:
        text = f"{factor.at(*falling)} the norm was still falling when the runs ended (interval of the drift below 0)"
    else:
        text = f"at none of {counted(len(known), 'level')} does the interval of the drift lie below 0"
    return {"falling": text, "ends_apart": range_text(ended, factor, "norm_end")}


# Activation


def beside_rows(onsets: pd.DataFrame, factor: Factor, reported: dict[Any, float], value: str = "fn_star") -> list[list[str]]:
    """Rows for a table: level, a norm (by default fn*) with its coefficient of variation, the paper's fn* and the relative difference from
    it."""
    rows = []
    for level, cell in onsets.groupby(factor.column):
        norms, theirs = cell[value], reported.get(level, math.nan)
        mean = estimate(norms).within(0)
        apart = Estimate(*(value / theirs - 1 for value in mean[:3]), mean.n)
        variation = percent_with_interval(coefficient_of_variation(norms))
        rows.append([factor.label(level), with_interval(mean), variation, number(theirs, 2), percent_with_interval(apart, sign=True)])
    return rows


def order_text(onsets: pd.DataFrame, factor: Factor) -> str:
    """Whether the levels that collapse later also do so at a higher norm."""
    means = onsets.dropna(subset="fn_star").groupby(factor.column)[["since_switch", "fn_star"]].mean()
    if len(means) < 2:
        return "fewer than two levels collapsed, so that there is no order to compare"
    by_time, by_norm = (list(means.sort_values(column).index) for column in ("since_switch", "fn_star"))
    time, norm = (", ".join(map(factor.label, order)) for order in (by_time, by_norm))
    relation = "the same order" if by_time == by_norm else "the opposite order" if by_time == by_norm[::-1] else "another order"
    return f"from quick to slow: {time}; from low to high fn*: {norm}; {relation}"
