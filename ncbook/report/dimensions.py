"""What the feature dimension allows and what networks make of it: tables and words of the chapter on dimensions.

Measured values come from `analysis.seed_means` by feature_dim; what they are held against comes from `simplex`.
"""

import math

import pandas as pd

from ncbook import analysis, simplex
from ncbook.analysis import Estimate
from ncbook.data import Data
from ncbook.metrics import gram_floor
from ncbook.pages import MISSING, listing, number, percent, sign_text, with_article, with_interval

NC2, NC1 = "nc2_gram", "nc1_trace_ratio"
"""The report's forms; with a suffix _noisy or _clean they are columns."""


def with_references(means: pd.DataFrame, data: Data) -> pd.DataFrame:
    """The means by feature_dim, and what they are held against as further metrics without intervals:

    floor (the least NC2 that the dimension allows), random (NC2 of random class means), collapsed (NC1 on the noisy labels of features
    perfectly collapsed on the true ones).
    """
    collapsed = simplex.collapsed_nc1(data.y_clean, data.y_noisy, data.classes)
    rows = [
        (dim, metric, value)
        for dim in sorted(set(means["feature_dim"]))
        for metric, value in (
            ("floor", gram_floor(data.classes, dim)),
            ("random", simplex.random_distance(data.classes, dim)),
            ("collapsed", collapsed),
        )
    ]
    references = pd.DataFrame(rows, columns=["feature_dim", "metric", "mean"]).assign(low=math.nan, high=math.nan, n=0)
    return pd.concat([means, references], ignore_index=True)


def floors(distances: pd.DataFrame) -> pd.DataFrame:
    """The floor of `simplex.nearest_distances` as a metric in the form of `analysis.seed_means`, without intervals."""
    least = distances.drop_duplicates("feature_dim")[["feature_dim", "floor"]].rename(columns={"floor": "mean"})
    return least.assign(metric="floor", low=math.nan, high=math.nan, n=0)


def series(metric: str, **references: str) -> dict[str, str]:
    """A panel's series: the metric on both labelings, then the metrics of `references` under their labels."""
    return {f"{metric}_noisy": "etichette rumorose", f"{metric}_clean": "etichette pulite", **references}


def _at(means: pd.DataFrame, metric: str, dim: int) -> Estimate:
    rows = means[(means["metric"] == metric) & (means["feature_dim"] == dim)]
    return Estimate(*rows.iloc[0][list(Estimate._fields)]) if len(rows) else Estimate(math.nan, math.nan, math.nan, 0)


def nc2_rows(means: pd.DataFrame, points: pd.DataFrame, classes: int) -> list[list[str]]:
    """A row a dimension: d, NC2 on the noisy labels, its floor, the excess over it, NC2 on the clean labels, the report's NC2."""
    theirs = points[points["metric"] == f"{NC2}_noisy"].set_index("feature_dim")["value"]
    found = []
    for dim in sorted(set(means["feature_dim"])):
        floor = gram_floor(classes, dim)
        noisy, clean = (_at(means, f"{NC2}_{labels}", dim).within(floor) for labels in ("noisy", "clean"))
        excess = Estimate(noisy.mean - floor, noisy.low - floor, noisy.high - floor, noisy.n)
        report = number(theirs[dim], 2) if dim in theirs else MISSING
        measured = [with_interval(noisy, 2), number(floor, 2), with_interval(excess, 2), with_interval(clean, 2)]
        found.append([str(dim), *measured, report])
    return found


def _floor_step(classes: int, dim: int) -> str:
    """How far the geometric floor falls in the step to a dimension."""
    fall = gram_floor(classes, dim - 1) - gram_floor(classes, dim)
    return f"di {number(fall, 2)} da d = {dim - 1} a {dim}"


def permits_text(distances: pd.DataFrame, classes: int) -> str:
    """Which dimensions permit a simplex ETF according to the optimiser, beside what theory says; distances: `simplex.nearest_distances`."""
    permitted = sorted({int(dim) for dim in distances[distances["value"] < simplex.TOUCHES]["feature_dim"]})
    if not permitted:
        return "in nessuna delle dimensioni provate"
    expected = sorted({int(dim) for dim in distances["feature_dim"] if dim >= classes - 1})
    theory = f"tutte e sole quelle con d ≥ {classes - 1}" if permitted == expected else f"non esattamente quelle con d ≥ {classes - 1}"
    return f"con d = {listing(permitted)}: {theory}"


def drop_text(last: pd.DataFrame, metric: str, dim: int, classes: int) -> str:
    """How NC2 changes from `dim` − 1 to `dim`, seed by seed, beside how its floor does."""
    pairs = analysis.paired_differences(last, [metric], column="feature_dim", of=dim, minus=dim - 1, by=["width"])
    floor = gram_floor(classes, dim) - gram_floor(classes, dim - 1)
    if pairs.empty:
        return f"da d = {dim - 1} a d = {dim}: {MISSING} (il minimo geometrico: {number(floor, 2, sign=True)})"
    change = Estimate(*pairs.iloc[0][list(Estimate._fields)])
    words = f"da d = {dim - 1} a d = {dim}: {with_interval(change, 2, sign=True)}"
    return f"{words}, {sign_text(change)} (il minimo geometrico: {number(floor, 2, sign=True)})"


def below_text(means: pd.DataFrame, metric: str, reference: float) -> str:
    """At how many dimensions the mean of the metric lies below the reference: `3 su 8`, and at which, if at some only."""
    values = means[means["metric"] == metric].dropna(subset="mean").sort_values("feature_dim")
    below = [int(dim) for dim in values[values["mean"] < reference]["feature_dim"]]
    which = f" (d = {listing(below)})" if 0 < len(below) < len(values) else ""
    return f"{len(below)} su {len(values)}{which}"


def _power_above(value: float) -> str:
    """The least power of ten that is not below a positive value: `10⁻⁷`."""
    return "10" + str(math.ceil(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def texts(last: pd.DataFrame, means: pd.DataFrame, points: pd.DataFrame, distances: pd.DataFrame, data: Data) -> dict[str, str]:
    """The sentences of the chapter. last: `analysis.last_epoch`; means: of it by feature_dim; distances: `simplex.nearest_distances`."""
    classes = data.classes
    threshold = classes - 1
    flipped = float(data.flipped.double().mean())
    least_nc1 = simplex.least_collapsed_nc1(data.y_clean, data.y_noisy, classes)
    found = {
        "feature_dims": listing(sorted(set(last["feature_dim"]))),
        "threshold": str(threshold),
        "starts": str(distances["feature_dim"].value_counts().max()),
        "permits": permits_text(distances, classes),
        "floor_last_steps": listing(_floor_step(classes, dim) for dim in (threshold - 1, threshold)),
        "optimiser_gap": _power_above(float((distances["value"] - distances["floor"]).abs().max())),
        "flipped_count": number(int(data.flipped.sum()), 0),
        "flipped_share": with_article(percent(flipped)),
        "collapsed": number(simplex.collapsed_nc1(data.y_clean, data.y_noisy, classes)),
        "collapsed_least": number(least_nc1),
        "collapsed_closed": number(simplex.collapsed_nc1_closed(flipped, classes)),
        "nc1_below_least": below_text(means, f"{NC1}_noisy", least_nc1),
    }
    too_small = [dim for dim in sorted(set(means["feature_dim"])) if dim < threshold]
    found["floor_shares"] = (
        "; ".join(f"d = {dim}: {percent(gram_floor(classes, dim) / _at(means, f'{NC2}_noisy', dim).mean)}" for dim in too_small)
        or f"nessuna dimensione sotto {threshold}"
    )
    found["random_shares"] = (
        "; ".join(f"d = {dim}: {percent(gram_floor(classes, dim) / simplex.random_distance(classes, dim))}" for dim in too_small)
        or f"nessuna dimensione sotto {threshold}"
    )
    for labels in ("noisy", "clean"):
        metric = f"{NC2}_{labels}"
        found[f"drops_{labels}"] = "; ".join(drop_text(last, metric, dim, classes) for dim in (threshold, threshold + 1))
        found[f"at_threshold_{labels}"] = with_interval(_at(means, metric, threshold), 2)
        finite = means[means["metric"] == metric].dropna(subset="mean")
        least = finite.loc[finite["mean"].idxmin()] if len(finite) else None
        found[f"least_{labels}"] = f"{number(least['mean'], 2)} a d = {least['feature_dim']}" if least is not None else MISSING
    theirs = points[points["metric"] == f"{NC2}_noisy"].set_index("feature_dim")["value"]
    found["report_around"] = listing(f"{number(theirs[dim], 2)} a d = {dim}" for dim in sorted(theirs.index) if dim >= threshold - 1)
    found["random_at_threshold"] = number(simplex.random_distance(classes, threshold), 2)
    beside = analysis.beside_report(means, points).dropna(subset="difference")
    for metric, name in ((NC1, "nc1"), (NC2, "nc2")):
        difference = beside[beside["metric"] == f"{metric}_noisy"]["difference"]
        found[f"{name}_from_report"] = MISSING
        if len(difference):
            found[f"{name}_from_report"] = f"{number(difference.abs().median())} su {len(difference)} dimensioni"
    return found
