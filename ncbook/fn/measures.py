"""What the claims of the fn* paper are measured by, in the registry of `ncbook.measures`.

Runs under an intervention count only in `intervention_shift`. T_NC is the first crossing of NC1 below `THRESHOLD` unless said, fn* the
feature norm there, and times are counted from the switch. A run that never crossed has no fn*; where times are compared it counts with the
time for which it was observed, and as its own is longer, the interval has no end on that side. One whose features became one point ends
then, cannot collapse, and has no time.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ncbook.analysis import Estimate, estimate
from ncbook.evidence import Evidence
from ncbook.fn import predictor
from ncbook.fn.experiments import MARGIN, THRESHOLD
from ncbook.fn.intervention import norm_shifts
from ncbook.fn.onset import COLLAPSE, classify, groups, onsets, trajectories, where_all_collapse
from ncbook.fn.pages import name, power
from ncbook.fn.statistics import (
    extremes,
    interaction,
    relative_effect,
    shape_over,
    spread_over_conditions,
    variation_over_conditions,
)
from ncbook.measures import Cases, exact, measure, short

ARCHITECTURE = ("data", "subset", "model", "depth", "width", "activation")
"""What makes a (model, data set) pair."""
CONDITIONS = ("weight_decay", "lr", "batch_size", "optimizer", "momentum")
"""What training can vary within a pair."""
_NOTHING = estimate([])


def _standard(evidence: Evidence) -> pd.DataFrame:
    return evidence.table[evidence.table["factor"].isna()]


@functools.lru_cache(maxsize=4)
def _onsets(evidence: Evidence, threshold: float = THRESHOLD) -> pd.DataFrame:
    """`onset.onsets` of the runs without an intervention, since_switch as said above, and final_norm, that of the last record."""
    found = onsets(_standard(evidence), threshold)
    observed = found["last_epoch"] - found["switch"].astype(float)
    observed = observed.where(_waiting(found) & (observed > 0))
    final = [path.norm[-1] if len(path.norm) else math.nan for _, path in trajectories(_standard(evidence))]
    return found.assign(since_switch=found["since_switch"].fillna(observed), final_norm=final)


def _waiting(found: pd.DataFrame) -> pd.Series:
    """Which runs of `onset.onsets` could have crossed later: those that ended neither without finite norms nor at one point."""
    return found["censored"] & ~found["diverged"] & ~found["one_point"]


def _level(column: str, value: Any) -> str:
    if column == "weight_decay":
        return f"λ = {power(value)}"
    return name(value) if isinstance(value, str) else f"{column} {value:,}"


def _where(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    for column, value in where.items():
        table = table[(table[column] == value).fillna(False).astype(bool)]
    return table


# At the onset


@measure(low=0, unit="runs")
def at_onset(evidence: Evidence, value: str, where: Mapping[str, Any] | None = None, collapsing: str | None = None) -> Cases:
    """The mean of T_NC, since_switch, fn_star or final_norm over the runs with these values in the table's columns.

    collapsing: a column of which only the levels count at which every run collapses. Runs of a level resemble one another; the mean is then
    over levels, each counted once, and so is its interval.

    Where runs did not cross, the mean T_NC is no earlier than with their last records in place of it, and has no upper end: its interval
    begins at the earliest of all, so that it can only speak against an earlier T_NC.
    """
    where = where or {}
    label, runs = ", ".join(_level(column, level) for column, level in where.items()) or "all runs", _where(_onsets(evidence), where)
    if collapsing:
        runs = where_all_collapse(runs, [collapsing])
        return {label: estimate(runs.groupby(collapsing)[value].mean())._replace(n=len(runs))}
    waiting = _waiting(runs)
    if value == "T_NC" and waiting.any():
        observed = runs["T_NC"].fillna(runs["last_epoch"].where(waiting)).dropna()
        return {label: Estimate(float(observed.mean()), float(observed.min()), math.inf, len(observed))}
    return {label: estimate(runs[value])}


@measure(low=-1)
def relative(
    evidence: Evidence,
    value: str,
    column: str,
    pairs: Sequence[Sequence[Any]],
    thresholds: Sequence[float] = (THRESHOLD,),
    base_threshold: float | None = None,
) -> Cases:
    """`value` at the first level of `column` in each pair over that at the second, less 1.

    base_threshold: that of the second level's T_NC; None: the same as the first's. Without a value where neither level has a run that
    crosses, unless `value` is final_norm. Of since_switch the interval has no upper end where a run of the first level may cross later,
    no lower one where one of the second may.
    """
    cases = {}
    for threshold, (level, base) in itertools.product(thresholds, pairs):
        label = f"{_level(column, level)} v {_level(column, base)}"
        if len(thresholds) > 1 or base_threshold:
            label += f", NC1 < {threshold:g}" + (f" v {base_threshold:g}" if base_threshold else "")
        left = _where(_onsets(evidence, threshold), {column: level})
        right = _where(_onsets(evidence, base_threshold or threshold), {column: base})
        if left["censored"].all() and right["censored"].all() and value != "final_norm":
            cases[label] = _NOTHING
            continue
        mean, low, high, n = relative_effect(left[value], right[value])
        later, base_later = (value == "since_switch" and _waiting(side).any() for side in (left, right))
        cases[label] = Estimate(mean, -1 if base_later else low, math.inf if later else high, n)
    return cases


@measure()
def relative_size(evidence: Evidence, value: str, column: str, pairs: Sequence[Sequence[Any]], settled: float = math.inf) -> Cases:
    """As `relative`, but how large the effect is, whichever sign it has: of a negative one the opposite.

    settled: the most by which the norm of both levels may change over the last `MARGIN` epochs, relatively, as far as their intervals
    tell; without a value where it may change by more.
    """
    found = relative(evidence, value, column, pairs)
    drifts = norm_change(evidence, column, since=-MARGIN) if settled < math.inf else {}
    moving = {level for level, drift in drifts.items() if not max(-drift.low, drift.high) < settled}
    sizes = {case: Estimate(-one.mean, -one.high, -one.low, one.n) if one.mean < 0 else one for case, one in found.items()}
    return {case: size if moving.isdisjoint(case.split(" v ")) else _NOTHING for case, size in sizes.items()}


@measure(low=0, unit="runs")
def norm_variation(evidence: Evidence) -> Cases:
    """Coefficient of variation of fn* over the seeds and conditions of each pair of model and data set.

    Over the conditions under which every run collapses.
    """
    cases, table = {}, _onsets(evidence)
    whole = where_all_collapse(table, [*ARCHITECTURE, *CONDITIONS]).index
    varied = [column for column in ARCHITECTURE if column in ("data", "model") or table[column].nunique() > 1]
    for group, runs in table.groupby(list(ARCHITECTURE), dropna=False):
        levels = [(column, level) for column, level in zip(ARCHITECTURE, group) if column in varied and not pd.isna(level)]
        collapsed = runs[runs.index.isin(whole)]
        cases[" ".join(_level(*one) for one in levels)] = variation_over_conditions(collapsed, CONDITIONS)
    return cases


@measure(low=0, unit="conditions")
def condition_spread(evidence: Evidence, what: str) -> Cases:
    """How far conditions move fn*, as standard deviation of its log ("norm"), or that variance over the one of the time ("ratio").

    Over the conditions under which every run collapses; those under Adam, and, if there are others, those under every optimiser. Each set
    of images has cases of its own.
    """
    runs, cases = _onsets(evidence), {}
    sets = list(runs.groupby(["data", "subset"], dropna=False))
    for (images, _), of_set in sets:
        whole = where_all_collapse(of_set, CONDITIONS)
        adam = whole[whole["optimizer"] == "adam"]
        for optimizers, part in (("Adam", adam), ("all optimisers", whole if len(whole) > len(adam) else whole[:0])):
            case = optimizers if len(sets) == 1 else f"{name(images)}, {optimizers}"
            several = groups(part, CONDITIONS).nunique() > 1
            cases[case] = getattr(spread_over_conditions(part, CONDITIONS), what) if several else _NOTHING
    return cases


@measure()
def grid_interaction(evidence: Evidence, scale: str) -> Cases:
    """Difference of the differences of fn* over the grid from MLP and MNIST, on the "linear" or the "log" scale."""
    runs = _onsets(evidence)
    base = {"model": "mlp", "data": "mnist"}
    complete = all(runs[factor].nunique() == 2 and level in set(runs[factor]) for factor, level in base.items())
    if not complete:
        return {scale: _NOTHING}
    found = interaction(runs, base).set_index("scale").loc[scale]
    return {scale: Estimate(*found[list(Estimate._fields[:3])].astype(float), int(found["n"]))}


@measure(low=0)
def turns(evidence: Evidence, column: str, thresholds: Sequence[float]) -> Cases:
    """The fewer of the pairs of levels of `column` between which T_NC rises and of those between which it falls.

    Beyond simultaneous intervals; the interval reaches to how many there could be, were the undecided pairs to rise and fall as it suits.
    """
    cases = {}
    for threshold in thresholds:
        runs, case = _onsets(evidence, threshold), f"NC1 < {threshold:g}"
        cases[case] = _NOTHING
        if runs.dropna(subset="since_switch")[column].nunique() > 1:
            curve = shape_over(runs, column)
            rises, falls, others = len(curve.rises), len(curve.falls), len(curve.undecided)
            possible = min(rises + others, falls + others, (rises + falls + others) // 2)
            sure = min(rises, falls)
            cases[case] = Estimate(sure, sure, possible, int(runs.groupby(column).size().min()))
    return cases


@measure(low=0, high=1)
def collapsed(evidence: Evidence, column: str, levels: Sequence[Any]) -> Cases:
    """The share of runs at each level that fit their training labels and collapse; intervals after Clopper and Pearson."""
    runs = _onsets(evidence)
    hits = classify(runs) == COLLAPSE
    return {_level(column, level): _share(hits[_where(runs, {column: level}).index]) for level in levels}


def _share(hits: pd.Series) -> Estimate:
    """How often it is true, with the interval of Clopper and Pearson."""
    if hits.empty:
        return _NOTHING
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci()
    return Estimate(float(hits.mean()), interval.low, interval.high, len(hits))


@measure(low=0)
def onset_range(evidence: Evidence, column: str) -> Cases:
    """T_NC at the slowest less T_NC at the quickest of those levels of `column` at which every run collapses, in epochs."""
    whole = where_all_collapse(_onsets(evidence), [column])
    if whole[column].nunique() < 2:
        return {"slowest − quickest": _NOTHING}
    slowest, quickest, apart = extremes({level: runs["T_NC"] for level, runs in whole.groupby(column)})
    return {f"{_level(column, slowest)} − {_level(column, quickest)}": apart}


@measure(low=-1)
def intervention_shift(evidence: Evidence) -> Cases:
    """fn* of the scaled runs over that of the untouched ones, less 1, and so of one factor over another at the same epoch."""
    return norm_shifts(onsets(evidence.table, THRESHOLD)) or {"all": _NOTHING}


# Before the onset


@functools.lru_cache(maxsize=1)
def _predictions(evidence: Evidence) -> dict[str, pd.DataFrame]:
    """Of the runs that have sources, by what these may not share with the run."""
    table = _standard(evidence)
    cases = {"from other runs": ("key",), "from other conditions": CONDITIONS}
    if table["key"].nunique() < 2:
        return {}
    made = {case: predictor.predictions(table, THRESHOLD, leave_out=left_out, within=ARCHITECTURE) for case, left_out in cases.items()}
    return {case: found[found["sources"] > 0] for case, found in made.items()}


@measure(low=0, high=1, unit="runs")
def crossing_first(evidence: Evidence) -> Cases:
    """Share of the runs that collapse in which the norm crosses fn*, taken from other runs, before; interval after Clopper and Pearson."""
    cases = {}
    for case, found in _predictions(evidence).items():
        ahead = found[(found["predictor"] == predictor.FEATURE_NORM) & ~found["censored"]]["lead"] > 0
        if len(ahead):
            cases[case] = _share(ahead)
    return cases or {"from other runs": _NOTHING}


@measure(unit="runs")
def crossing_lead(evidence: Evidence) -> Cases:
    """Mean time from the norm's crossing of fn*, taken from other runs, to the collapse, over the runs that have both."""
    cases = {case: found[found["predictor"] == predictor.FEATURE_NORM]["lead"] for case, found in _predictions(evidence).items()}
    return {case: estimate(leads) for case, leads in cases.items()} or {"from other runs": _NOTHING}


@measure(low=0, unit="runs")
def prediction_miss(evidence: Evidence) -> Cases:
    """Mean absolute error of the T_NC predicted by the norm, as a share of the time from the switch to T_NC."""
    cases = {}
    for case, found in _predictions(evidence).items():
        own = found[(found["predictor"] == predictor.FEATURE_NORM) & ~found["censored"]]
        cases[case] = estimate(own["error"].abs() / own["since_switch"])
    return cases or {"from other runs": _NOTHING}


@measure(unit="runs")
def baseline_excess(evidence: Evidence) -> Cases:
    """How much larger the error of each baseline is than that of the norm, in epochs, over the runs that all of them speak about."""
    words = {predictor.MEAN_ONSET: "mean T_NC", predictor.EXTRAPOLATED: "extrapolated NC1"}
    cases = {}
    for case, found in _predictions(evidence).items():
        rows = predictor.errors(found).set_index("predictor") if len(found) else None
        for baseline, word in words.items():
            values = [rows.loc[baseline, f"worse_{field}"] for field in Estimate._fields] if rows is not None else _NOTHING
            cases[f"{word}, {case}"] = Estimate(*values)
    return cases or {"from other runs": _NOTHING}


# Along the run


@measure(low=-1)
def norm_change(evidence: Evidence, column: str, since: int) -> Cases:
    """Relative change of the norm until the run's last record, since `since` epochs after the switch; if negative, before that record.

    Without a value in runs that were not recorded then.
    """
    changes: dict[Any, list[float]] = {}
    for labels, path in trajectories(_standard(evidence).sort_values(column, kind="stable")):
        changes.setdefault(labels[column], []).append(path.change_since(path.start + since if since > 0 else since))
    return {_level(column, level): estimate(values) for level, values in changes.items()}


@measure(low=-1)
def change_to_onset(evidence: Evidence, metrics: Sequence[str], after: int) -> Cases:
    """Relative change of each metric from `after` epochs after the switch to T_NC, interpolated between records."""
    histories = {key: run.sort_values("epoch") for key, run in _standard(evidence).groupby("key")}
    runs = _onsets(evidence).dropna(subset="T_NC")
    cases = {}
    for metric in metrics:
        values = []
        for run in runs.to_dict("records"):
            history = histories[run["key"]].dropna(subset=metric)
            moments = (run["switch"] + after, run["T_NC"])
            start, end = np.interp(moments, history["epoch"].astype(float), history[metric].astype(float))
            values.append(end / start - 1 if moments[0] < moments[1] and start > 0 else math.nan)
        cases[short(metric).removesuffix(" clean")] = estimate(values)
    return cases


@measure(low=0)
def first_fit(evidence: Evidence, error: float) -> Cases:
    """The first recorded epoch at which the training error is at most `error`."""
    fitting = _standard(evidence)[lambda table: table["train_error"] <= error]
    return {"all runs": estimate(fitting.groupby("key")["epoch"].min())}


@measure(low=0)
def norm_at(evidence: Evidence, epoch: int) -> Cases:
    """The feature norm at a recorded epoch."""
    table = _standard(evidence)
    return {f"epoch {epoch}": estimate(table[table["epoch"] == epoch]["feature_norm"])}


# Arithmetic


@measure(low=-1)
def implied_effect(evidence: Evidence, value: Sequence[float], over: Sequence[float]) -> Cases:
    """A number over another, less 1; both as the interval that its rounding leaves, and so the result. It rests on no run."""
    ends = sorted(a / b - 1 for a, b in itertools.product(value, over))
    return {"reported numbers": Estimate(sum(value) / sum(over) - 1, ends[0], ends[-1], 0)}


@measure()
def common_base(evidence: Evidence, values: Sequence[Sequence[float]], effects: Sequence[Sequence[float]]) -> Cases:
    """How wide the range of bases is over which each of the values has its effect; below 0, the gap. All are intervals of rounding."""
    low = max(value[0] / (1 + effect[1]) for value, effect in zip(values, effects, strict=True))
    high = min(value[1] / (1 + effect[0]) for value, effect in zip(values, effects, strict=True))
    return {"reported numbers": exact(high - low)}


@measure(low=0)
def least_extreme(evidence: Evidence, n: int) -> Cases:
    """Of n values, how many sample standard deviations the furthest lies from their mean at the least.

    With sum 0 and all within ± m the sum of squares is greatest where as many as can lie at either end, one at 0 if n is odd.
    """
    return {f"{n} values": exact(math.sqrt((n - 1) / (n - n % 2)))}


@measure(low=0)
def student_half_width(evidence: Evidence, mean: float, variation: float, n: int) -> Cases:
    """Half the width of the 95 % interval of a mean of n values with this coefficient of variation, after Student."""
    return {f"{n} values": exact(float(stats.t.ppf(0.975, n - 1) * mean * variation / math.sqrt(n)))}
