"""What trained networks make of points: the activations of their layers, how alike they are, and how far each has collapsed.

Everything starts from the weights that a run keeps (`Run.states`); nothing here trains, draws or writes prose. N points, C channels.
A *representation* is a dictionary from a layer's name to its activations `[N, dim]`, the same points in the same order throughout.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from ncbook import metrics, models
from ncbook.analysis import CURVE, Estimate, bounds, seed_means
from ncbook.data import Data
from ncbook.spec import SpecError
from ncbook.store import Run

WHOLE = "L2*"
"""The second block of ResNet1D with all its positions side by side, unpooled."""
STEPS = {"resnet1d": {"L0": "stem", "L1": "block1", "L2": "block2"}, "cnn1d": {f"C{i}": f"conv{i}" for i in (1, 2, 3, 4)}}
"""The spatial layers of each model in their order, by short names. Mean-pooled, the last of them is what the classifier gets."""
INPUT = "in"
SHARE_MEASURES = ("log_nc1", "log_nc1_standard", "separation")
"""What `collapse_shares` divides among the layers."""

_CHUNK = 500  # points put through a network at once


def network(run: Run, epoch: int) -> models.Stack:
    """The network that `run` was after `epoch`: one member, in eval mode. Raises `ValueError` where the run did not keep that epoch."""
    if epoch not in run.states:
        kept = ", ".join(map(str, run.states)) or "none"
        raise ValueError(f"epoch={epoch} is not among those whose weights the run {run.spec.key} keeps ({kept}): choose one of them.")
    shape, state = run.spec.model, {name: torch.as_tensor(values)[None] for name, values in run.states[epoch].items()}
    model = models.build(shape).to(state["classifier.weight"].dtype)
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def activations(run: Run, epoch: int, x: Tensor) -> dict[str, Tensor]:
    """Every layer of `network(run, epoch)` on points x `[N, positions]`: `[N, positions, C]`; features and logits `[N, dim]`."""
    model = network(run, epoch)
    kind = model.classifier.weight.dtype
    chunks = [{name: a[0] for name, a in model.layers(chunk[None].to(kind))} for chunk in x.split(_CHUNK)]
    points_first = [{name: a.transpose(0, 1) if a.dim() == 3 else a for name, a in chunk.items()} for chunk in chunks]
    return {name: torch.cat([chunk[name] for chunk in points_first]) for name in points_first[0]}


def pooled(layer: Tensor) -> Tensor:
    """`[N, positions, C]` -> `[N, C]`, the mean over positions."""
    return layer.mean(1)


def unpooled(layer: Tensor) -> Tensor:
    """`[N, positions, C]` -> `[N, positions * C]`."""
    return layer.flatten(1)


def probe(data: Data, points: int, seed: int) -> Tensor:
    """Indices `[points]` of training points drawn without replacement. Raises `SpecError` for a number that cannot be drawn."""
    available = len(data.x_train)
    if not 4 <= points <= available:
        raise SpecError(
            f"probe_points={points} is outside 4..{available}: debiased CKA needs 4 points, and the training set has {available}."
        )
    return torch.from_numpy(np.random.default_rng(seed).choice(available, points, replace=False))


def representation(run: Run, epoch: int, x: Tensor) -> dict[str, Tensor]:
    """L0, L1, L2 pooled over positions and `WHOLE`, of a ResNet1D on points x `[N, positions]`."""
    layers = activations(run, epoch, x)
    return {short: pooled(layers[name]) for short, name in STEPS["resnet1d"].items()} | {WHOLE: unpooled(layers["block2"])}


def last_layers_differ(run: Run, epoch: int, x: Tensor) -> float:
    """The largest difference between a ResNet1D's features and its pooled second block, on points x `[N, positions]`."""
    layers = activations(run, epoch, x)
    return float((layers["features"] - pooled(layers["block2"])).abs().max())


# Similarity


def cka_matrix(xs: Sequence[Tensor], ys: Sequence[Tensor] | None = None, debiased: bool = False) -> np.ndarray:
    """Linear CKA of every x `[N, p]` with every y `[N, q]`: `[len(xs), len(ys)]`.

    Without ys the pairs among xs, each once: above the diagonal, NaN elsewhere.
    """
    values = np.full((len(xs), len(xs if ys is None else ys)), np.nan)
    for i, x in enumerate(xs):
        for j in range(i + 1, len(xs)) if ys is None else range(len(ys)):
            values[i, j] = float(metrics.linear_cka(x, (xs if ys is None else ys)[j], debiased))
    return values


def cka_among(points: Sequence[Tensor], debiased: bool) -> np.ndarray:
    """`metrics.linear_cka` of all pairs of representations `[N, d]` of the same N points at once: `[len(points), len(points)]`.

    CKA is the cosine between centred Gram matrices, its debiased form that between U-centred ones (Székely and Rizzo 2014), whose inner
    product is the unbiased estimator of Song et al. (2012). NaN for a constant representation.
    """
    n = len(points[0])
    rows, columns = torch.triu_indices(n, n)
    weights = torch.where(rows == columns, 1.0, 2.0).double().sqrt()
    vectors = torch.empty(len(points), len(rows), dtype=torch.float64)
    for vector, one in zip(vectors, points):
        unit = metrics.centred_unit(one.double())
        gram = unit @ unit.T
        vector[:] = (_u_centred(gram) if debiased else gram)[rows, columns] * weights
    lengths = vectors.norm(dim=1)
    return (vectors @ vectors.T / torch.outer(lengths, lengths)).numpy()


def _u_centred(gram: Tensor) -> Tensor:
    """Without the diagonal, and all rows and columns adding up to 0; gram `[N, N]`."""
    n, gram = len(gram), gram - gram.diag().diag()
    means = gram.sum(0) / (n - 2)
    centred = gram - means - means[:, None] + means.sum() / (n - 1)
    return centred - centred.diag().diag()


def pair_estimate(values: np.ndarray) -> Estimate:
    """Mean of the finite `values` `[seeds, seeds]`, one for each pair of seeds, with a jackknife interval over the n seeds.

    Pairs that share a seed are not independent, so Student's interval over pairs would be too narrow. Instead each seed in turn is left
    out, with its row and its column, and the variance of the mean is (n − 1)/n times the squared deviations of what remains (Quenouille
    1956, Tukey 1958; for means over pairs, Arvesen 1969). NaN where leaving one out leaves no pair. Raises `ValueError` for values that
    are not square.
    """
    n = len(values)
    if values.shape != (n, n):
        raise ValueError(f"values of shape {list(values.shape)} are not those of pairs of the same seeds: give a square.")
    if not np.isfinite(values).any():
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = float(np.nanmean(values))
    remaining = [np.delete(np.delete(values, seed, 0), seed, 1) for seed in range(n)]
    if n < 2 or not all(np.isfinite(rest).any() for rest in remaining):
        return Estimate(mean, np.nan, np.nan, n)
    means = np.array([np.nanmean(rest) for rest in remaining])
    half = float(stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * np.square(means - means.mean()).sum()))
    return Estimate(mean, mean - half, mean + half, n)


def similarity(
    left: Sequence[Mapping[str, Tensor]], right: Sequence[Mapping[str, Tensor]] | None, pairs: Iterable[tuple[str, str]]
) -> pd.DataFrame:
    """CKA of layer `first` of each `left` network with layer `second` of each `right` one, one network a seed.

    Without `right` the pairs among `left`. Columns: first, second, kind ("biased" or "debiased"), mean, low, high, n of `pair_estimate`,
    and values, the single pairs'.
    """
    rows = []
    for first, second in pairs:
        for kind in ("biased", "debiased"):
            others = None if right is None else [one[second] for one in right]
            values = cka_matrix([one[first] for one in left], others, debiased=kind == "debiased")
            single = tuple(values[np.isfinite(values)])
            mean = pair_estimate(values).within(*bounds(kind))
            rows.append({"first": first, "second": second, "kind": kind, **mean._asdict(), "values": single})
    return pd.DataFrame(rows)


def similarity_matrix(table: pd.DataFrame, kind: str, layers: Sequence[str], column: str = "mean") -> np.ndarray:
    """A column of `similarity` as `[first, second]`."""
    return table[table["kind"] == kind].pivot(index="first", columns="second", values=column).loc[layers, layers].to_numpy()


def drift(by_epoch: Mapping[int, Mapping[str, Tensor]]) -> pd.DataFrame:
    """CKA of one network with what it was, layer by layer; by_epoch: epoch -> representation.

    Columns: epoch, layer, since ("first": the first of these epochs; "previous": the one before, if there is one), biased, debiased.
    """
    epochs, rows = sorted(by_epoch), []
    for layer in by_epoch[epochs[0]]:
        biased, debiased = (cka_among([by_epoch[epoch][layer] for epoch in epochs], d) for d in (False, True))
        for now, epoch in enumerate(epochs):
            for since, then in ({"first": 0} | ({"previous": now - 1} if now else {})).items():
                rows.append({"epoch": epoch, "layer": layer, "since": since, "biased": biased[then, now], "debiased": debiased[then, now]})
    return pd.DataFrame(rows)


def drifts(by_seed: Mapping[int, Mapping[int, Mapping[str, Tensor]]]) -> pd.DataFrame:
    """The `drift` of several networks, seed -> epoch -> representation, with a column seed."""
    return pd.concat([drift(by_epoch).assign(seed=seed) for seed, by_epoch in by_seed.items()])


def drift_means(drifts: pd.DataFrame) -> pd.DataFrame:
    """The table of `drifts` as means over seeds.

    Columns: epoch, metric (the layer), since, kind ("biased" or "debiased"), mean, low, high, n of `estimate`.
    """
    means = seed_means(drifts, ["biased", "debiased"], by=["epoch", "layer", "since"])
    return means.rename(columns={"metric": "kind", "layer": "metric"})


# Class means and residuals


class Parts(NamedTuple):
    """A representation `[N, d]` taken apart, features = means + residuals."""

    means: Tensor
    """`[N, d]`: each point's class mean."""
    residuals: Tensor
    """`[N, d]`."""


class CKATerms(NamedTuple):
    """What biased CKA is the sum of."""

    means: float
    residuals: float
    mixed: float


def class_parts(features: Tensor, labels: Tensor) -> Parts:
    """Class means and residuals of features `[N, d]`, labels `[N]`, in float64."""
    features = features.double()
    members = torch.nn.functional.one_hot(labels).double()
    means = members @ ((members.T @ features) / members.sum(0).clamp(min=1)[:, None])
    return Parts(means, features - means)


def cka_terms(x: Tensor, y: Tensor, labels: Tensor) -> CKATerms:
    """The parts of `linear_cka(x, y)` that come from class means, from residuals and from both; x `[N, p]`, y `[N, q]`, labels `[N]`.

    Means and residuals are orthogonal over the points, so XᵀY = M_xᵀM_y + R_xᵀR_y and ‖XᵀY‖² has three terms.
    """
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    (x_means, x_residuals), (y_means, y_residuals) = class_parts(x, labels), class_parts(y, labels)
    between, within = x_means.T @ y_means, x_residuals.T @ y_residuals
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return CKATerms(*(float(term / scale) for term in (between.square().sum(), within.square().sum(), 2 * (between * within).sum())))


def shrunk(features: Tensor, labels: Tensor, kept: float) -> Tensor:
    """Features `[N, d]` with their residuals multiplied by `kept`: 1 leaves them as they are, 0 collapses them perfectly."""
    means, residuals = class_parts(features, labels)
    return means + kept * residuals


def trace_ratios(networks: Mapping[tuple[int, int], Mapping[str, Tensor]], labellings: Mapping[str, Tensor]) -> pd.DataFrame:
    """tr Σ_W / tr Σ_B of every pooled layer; networks: (width, seed) -> representation; labellings: name -> labels `[N]`.

    Columns: width, seed, layer, and one for each labelling.
    """
    return pd.DataFrame(
        {"width": width, "seed": seed, "layer": layer}
        | {name: float(metrics.nc1_trace_ratio(layers[layer], labels)) for name, labels in labellings.items()}
        for (width, seed), layers in networks.items()
        for layer in STEPS["resnet1d"]
    )


def shrinking(xs: Sequence[Tensor], labellings: Mapping[str, Tensor], kept: Sequence[float]) -> pd.DataFrame:
    """CKA of all pairs among xs `[N, d]`, every one of them `shrunk` alike; labellings: name -> labels `[N]`.

    Columns: kept, metric (the name of the labelling), mean, low, high, n of `pair_estimate`.
    """
    return pd.DataFrame(
        {
            "kept": share,
            "metric": name,
            **pair_estimate(cka_matrix([shrunk(x, labels, share) for x in xs])).within(*bounds("biased"))._asdict(),
        }
        for name, labels in labellings.items()
        for share in kept
    )


def part_similarity(xs: Sequence[Tensor], ys: Sequence[Tensor] | None, labels: Tensor, permutations: int = 5) -> dict[str, Estimate]:
    """CKA of all pairs of xs `[N, p]` with ys `[N, q]` (without ys: among xs), taken apart by labels `[N]`; biased CKA throughout.

    Keys: all; means and residuals, each part's own CKA; means_chance and residuals_chance, the same with the classes, or the points, of
    one side permuted at random, what the spectra alone would give; means_excess, means − means_chance pair by pair; term_means,
    term_residuals, term_mixed, the `cka_terms` of all; gap, 1 − all; explained, the share of the gap that goes if all residuals are taken
    away, (means − all) / gap.
    """
    generator = torch.Generator().manual_seed(0)
    within, others = ys is None, list(xs if ys is None else ys)
    found: dict[str, np.ndarray] = {}
    for i, x in enumerate(xs):
        for j in range(i + 1, len(others)) if within else range(len(others)):
            y, x_parts, y_parts = others[j], class_parts(x, labels), class_parts(others[j], labels)
            own = [float(metrics.linear_cka(a, b)) for a, b in zip(x_parts, y_parts)]
            chance = np.mean([_chance(x_parts, y_parts, labels, generator) for _ in range(permutations)], axis=0)
            everything = float(metrics.linear_cka(x, y))
            values = {"all": everything, "means": own[0], "residuals": own[1], "means_chance": chance[0], "residuals_chance": chance[1]}
            values["means_excess"] = own[0] - chance[0]
            values |= {f"term_{name}": value for name, value in cka_terms(x, y, labels)._asdict().items()}
            values |= {"gap": 1 - everything, "explained": (own[0] - everything) / (1 - everything)}
            for name, value in values.items():
                found.setdefault(name, np.full((len(xs), len(others)), np.nan))[i, j] = value
    return {name: pair_estimate(values) for name, values in found.items()}


def _chance(x: Parts, y: Parts, labels: Tensor, generator: torch.Generator) -> list[float]:
    """CKA of means with the classes of y permuted, and of residuals with its points permuted."""
    classes = int(labels.max()) + 1
    representative = torch.stack([(labels == k).nonzero()[0, 0] for k in range(classes)])
    other_class = torch.randperm(classes, generator=generator)[labels]
    other_point = torch.randperm(len(labels), generator=generator)
    shuffled = (y.means[representative][other_class], y.residuals[other_point])
    return [float(metrics.linear_cka(a, b)) for a, b in zip(x, shuffled)]


def collapsed(labels: Tensor, dim: int, seed: int) -> Tensor:
    """A perfectly collapsed representation `[N, dim]` of labels `[N]`: a simplex randomly rotated and shifted."""
    classes = int(labels.max()) + 1
    if dim < classes:
        raise ValueError(f"dim={dim} is too small to place a simplex of {classes} classes by their unit vectors: give at least {classes}.")
    return moved(torch.eye(classes, dim, dtype=torch.float64)[labels], seed)


def collapsed_gap(labels: Tensor, *dims: int) -> float:
    """1 − CKA, in absolute value, of two perfectly `collapsed` representations of labels `[N]` in these two dimensions."""
    x, y = (collapsed(labels, dim, seed) for seed, dim in enumerate(dims))
    return abs(1 - float(metrics.linear_cka(x, y)))


def rotation(dim: int, seed: int) -> Tensor:
    """A random orthogonal matrix `[dim, dim]`, float64: the Q of a Gaussian matrix, by the signs of R uniformly distributed."""
    gaussian = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()


def stretched(features: Tensor, seed: int) -> Tensor:
    """Features `[N, d]` under a random Gaussian matrix, which is no rotation, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return features.double() @ torch.randn(features.shape[1], features.shape[1], generator=generator, dtype=torch.float64)


def effect_on_cka(transform: Callable[[Tensor, int], Tensor], xs: Sequence[Tensor], draws: int = 5) -> float:
    """The largest change of CKA, biased and debiased, with any y among xs `[N, d]` when any x of them is transformed, over random draws."""
    changes = [
        np.abs(cka_matrix([transform(x, seed) for x in xs], xs, debiased) - cka_matrix(xs, xs, debiased)).max()
        for seed in range(draws)
        for debiased in (False, True)
    ]
    return float(np.max(changes))


def moved(features: Tensor, seed: int) -> Tensor:
    """Features `[N, d]` rotated, scaled by 3 and shifted at random, in float64."""
    features = features.double()
    shift = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return 3 * features @ rotation(features.shape[1], seed) + shift * features.norm(dim=1).mean()


# Collapse by layer


def readout(features: Tensor, labels: Tensor) -> Tensor:
    """The linear map `[K, d]` that best predicts the one-hot labels `[N]` from features `[N, d]` in least squares, intercept apart.

    Nothing holds the weights down. With strong weight decay they would become proportional to the class means of any features whatever,
    and NC3 would vanish without any collapse.
    """
    targets = torch.nn.functional.one_hot(labels).double()
    features = features.double() - features.double().mean(0)
    return torch.linalg.lstsq(features, targets - targets.mean(0), driver="gelsd").solution.T


def layer_collapse(run: Run, epoch: int, data: Data) -> pd.DataFrame:
    """The metrics of collapse of every layer of a run, pooled over positions, and of the bare input, on all training points.

    Columns: model, optimizer, width, seed, layer (`INPUT` and the short names of `STEPS`), labels ("noisy" or "clean"), the keys of
    `collapse_metrics`, and separation, the share tr Σ_B / (tr Σ_B + tr Σ_W) of the variance that lies between classes. Where a classifier
    enters (NC3, NC4) it is each layer's own `readout` of the noisy labels.
    """
    spec, found = run.spec, activations(run, epoch, data.x_train)
    layers = {INPUT: data.x_train} | {short: pooled(found[name]) for short, name in STEPS[spec.model.name].items()}
    rows = []
    for layer, features in layers.items():
        weight = readout(features, data.y_noisy)
        for labels, y in (("noisy", data.y_noisy), ("clean", data.y_clean)):
            values = {name: float(value) for name, value in metrics.collapse_metrics(features, y, weight).items()}
            where = dict(model=spec.model.name, optimizer=spec.optimizer.name, width=spec.model.width, seed=spec.seed)
            rows.append({**where, "layer": layer, "labels": labels, **values, "separation": 1 / (1 + values["nc1_trace_ratio"])})
    return pd.DataFrame(rows)


def collapse_shares(layers: pd.DataFrame) -> pd.DataFrame:
    """Which share of a network's collapse each layer adds to the one before it, from the rows of `layer_collapse`.

    By each of `SHARE_MEASURES`: log_nc1, of the fall of log(tr Σ_W / tr Σ_B) from input to last layer; log_nc1_standard, of that of
    log(tr(Σ_W Σ_B†) / K); separation, of the rise of the between-class share of the variance. Columns: model, optimizer, width, seed,
    labels, layer and the measures; shares of one network add up to 1, may be negative, and are NaN where it does not collapse at all.
    """
    rows = []
    for (*where, labels), network_rows in layers.groupby([*CURVE, "width", "seed", "labels"]):
        steps = network_rows.set_index("layer").loc[[INPUT, *STEPS[where[0]]]]
        measures = (-np.log(steps["nc1_trace_ratio"]), -np.log(steps["nc1"]), steps["separation"])
        changes = {name: measure.diff() for name, measure in zip(SHARE_MEASURES, measures)}
        shares = {name: (change / change.sum() if change.sum() > 0 else change * np.nan).iloc[1:] for name, change in changes.items()}
        names = dict(zip([*CURVE, "width", "seed"], where)) | {"labels": labels}
        rows += [{**names, "layer": layer, **{name: share[layer] for name, share in shares.items()}} for layer in steps.index[1:]]
    return pd.DataFrame(rows)
