"""What part two asks of groups of runs: spread, differences, equivalence, interaction, monotonicity.

Values are one a run, such as the columns of `onset.onsets`; NaN (censored runs) are left out, and the number that is left stands in each
result. Where a group has fewer than two values the interval is NaN, as in `analysis.estimate`: one seed still gives a point.
Where an `Estimate` is not of a mean, its field `mean` holds the value.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ncbook.analysis import Estimate
from ncbook.fn.onset import groups, require

EQUIVALENT, DIFFERENT, UNDECIDED = ("equivalent", "different", "undecided")
RISING, FALLING, NON_MONOTONIC = ("rising", "falling", "non-monotonic")
_LEVEL = 0.05
_TINY = np.finfo(float).tiny
_RESAMPLES = 10_000


class Equivalence(NamedTuple):
    """A difference test beside an equivalence test."""

    difference: Estimate
    """With its 95 % interval; n is the number of the smaller group."""
    margin: float
    p_difference: float
    p_equivalence: float
    verdict: str


class Spread(NamedTuple):
    """How far conditions move the onset and the norm at the onset, as standard deviations of logs (0.1: by about 10 %)."""

    onset: Estimate
    norm: Estimate
    ratio: Estimate
    """norm / onset, of the variances: near 0 if conditions change the rate but not fn*."""
    onset_within: float
    """The same among the seeds of one condition; NaN with one seed each."""
    norm_within: float
    runs: int
    censored: int


class Curve(NamedTuple):
    """The shape of a quantity over an ordered factor."""

    shape: str
    rises: tuple[tuple[Any, Any], ...]
    """Pairs of levels, lower first, between which it rises beyond the simultaneous intervals."""
    falls: tuple[tuple[Any, Any], ...]
    undecided: tuple[tuple[Any, Any], ...]
    """The other pairs, among them those with a level of one run."""
    least: Any
    """The level with the least mean."""
    least_share: float
    """The share of bootstrap samples in which that level is the least."""
    censored: tuple[Any, ...]
    """Levels with runs that never crossed: their means are too low."""


class _Contrast(NamedTuple):
    value: float
    error: float
    freedom: float

    def estimate(self, n: int) -> Estimate:
        half = float(stats.t.ppf(0.975, self.freedom) * self.error)
        return Estimate(self.value, self.value - half, self.value + half, n)

    def p_beyond(self, value: float) -> float:
        """One-sided p value against a true contrast of at most `value`. A sample without spread decides with p = 0 or 1."""
        return float(stats.t.sf((self.value - value) / np.maximum(self.error, _TINY), self.freedom))

    def p_zero(self) -> float:
        return float(2 * stats.t.sf(abs(self.value) / np.maximum(self.error, _TINY), self.freedom))


def _finite(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return values[np.isfinite(values)]


def _positive(values: Sequence[float]) -> np.ndarray:
    if (finite := _finite(values)).size and finite.min() <= 0:
        raise ValueError(f"The value {finite.min():g} has no logarithm and no relative size: give positive values.")
    return finite


def _contrast(samples: Sequence[np.ndarray], weights: Sequence[float]) -> _Contrast:
    """Σ weight · mean of independent samples, with Welch's standard error and Satterthwaite's degrees of freedom."""
    value = sum(weight * sample.mean() if len(sample) else math.nan for sample, weight in zip(samples, weights))
    if min(map(len, samples)) < 2:
        return _Contrast(float(value), math.nan, math.nan)
    parts = [weight**2 * sample.var(ddof=1) / len(sample) for sample, weight in zip(samples, weights)]
    shares = [part / max(sum(parts), _TINY) for part in parts]
    scatter = sum(share**2 / (len(sample) - 1) for share, sample in zip(shares, samples))
    freedom = 1 / scatter if scatter > 0 else sum(map(len, samples)) - len(samples)
    return _Contrast(float(value), math.sqrt(sum(parts)), float(freedom))


def coefficient_of_variation(values: Sequence[float]) -> Estimate:
    """Sample standard deviation (n − 1) over the mean, with the modified McKay interval of Vangel (1996).

    The American Statistician 50, 21-26: for roughly normal values with a coefficient below a third; `high` is infinite where the sample
    sets no bound.
    Raises `ValueError` for values that are not positive.
    """
    sample = _positive(values)
    n = len(sample)
    if n < 2:
        return Estimate(math.nan, math.nan, math.nan, n)
    cv = float(sample.std(ddof=1) / sample.mean())
    bounds = []
    for probability in (0.975, 0.025):
        u = stats.chi2.ppf(probability, n - 1)
        square = ((u + 2) / n - 1) * cv**2 + u / (n - 1)
        bounds.append(float(cv / math.sqrt(square)) if square > 0 else math.inf)
    return Estimate(cv, *bounds, n)


def difference(values: Sequence[float], against: Sequence[float]) -> Estimate:
    """Mean of `values` minus mean of `against`, with Welch's t interval; n is the smaller number."""
    samples = [_finite(values), _finite(against)]
    return _contrast(samples, (1, -1)).estimate(min(map(len, samples)))


def relative_effect(values: Sequence[float], against: Sequence[float]) -> Estimate:
    """Mean of `values` over mean of `against`, minus 1 (0.43: 43 % above); n is the smaller number.

    The interval comes from the delta method on the logarithm of the ratio, with Welch's degrees of freedom, so that it cannot reach below
    −1. Raises `ValueError` for values that are not positive.
    """
    samples = [_positive(values), _positive(against)]
    n = min(map(len, samples))
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    means = [sample.mean() for sample in samples]
    log = _contrast([sample / mean for sample, mean in zip(samples, means)], (1, -1))._replace(value=math.log(means[0] / means[1]))
    mean, low, high, _ = log.estimate(n)
    return Estimate(math.expm1(mean), math.expm1(low), math.expm1(high), n)


def equivalence(values: Sequence[float], against: Sequence[float], margin: float) -> Equivalence:
    """Are the means of `values` and `against`, independent groups, the same to within ± `margin`, in their unit?

    Two one-sided t tests after Welch (Schuirmann 1987) ask for equivalence, a two-sided one for a difference. The verdict is "equivalent"
    where the former has p < 0.05, even if there is a difference, since that is then within the margin; else "different" where the latter
    has; else "undecided". A large p_difference alone is no sign of equivalence. Raises `ValueError` for a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin} leaves no room for equivalence: give a positive number.")
    samples = [_finite(values), _finite(against)]
    contrast = _contrast(samples, (1, -1))
    p_difference = contrast.p_zero()
    p_equivalence = float(np.maximum(contrast.p_beyond(-margin), contrast._replace(value=-contrast.value).p_beyond(-margin)))
    verdict = EQUIVALENT if p_equivalence < _LEVEL else DIFFERENT if p_difference < _LEVEL else UNDECIDED
    return Equivalence(contrast.estimate(min(map(len, samples))), float(margin), p_difference, p_equivalence, verdict)


def intervention_effects(
    onsets: pd.DataFrame, margin: float, value: str = "fn_star", by: Sequence[str] = ("target", "factor_epoch", "factor")
) -> pd.DataFrame:
    """`equivalence` of the runs under each intervention and the runs without one (factor missing), which differ in nothing else.

    Runs of one seed are no pairs: they part ways before they are scaled, as rounding differs with the stack in which a run was trained.
    `margin` is a share of the mean of `value` in the untouched runs. A run that collapsed before the scaling says nothing about it and is
    left out, be it scaled later or untouched. Columns: `by`, runs, censored, too_late (so left out), difference_* (mean, low, high, n), margin (in the unit
    of `value`), p_difference, p_equivalence, verdict.
    Raises `ValueError` where no untouched run crossed, and as `equivalence` does.
    """
    require(onsets, [*by, "factor", "factor_epoch", "T_NC", "censored", value])
    untouched = onsets[onsets["factor"].isna()]
    if untouched[value].dropna().empty:
        raise ValueError(f"No run without an intervention has a {value}: add the same runs without one.")
    rows = []
    for group, runs in onsets[onsets["factor"].notna()].groupby(list(by), dropna=False):
        epoch = float(runs["factor_epoch"].iloc[0])
        too_late, before = ((part["T_NC"] <= epoch).to_numpy() for part in (runs, untouched))
        found = equivalence(runs[~too_late][value], untouched[~before][value], margin * untouched[value].mean())
        counts = {"runs": len(runs), "censored": int(runs["censored"].sum()), "too_late": int(too_late.sum())}
        effect = {f"difference_{name}": part for name, part in found.difference._asdict().items()}
        rows.append({**dict(zip(by, group)), **counts, **effect, **dict(zip(Equivalence._fields[1:], found[1:]))})
    return pd.DataFrame(rows)


def interaction(onsets: pd.DataFrame, base: Mapping[str, Any], value: str = "fn_star") -> pd.DataFrame:
    """Do two factors of two levels act on `value` independently? `base` names both and the level of each that the effects start from.

    Returns two rows, scale "linear" (effects that add) and "log" (that multiply), with the columns mean, low, high, n and p of the
    interaction, the difference of differences of the four means, after Welch; n is the smallest cell. additive: what the fourth cell
    would be without interaction; observed: what it is (both in the unit of `value`; for "log" the geometric mean).
    Raises `ValueError` unless there are two factors of two levels, and for values that are not positive.
    """
    require(onsets, [*base, value])
    away = [onsets[factor] != level for factor, level in base.items()]
    if len(base) != 2 or any(onsets[factor].nunique() != 2 or moved.all() for factor, moved in zip(base, away)):
        seen = "; ".join(f"{factor}: {', '.join(map(str, onsets[factor].unique()))}" for factor in base)
        raise ValueError(f"base={dict(base)} and a table with {seen} are no grid of two by two: give two factors of two levels each.")
    cells = [_positive(onsets[(away[0] == row) & (away[1] == column)][value]) for row, column in ((1, 1), (1, 0), (0, 1), (0, 0))]
    found = []
    for scale, into, back in (("linear", np.asarray, float), ("log", np.log, math.exp)):
        contrast = _contrast([into(cell) for cell in cells], (1, -1, -1, 1))
        observed = _contrast([into(cells[0])], (1,)).value
        estimate = contrast.estimate(min(map(len, cells)))._asdict()
        found.append(
            {"scale": scale, **estimate, "p": contrast.p_zero(), "additive": back(observed - contrast.value), "observed": back(observed)}
        )
    return pd.DataFrame(found)


def shifts(onsets: pd.DataFrame, base: Mapping[str, Any], values: Sequence[str] = ("since_switch", "fn_star")) -> pd.DataFrame:
    """How far each factor moves each of `values`, one factor at a time, by `relative_effect` against the runs at `base`.

    `base` gives every factor's level there; a level of one factor is seen with all others at base. Factors that move together (an
    optimiser and its learning rate) belong into one column. Columns: factor, level, value, mean, low, high, n, runs, censored.
    Raises `ValueError` where no run stands at base.
    """
    require(onsets, [*base, "censored", *values])
    at_base = pd.DataFrame({factor: onsets[factor] == level for factor, level in base.items()}).fillna(False).astype(bool)
    origin = onsets[at_base.all(axis=1)]
    if origin.empty:
        raise ValueError(f"No run stands at base={dict(base)}: give levels that the table has together.")
    rows = []
    for factor in base:
        moved = onsets[at_base.drop(columns=factor).all(axis=1) & ~at_base[factor]]
        for level, runs in moved.groupby(factor):
            for value in values:
                effect = relative_effect(runs[value], origin[value])._asdict()
                counts = {"runs": len(runs), "censored": int(runs["censored"].sum())}
                rows.append({"factor": factor, "level": level, "value": value, **effect, **counts})
    return pd.DataFrame(rows, columns=["factor", "level", "value", *Estimate._fields, "runs", "censored"])


def spread_over_conditions(onsets: pd.DataFrame, by: Sequence[str]) -> Spread:
    """Between-condition spread of log since_switch and of log fn_star, a condition being a combination of `by`; only runs that crossed.

    The spread is that of the condition means less what the scatter of seeds alone adds to it (one-way random effects, at least 0), so that
    conditions which change nothing come out near 0. Intervals: generalised, from the chi-squared distributions of both mean squares
    (Weerahandi 1993, "Generalized confidence intervals", Journal of the American Statistical Association 88, 899-905; unequal numbers of
    seeds after Thomas and Hultquist 1978, Annals of Statistics 6, 582-587), drawn with a fixed seed. The two quantities are drawn
    independently, which makes the interval of `ratio` too wide rather than too narrow where they go together. NaN below three conditions.
    The n of the estimates is the number of conditions. Raises `ValueError` for fewer than two conditions.
    """
    require(onsets, [*by, "since_switch", "fn_star", "censored"])
    crossed = onsets[~onsets["censored"]]
    condition = groups(crossed, by)
    if (n := condition.nunique()) < 2:
        raise ValueError(f"Runs of {n} condition crossed the threshold: a spread over {', '.join(by)} needs two.")
    rng = np.random.default_rng(0)
    (onset, onset_seeds), (norm, norm_seeds) = (_components(crossed[column], condition, rng) for column in ("since_switch", "fn_star"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = norm / onset
    sampled = [_sampled(np.sqrt(onset), n), _sampled(np.sqrt(norm), n), _sampled(ratio, n)]
    within = [math.sqrt(seeds[0]) for seeds in (onset_seeds, norm_seeds)]
    return Spread(*sampled, *within, runs=len(onsets), censored=int(onsets["censored"].sum()))


def variation_over_conditions(onsets: pd.DataFrame, by: Sequence[str]) -> Estimate:
    """Coefficient of variation of fn_star, of a run with any seed under any condition, a condition being a combination of `by`.

    Seeds of one condition resemble one another and are no independent draws of a common value: the variances between and within conditions
    are estimated, and their generalised interval drawn, as in `spread_over_conditions`, and their sum s² gives √(exp(s²) − 1), the
    coefficient of a log-normal quantity. Under one condition it is `coefficient_of_variation`, under two it has no interval. Only runs that
    crossed count; n is their number. Raises `ValueError` for values that are not positive.
    """
    crossed = onsets.dropna(subset="fn_star")
    condition = groups(crossed, by)
    if (conditions := condition.nunique()) < 2:
        return coefficient_of_variation(crossed["fn_star"])
    between, seeds = _components(crossed["fn_star"], condition, np.random.default_rng(0))
    with np.errstate(over="ignore"):
        variation = np.sqrt(np.expm1(between + np.nan_to_num(seeds)))
    return _sampled(variation, conditions)._replace(n=len(crossed))


def _components(values: pd.Series, condition: pd.Series, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The variances of the logarithm between conditions and among the seeds of one: the estimate, then draws of what each may be as well.

    The latter is NaN with one seed each.
    """
    logs = pd.Series(np.log(_positive(values)), index=values.index).groupby(condition)
    sizes = logs.size()
    freedom = int((sizes - 1).sum())
    seeds = float(((sizes - 1) * logs.var(ddof=1).fillna(0)).sum() / freedom) if freedom else math.nan
    means, share = float(logs.mean().var(ddof=1)), float((1 / sizes).mean())
    means_drawn = means * _drawn(rng, len(sizes) - 1)
    within = seeds * np.append(1, _drawn(rng, max(freedom, 1)))
    return np.maximum(np.append(means, means_drawn) - share * np.nan_to_num(within), 0), within


def _drawn(rng: np.random.Generator, freedom: int) -> np.ndarray:
    """What a mean square with these degrees of freedom may have to be multiplied by to be what it estimates."""
    return freedom / rng.chisquare(freedom, _RESAMPLES)


def _sampled(values: np.ndarray, n: int) -> Estimate:
    """The first value, with the percentile interval of the others."""
    known = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(known, (2.5, 97.5), method="nearest") if n >= 3 and len(known) else (math.nan, math.nan)
    return Estimate(float(values[0]), float(low), float(high), n)


def _simultaneous_error(samples: Sequence[np.ndarray], levels: int) -> float:
    """Half of Tukey's interval for a pair out of so many levels, but for √(1/n₁ + 1/n₂); infinite without scatter to estimate it from."""
    freedom = sum(len(sample) - 1 for sample in samples)
    if not freedom:
        return math.inf
    variance = sum(sample.var(ddof=1) * (len(sample) - 1) for sample in samples) / freedom
    return float(stats.studentized_range.ppf(0.95, levels, freedom) * math.sqrt(variance / 2))


def extremes(samples: Mapping[Any, Sequence[float]]) -> tuple[Any, Any, Estimate]:
    """The levels with the greatest and with the least mean, and by how much these differ.

    As the two are chosen among all, the interval is that of Tukey and Kramer, simultaneous over all pairs, the scatter taken to be equal.
    Raises `ValueError` for fewer than two levels with a value.
    """
    finite = {level: sample for level, values in samples.items() if len(sample := _finite(values))}
    if len(finite) < 2:
        raise ValueError(f"Values are known at {len(finite)} level: a difference between levels needs two.")
    most, least = (choose(finite, key=lambda level: finite[level].mean()) for choose in (max, min))
    upper, lower = finite[most], finite[least]
    half = _simultaneous_error(list(finite.values()), len(finite)) * math.sqrt(1 / len(upper) + 1 / len(lower))
    apart, n = float(upper.mean() - lower.mean()), min(len(upper), len(lower))
    return most, least, Estimate(apart, apart - half, apart + half, n) if math.isfinite(half) else Estimate(apart, math.nan, math.nan, n)


def shape_over(onsets: pd.DataFrame, factor: str, value: str = "since_switch") -> Curve:
    """Whether `value` rises, falls or does both over the sorted levels of `factor`, and where it is least.

    Every pair of levels is compared in logs by the honestly significant difference of Tukey and Kramer: simultaneous 95 % intervals, the
    relative scatter taken to be equal and estimated from the levels at which every run crossed, since that of the quick ones of a level,
    or of times for which runs were observed, is too small. A time of a level with runs that never crossed is longer than it looks: from
    there no rise, and to there no fall, is shown. A pair that rises and a pair that falls make the curve "non-monotonic", only the one
    kind "rising" or "falling", none "undecided". The bootstrap draws seeds within each level, with a fixed seed.
    Raises `ValueError` for fewer than two levels with a value, and for values that are not positive.
    """
    require(onsets, [factor, value, "censored"])
    samples = {level: logs for level, runs in onsets.groupby(factor) if len(logs := np.log(_positive(runs[value])))}
    if len(samples) < 2:
        raise ValueError(f"{value} is known at {len(samples)} level of {factor}: a shape needs at least two.")
    censored = tuple(level for level, runs in onsets.groupby(factor) if runs["censored"].any())
    bounds = censored if value in ("T_NC", "since_switch") else ()
    several = {level for level, logs in samples.items() if len(logs) >= 2}
    error = _simultaneous_error([samples[level] for level in several.difference(censored)], len(several))
    rises, falls, undecided = [], [], []
    for pair in itertools.combinations(samples, 2):
        lower, upper = (samples[level] for level in pair)
        half = error * math.sqrt(1 / len(lower) + 1 / len(upper)) if several.issuperset(pair) else math.inf
        moved = upper.mean() - lower.mean()
        rose, fell = moved > half and pair[0] not in bounds, moved < -half and pair[1] not in bounds
        (rises if rose else falls if fell else undecided).append(pair)
    shape = NON_MONOTONIC if rises and falls else RISING if rises else FALLING if falls else UNDECIDED
    rng = np.random.default_rng(0)
    drawn = [np.exp(logs)[rng.integers(len(logs), size=(_RESAMPLES, len(logs)))].mean(axis=1) for logs in samples.values()]
    least = int(np.argmin([np.exp(logs).mean() for logs in samples.values()]))
    share = float((np.argmin(drawn, axis=0) == least).mean())
    return Curve(shape, tuple(rises), tuple(falls), tuple(undecided), list(samples)[least], share, censored)
