"""What the claims of the report are measured by, in the registry of `ncbook.measures`."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from ncbook import analysis, data, metrics, models, representations, simplex
from ncbook.analysis import CURVE, Estimate, estimate
from ncbook.evidence import PROBE_POINTS, Evidence
from ncbook.measures import Cases, exact, measure, short
from ncbook.plots import name
from ncbook.report import epochwise
from ncbook.spec import DataSpec, ModelSpec

# Over the widths


def _curves(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame]]:
    for (model, optimizer), curve in evidence.last.groupby(CURVE):
        yield f"{name(model)} {name(optimizer)}", curve


def _by_seed(curve: pd.DataFrame, metric: str, by: str = "width") -> pd.DataFrame:
    """`metric` with a row for each width (or other column), ascending, and a column for each seed."""
    return curve.pivot_table(index=by, columns="seed", values=metric, dropna=False).sort_index()


def _peak(curve: pd.DataFrame) -> dict | None:
    found = analysis.peaks(curve)
    return None if found.empty else found.iloc[0].to_dict()


@measure()
def peak_rise(evidence: Evidence) -> Cases:
    """How far the interior peak of the test error stands over the minimum before it; exactly 0 where a curve has no interior peak."""
    cases = {}
    for case, curve in _curves(evidence):
        peak = _peak(curve)
        cases[case] = Estimate(*(peak[f"rise_{f}"] for f in Estimate._fields)) if peak else Estimate(0.0, 0.0, 0.0, curve["seed"].nunique())
    return cases


@measure(low=0)
def peak_position(evidence: Evidence, column: str) -> Cases:
    """Where single seeds have the interior peak of their test error, in `column` ("parameters" or "width"): geometric mean and interval.

    No interval where a seed has no peak.
    """
    cases = {}
    for case, curve in _curves(evidence):
        seeds = [_peak(one) for _, one in curve.groupby("seed")]
        logs = estimate([math.log(peak[column]) for peak in seeds if peak])
        found = Estimate(*(math.exp(value) for value in logs[:3]), logs.n)
        cases[case] = found if all(seeds) else found._replace(low=math.nan, high=math.nan)
    return cases


@measure()
def widest_minus(evidence: Evidence, what: str) -> Cases:
    """The test error at the greatest width minus that at the interior peak ("peak") or at the minimum before it ("minimum")."""
    place = {"peak": "top", "minimum": "before"}[what]
    return {
        case: estimate([values[-1] - values[getattr(at, place)] for values, at in _at_peaks(curve, "test_error")])
        for case, curve in _curves(evidence)
    }


def _at_peaks(curve: pd.DataFrame, metric: str) -> list[tuple[np.ndarray, analysis.Peak]]:
    """Each seed's `metric` over the widths, and where the other seeds' test error has its interior peak; without seeds that have none."""
    found = analysis.held_out_peaks(_by_seed(curve, "test_error"))
    return [(values, at) for values, at in zip(_by_seed(curve, metric).to_numpy().T, found) if at]


@measure()
def sgd_minus_adam(evidence: Evidence, metrics: list[str], from_width: int) -> Cases:
    """Each metric under SGD minus the same under Adam, seed by seed, averaged over the widths from `from_width` on."""
    cases = {}
    for (model, of_model), metric in itertools.product(evidence.last.groupby("model"), metrics):
        wide = of_model[of_model["width"] >= from_width].pivot_table(index=["seed", "width"], columns="optimizer", values=metric)
        both = {"sgd", "adam"} <= set(wide.columns)
        differences = (wide["sgd"] - wide["adam"]).groupby("seed").mean() if both else []
        cases[f"{name(model)} {short(metric)}"] = estimate(differences)
    return cases


@measure(low=-1, high=1)
def correlation(evidence: Evidence, metrics: list[str], kind: str = "pearson", train_error_below: float | None = None) -> Cases:
    """Correlation of test error and metric over the widths, seed by seed.

    With `train_error_below`, over those widths alone whose training error, in the mean over seeds, is less.
    """
    cases = {}
    for (case, curve), metric in itertools.product(_curves(evidence), metrics):
        if train_error_below is not None:
            curve = curve[curve.groupby("width")["train_error"].transform("mean") < train_error_below]
        values = [_correlation(one["test_error"], one[metric], kind) for _, one in curve.groupby("seed")]
        cases[f"{case} {short(metric)}"] = estimate(values)
    return cases


def _correlation(errors: pd.Series, metric: pd.Series, kind: str) -> float:
    """Of two columns over the widths; NaN for fewer than four widths, or where one of them is constant."""
    both = pd.concat([errors, metric], axis=1).dropna()
    if kind == "spearman":
        both = both.rank()
    constant = (both.max() == both.min()).any()
    return math.nan if len(both) < 4 or constant else float(np.corrcoef(both.to_numpy().T)[0, 1])


@measure()
def at_error_peak_minus(evidence: Evidence, metrics: list[str], side: str) -> Cases:
    """Each metric where the test error peaks minus the same where the error has its minimum before ("before") or after it ("after")."""
    cases = {}
    for (case, curve), metric in itertools.product(_curves(evidence), metrics):
        cases[f"{case} {short(metric)}"] = estimate([values[at.top] - values[getattr(at, side)] for values, at in _at_peaks(curve, metric)])
    return cases


@measure(low=0)
def at_width(evidence: Evidence, metrics: list[str], width: int) -> Cases:
    """Each metric at `width` after the last epoch."""
    there = [(case, curve[curve["width"] == width]) for case, curve in _curves(evidence)]
    return {f"{case} {short(metric)}": estimate(curve[metric]) for (case, curve), metric in itertools.product(there, metrics)}


@measure(low=0)
def nc2_against_random(evidence: Evidence, width: int) -> Cases:
    """The report's NC2 at `width` on noisy labels, divided by its mean over random class means in as many dimensions."""
    cases = {}
    for case, curve in _curves(evidence):
        dim = width * (2 if curve["model"].iloc[0] == "cnn1d" else 1)
        random = simplex.random_distance(evidence.data.classes, dim)
        cases[case] = estimate(curve[curve["width"] == width]["nc2_gram_noisy"] / random)
    return cases


@measure(low=0, high=1, unit="draws")
def wrong_labels(evidence: Evidence, draws: int = 20) -> Cases:
    """The share of training labels that the noise makes wrong, over several draws of it."""
    spec = DataSpec()
    mnist1d = data.load(spec)
    clean = mnist1d.y_clean.numpy()
    noisy = [data.noisy_labels(clean, spec.label_noise, mnist1d.classes, seed) for seed in range(draws)]
    return {"MNIST-1D": estimate([float((labels != clean).mean()) for labels in noisy])}


# Over the epochs


def _histories(evidence: Evidence, width: int) -> dict[int, pd.DataFrame]:
    """Seed -> the recorded epochs of its network of that width, as index."""
    mine = evidence.table[evidence.table["width"] == width]
    return {seed: history.set_index("epoch").sort_index() for seed, history in mine.groupby("seed")}


@measure()
def fluctuation_difference(evidence: Evidence, critical: int, large: int, from_epoch: int) -> Cases:
    """How much more the test error of one width oscillates than that of another, in each window of epochs from `from_epoch` on.

    By the wobble of `epochwise.spreads`, which a steady rise or fall hardly moves.
    """
    later = evidence.table[evidence.table["epoch"] >= from_epoch]
    spreads = epochwise.spreads(later)
    found = analysis.paired_differences(spreads, ["wobble"], column="width", of=critical, minus=large, by=["epoch", "window"])
    return {row.window.replace(".", ","): Estimate(row.mean, row.low, row.high, row.n) for row in found.itertuples()}


def _reaches(accuracy: pd.Series, level: float) -> float:
    """The first recorded epoch at which an accuracy is at least `level`; NaN where it never is."""
    reached = accuracy.index[accuracy >= level]
    return float(reached[0]) if len(reached) else math.nan


@measure()
def memorisation_delay(evidence: Evidence, width: int, level: float) -> Cases:
    """Decades between the epoch when a share `level` of the unflipped points is learnt and when as much of the flipped is memorised."""
    delays = [
        math.log10(_reaches(h["accuracy_flipped"], level)) - math.log10(_reaches(h["accuracy_unflipped"], level))
        for h in _histories(evidence, width).values()
    ]
    return {f"W = {width}": estimate(delays)}


@measure(low=-1, high=1)
def truth_before_noise(evidence: Evidence, width: int, level: float) -> Cases:
    """Once a share `level` of the unflipped points is learnt: share of flipped points given their true label minus that given the noisy."""
    values = []
    for history in _histories(evidence, width).values():
        if math.isfinite(epoch := _reaches(history["accuracy_unflipped"], level)):
            values.append(history.loc[epoch, "accuracy_flipped_clean"] - history.loc[epoch, "accuracy_flipped"])
    return {f"W = {width}": estimate(values)}


@measure(low=0, high=1)
def error_from(evidence: Evidence, width: int, epoch: int) -> Cases:
    """Mean test error over the recorded epochs from `epoch` on."""
    return {f"W = {width}": estimate([h["test_error"].loc[epoch:].mean() for h in _histories(evidence, width).values()])}


@measure(low=0, high=1)
def worst_rebound(evidence: Evidence, width: int) -> Cases:
    """How far the test error ever stands over the least value that it had before."""
    histories = _histories(evidence, width).values()
    return {f"W = {width}": estimate([(h["test_error"] - h["test_error"].cummin()).max() for h in histories])}


# Over the feature dimension


def _at_dims(evidence: Evidence, metric: str) -> pd.DataFrame:
    return _by_seed(evidence.last, metric, "feature_dim")


def _row(values: pd.DataFrame, dim: int) -> pd.Series:
    """One value a seed; none where no network has that dimension."""
    return values.loc[dim] if dim in values.index else pd.Series(dtype=float)


@measure(low=0)
def nc2_over_floor(evidence: Evidence, metric: str, dims: list[int]) -> Cases:
    """How far the report's NC2 exceeds the least value that the dimension allows, as a share of that value."""
    values = _at_dims(evidence, metric)
    floors = {dim: metrics.gram_floor(evidence.data.classes, dim) for dim in dims}
    return {f"d = {dim}": estimate(_row(values, dim) / floor - 1) for dim, floor in floors.items()}


@measure()
def dimension_drop(evidence: Evidence, metrics: list[str], pairs: list[list[int]]) -> Cases:
    """How far each metric falls from one feature dimension to another."""
    cases = {}
    for metric, (low, high) in itertools.product(metrics, pairs):
        values = _at_dims(evidence, metric)
        cases[f"d = {low} → {high}, {short(metric)}"] = estimate((_row(values, low) - _row(values, high)).dropna())
    return cases


@measure(low=0)
def at_dimension(evidence: Evidence, metrics: list[str], dims: list[int]) -> Cases:
    """Each metric at some feature dimensions after the last epoch."""
    return {f"d = {dim}, {short(m)}": estimate(_row(_at_dims(evidence, m), dim)) for m, dim in itertools.product(metrics, dims)}


@measure(low=0)
def simplex_distance(evidence: Evidence, classes: int, dims: list[int]) -> Cases:
    """How near to a simplex ETF optimised unit vectors come in each dimension: ‖C − simplex‖_F, the best of several starts."""
    found = simplex.nearest_distances(classes, dims).groupby("feature_dim")["value"].min()
    return {f"d = {dim}": exact(float(distance)) for dim, distance in found.items()}


# Representations


def _sides(evidence: Evidence, left: int, right: int, layer: str) -> list[list[torch.Tensor]]:
    """What the networks of each of two widths make of the points in a layer, for the seeds that both widths have, in one order."""
    sides = [{run.spec.seed: run for run in evidence.of_width(width)} for width in (left, right)]
    shared = [seed for seed in sides[0] if seed in sides[1]]
    return [[evidence.seen(side[seed], evidence.epoch)[layer] for seed in shared] for side in sides]


def _pairs(evidence: Evidence, left: int, right: int, layer: str, debiased: bool) -> np.ndarray:
    """CKA of a layer between all seeds of one width and of another; of one width with itself, of all pairs of seeds. [seeds, seeds]"""
    xs, ys = _sides(evidence, left, right, layer)
    return representations.cka_matrix(xs, None if left == right else ys, debiased)


def _kind(debiased: bool) -> str:
    return "CKA debiased" if debiased else "CKA"


@measure(low=-1, high=1)
def similarity(evidence: Evidence, left: int, right: int, layers: list[str], debiased: list[bool]) -> Cases:
    """CKA between the networks of two widths, layer by layer, over all pairs of seeds; left = right: between seeds of one width."""
    chosen = itertools.product(layers, debiased)
    return {f"{layer} {_kind(d)}": representations.pair_estimate(_pairs(evidence, left, right, layer, d)) for layer, d in chosen}


@measure(low=-2, high=2)
def similarity_fall(evidence: Evidence, left: int, right: int, pairs: list[list[str]], debiased: list[bool]) -> Cases:
    """The CKA of one layer minus that of another, over the same pairs of networks as in `similarity`."""
    cases = {}
    for (first, second), d in itertools.product(pairs, debiased):
        values = _pairs(evidence, left, right, first, d) - _pairs(evidence, left, right, second, d)
        cases[f"{first} − {second} {_kind(d)}"] = representations.pair_estimate(values)
    return cases


@measure(low=-1, high=1)
def mean_similarity(evidence: Evidence, left: int, right: int, layer: str, labels: list[str]) -> Cases:
    """CKA of the class means between networks of two widths, less that with one side's classes permuted, over all pairs of seeds."""
    sides = _sides(evidence, left, right, layer)
    found = {which: representations.part_similarity(*sides, evidence.labels(which)) for which in labels}
    return {f"{layer} {which}": parts.get("means_excess", estimate([])) for which, parts in found.items()}


@measure()
def width_difference(evidence: Evidence, metrics: list[str], of: int, minus: int) -> Cases:
    """Each metric at one width minus the same at another, seed by seed, after the last epoch."""
    found = analysis.paired_differences(evidence.last, metrics, column="width", of=of, minus=minus, by=CURVE)
    return {short(row.metric): Estimate(row.mean, row.low, row.high, row.n) for row in found.itertuples()}


@measure(low=0, high=1)
def drift(evidence: Evidence, width: int, layers: list[str], spans: list[list[int]]) -> Cases:
    """CKA of a network with itself between two epochs, layer by layer, over the seeds whose weights of both epochs are kept."""
    cases = {}
    for (since, until), layer in itertools.product(spans, layers):
        kept = [run for run in evidence.of_width(width) if {since, until} <= set(run.states)]
        values = [float(metrics.linear_cka(evidence.seen(run, since)[layer], evidence.seen(run, until)[layer])) for run in kept]
        cases[f"{layer} {since:,}–{until:,}"] = estimate(values)
    return cases


@measure(low=0)
def pooled_difference(evidence: Evidence, width: int) -> Cases:
    """Relative distance of the pooled last block of an untrained ResNet1D from its features; the network's form alone decides it."""
    network = models.build(ModelSpec(name="resnet1d", width=width))
    network.reset([0])
    with torch.no_grad():
        layers = network.eval().activations(data.load(DataSpec()).x_train[None, :PROBE_POINTS], ["block2", "features"])
    difference = layers["block2"].mean(1) - layers["features"]
    return {"L2, L3": exact(float(difference.norm() / layers["features"].norm()))}


@measure(low=0, high=1)
def rotated_similarity(evidence: Evidence, dim: int, spreads: list[float]) -> Cases:
    """CKA of a simplex of classes, its points spread around it, with the same rotated, scaled and shifted: the least of ten rotations."""
    labels = torch.arange(PROBE_POINTS) % 10
    cases = {}
    for spread in spreads:
        noise = torch.randn(PROBE_POINTS, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        features = representations.collapsed(labels, dim, seed=0) + spread * noise
        cases[f"σ = {spread:g}"] = exact(
            min(float(metrics.linear_cka(features, representations.moved(features, seed))) for seed in range(2, 22, 2))
        )
    return cases


@measure()
def collapse_share(evidence: Evidence, layers: list[str], share: str, labels: list[str]) -> Cases:
    """Which part of a network's collapse the named layers add, by `representations.collapse_shares`, in networks that have one of them."""
    shares = evidence.collapse_shares
    shares = shares[shares["layer"].isin(layers) & shares["labels"].isin(labels)]
    case = [*CURVE, "width", "labels"]
    added = shares.groupby([*case, "seed"])[share].sum(min_count=1).reset_index()
    groups = added.groupby(case)[share]
    return {f"{name(model)} {name(optimizer)} W = {width} {which}": estimate(values) for (model, optimizer, width, which), values in groups}
