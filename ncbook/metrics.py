"""Neural collapse and representation similarity: tensors in, tensors out.

Every function takes any number of leading (batch) dimensions, written `...`, and returns one value for each batch member: with features
[S, N, d] the S networks of a stack are measured at once, each with its own labels. N points, d features, K classes. All computation is
in float64 on the device of the input, whatever the input's precision.

With h_i the features of point i, m_k the mean of class k, g the plain mean of the K class means (not of the points: under class
imbalance the two differ), ṁ_k = m_k − g:

    Σ_W = 1/N Σ_i (h_i − m_{y_i})(h_i − m_{y_i})ᵀ        Σ_B = 1/K Σ_k ṁ_k ṁ_kᵀ

K is the number of rows of `weight` where one is given, else the largest label of the whole batch plus one. A value that is not defined
is NaN, never a guess: everything about centred class means where all of them coincide, a cosine with a mean or weight of length zero, the
CKA of a constant representation.

Every function raises `ValueError` for shapes that do not fit, for NaN or infinite values, for labels outside 0..K−1 and for classes
without a point; `TypeError` for arguments that are not tensors and labels that are not integers.

Sources: [PHD] Papyan, Han, Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training", PNAS 117 (2020).
[K] Kornblith, Norouzi, Lee, Hinton, "Similarity of neural network representations revisited", ICML 2019.
[S] Song, Smola, Gretton, Bedo, Borgwardt, "Feature selection via dependence maximization", JMLR 13 (2012).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 1e-12
"""Lengths below this share of the features' own length are rounding errors of float64, that is, zero."""

_RESOLUTION = torch.finfo(torch.float32).eps
"""Directions in which class means spread less than this share of their widest spread are below what float32 features can tell."""


class NC2(NamedTuple):
    """Equinorm and equiangularity of K vectors, each Tensor[...]; both 0 for a simplex equiangular tight frame."""

    equinorm: Tensor
    equiangularity: Tensor


def nc1(features: Tensor, labels: Tensor) -> Tensor:
    """Within-class variability tr(Σ_W Σ_B†) / K of features [..., N, d], labels [..., N]; best 0, unbounded. Note the factor 1/K. [PHD]"""
    return _nc1(_class_statistics(features, labels))


def nc1_trace_ratio(features: Tensor, labels: Tensor) -> Tensor:
    """Within-class over between-class variance, tr Σ_W / tr Σ_B, of features [..., N, d], labels [..., N]; best 0, unbounded.

    The NC1 of the report and of the fn* paper; unlike `nc1` it lets the widest directions dominate.
    """
    return _nc1_trace_ratio(_class_statistics(features, labels))


def nc2(features: Tensor, labels: Tensor) -> NC2:
    """How far the centred class means of features [..., N, d], labels [..., N] are from a simplex; best (0, 0). [PHD]

    Equinorm is std_k ‖ṁ_k‖ / mean_k ‖ṁ_k‖, with the sample standard deviation (K − 1) as in the authors' code; equiangularity is the mean
    over pairs of classes of |cos(ṁ_k, ṁ_l) + 1/(K − 1)|.
    """
    return _simplex_deviation(_class_statistics(features, labels).centred_means)


def nc2_weight(weight: Tensor) -> NC2:
    """The same as `nc2` of the rows of a classifier, weight [..., K, d], which are not centred; best (0, 0). [PHD]"""
    weight = _checked("weight", weight, 2)
    _at_least_two_classes(weight.shape[-2])
    return _simplex_deviation(weight)


def nc2_gram_distance(features: Tensor, labels: Tensor) -> Tensor:
    """‖C − K/(K−1) (I − 11ᵀ/K)‖_F with C the cosines of the centred class means; the NC2 of the report. Best 0.

    Features [..., N, d], labels [..., N]. For d < K − 1 it cannot fall below `gram_floor(K, d)`.
    """
    return _gram_distance(_class_statistics(features, labels))


def gram_floor(classes: int, dim: int) -> float:
    """The least value `nc2_gram_distance` can take with K classes in d dimensions: sqrt(K²/d − K²/(K−1)) for d < K − 1, else 0.

    No Gram matrix of rank d with trace K has a smaller norm than K/√d; a centred tight frame attains it.
    """
    _at_least_two_classes(classes)
    if dim < 1:
        raise ValueError(f"dim={dim} is no feature dimension: it must be at least 1.")
    return math.sqrt(classes**2 / dim - classes**2 / (classes - 1)) if dim < classes - 1 else 0.0


def nc3(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Self-duality ‖W/‖W‖_F − Ṁ/‖Ṁ‖_F‖²_F of classifier and centred class means; best 0, worst 4. [PHD]

    Features [..., N, d], labels [..., N], weight [..., K, d].
    """
    return _nc3(*_statistics_and_head(features, labels, weight)[:2])


def nc3_uncentred(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """‖Ŵ − M̂‖_F with rows scaled to length 1 and class means *not* centred; the NC3 of the report.

    Features [..., N, d], labels [..., N], weight [..., K, d]. It measures mostly the offset that the class means share: a perfect collapse
    with an offset r times as long as the ṁ_k, orthogonal to them, has sqrt(K (2 − 2/sqrt(1 + r²))).
    """
    return _nc3_uncentred(*_statistics_and_head(features, labels, weight)[:2])


def nc4(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Share of points for which argmax_k (w_k·h + b_k) is not the class with the nearest mean; best 0, worst 1. [PHD]

    Features [..., N, d], labels [..., N], weight [..., K, d], bias [..., K]. The bias, if there is one, is part of the decision.
    """
    statistics, weight, bias = _statistics_and_head(features, labels, weight, bias)
    return _nc4(statistics, features.double(), weight, bias)


def disagreements(features: Tensor, means: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Bool [..., N]: for which points argmax_k (w_k·h + b_k) is not the class with the nearest of `means`; their share is `nc4`.

    Features [..., N, d], means [..., K, d], weight [..., K, d], bias [..., K].
    """
    features, means = _checked("features", features, 2), _checked("means", means, 2)
    weight, bias = _checked_head(features, weight, bias)
    _one_mean_a_weight(means, weight)
    centre = means.mean(-2, keepdim=True)
    return _disagreements(features, centre, means - centre, weight, bias)


def collapse_metrics(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None) -> dict[str, Tensor]:
    """All metrics of neural collapse, each Tensor[...], from one pass over the features; shapes as in `nc4`.

    Keys: nc1, nc1_trace_ratio, nc2_equinorm, nc2_equiangularity, nc2_gram, nc3, nc3_uncentred, nc4.
    """
    statistics, weight, bias = _statistics_and_head(features, labels, weight, bias)
    return _collapse(statistics, weight) | {"nc4": _nc4(statistics, features.double(), weight, bias)}


def collapse_from_moments(counts: Tensor, means: Tensor, scatter: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
    """The same as `collapse_metrics` without nc4, from moments, for points that are never all at hand; without `weight` no nc3 either.

    Points of each class, counts [..., K]; class means [..., K, d]; scatter Σ_i (h_i − m_{y_i})(h_i − m_{y_i})ᵀ [..., d, d], which is N Σ_W;
    weight [..., K, d]. A scatter squares condition numbers: nc1 agrees with that of points to about 1e-16 times the squared ratio of the
    widest to the narrowest spread of the class means.
    """
    counts, means, scatter = _checked("counts", counts, 1), _checked("means", means, 2), _checked("scatter", scatter, 2)
    if counts.shape != means.shape[:-1] or scatter.shape != (*means.shape[:-2], means.shape[-1], means.shape[-1]):
        raise ValueError(
            f"counts {_shape(counts)}, means {_shape(means)} and scatter {_shape(scatter)} do not fit: "
            f"they need [..., K], [..., K, d] and [..., d, d]."
        )
    _no_empty_class(counts)
    if weight is not None:
        _one_mean_a_weight(means, weight := _checked("weight", weight, 2))
    points = counts.sum(-1)
    variances, directions = torch.linalg.eigh(scatter / points[..., None, None])
    variances = variances.clamp(min=0)
    root = (variances * variances.shape[-1]).sqrt().unsqueeze(-1) * directions.mT
    square_length = variances.sum(-1) + (counts * means.square().sum(-1)).sum(-1) / points
    return _collapse(_statistics_of_means(means, root, square_length), weight)


def feature_norm(features: Tensor) -> Tensor:
    """Mean length of the features, fn = mean_i ‖h_i‖, of features [..., N, d]."""
    return _checked("features", features, 2).norm(dim=-1).mean(-1)


def linear_cka(x: Tensor, y: Tensor, debiased: bool = False) -> Tensor:
    """Similarity of two representations x [..., N, p], y [..., N, q] of the same points: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)). [K]

    Invariant to rotation, isotropic scaling and shift of either. Biased: in [0, 1], and well above 0 for independent representations when
    p or q are not small against N. Debiased: HSIC by the unbiased estimator of [S] (N ≥ 4), around 0 for independent representations;
    it may be negative and is not clamped. 1 for x = y. NaN if x or y is constant.
    """
    x, y = _checked("x", x, 2), _checked("y", y, 2)
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(f"x {_shape(x)} and y {_shape(y)} do not show the same points: all sizes but the last must agree.")
    n = x.shape[-2]
    if n < (least := 4 if debiased else 2):
        raise ValueError(f"{n} points are too few for {'debiased ' if debiased else ''}CKA: it needs at least {least}.")
    x, y = centred_unit(x), centred_unit(y)
    x_lengths, y_lengths = x.square().sum(-1), y.square().sum(-1)

    # n (n − 3) times the unbiased estimator, with the kernel sums written out for centred linear kernels
    def hsic(inner: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if not debiased:
            return inner
        return inner - n / (n - 2) * (a * b).sum(-1) + a.sum(-1) * b.sum(-1) / ((n - 1) * (n - 2))

    xx, xy, yy = _kernel_products(x, y)
    self_x, self_y = hsic(xx, x_lengths, x_lengths), hsic(yy, y_lengths, y_lengths)
    defined = (self_x > _ROUNDING * xx) & (self_y > _ROUNDING * yy)
    return (hsic(xy, x_lengths, y_lengths) / (self_x * self_y).sqrt()).where(defined, math.nan)


# Class statistics and the formulas on them


@dataclass(frozen=True)
class _ClassStatistics:
    centre: Tensor  # [..., 1, d], g
    centred_means: Tensor  # [..., K, d], ṁ_k
    residuals: Tensor  # [..., R, d], rows whose mean outer product is Σ_W: h_i − m_{y_i}, or d rows that stand for them
    between: Tensor  # [...], tr Σ_B

    def where_separated(self, value: Tensor) -> Tensor:
        return value.where(self.between > 0, math.nan)


def _class_statistics(features: Tensor, labels: Tensor, classes: int | None = None) -> _ClassStatistics:
    features = _checked("features", features, 2)
    members = _one_hot(features, labels, classes)
    means = (members.mT @ features) / members.sum(-2).unsqueeze(-1)
    return _statistics_of_means(means, features - members @ means, features.square().sum(-1).mean(-1))


def _statistics_of_means(means: Tensor, residuals: Tensor, square_length: Tensor) -> _ClassStatistics:
    """`square_length` [...]: the points' mean ‖h_i‖², against which rounding errors are told."""
    centre = means.mean(-2, keepdim=True)
    centred = means - centre
    scale = square_length.sqrt()[..., None, None]
    centred = centred.where(centred.norm(dim=-1, keepdim=True) > _ROUNDING * scale, 0.0)
    return _ClassStatistics(centre=centre, centred_means=centred, residuals=residuals, between=centred.square().sum(-1).mean(-1))


def _collapse(statistics: _ClassStatistics, weight: Tensor | None) -> dict[str, Tensor]:
    """What needs no single points."""
    equinorm, equiangularity = _simplex_deviation(statistics.centred_means)
    found = {
        "nc1": _nc1(statistics),
        "nc1_trace_ratio": _nc1_trace_ratio(statistics),
        "nc2_equinorm": equinorm,
        "nc2_equiangularity": equiangularity,
        "nc2_gram": _gram_distance(statistics),
    }
    if weight is None:
        return found
    return found | {"nc3": _nc3(statistics, weight), "nc3_uncentred": _nc3_uncentred(statistics, weight)}


def _nc1(statistics: _ClassStatistics) -> Tensor:
    # Σ_B† = K Ṁ† Ṁ†ᵀ, so tr(Σ_W Σ_B†) / K is the mean of ‖(h_i − m_{y_i}) Ṁ†‖²: no d×d matrix, no squared condition number
    inverse = torch.linalg.pinv(statistics.centred_means, rtol=_RESOLUTION)
    return statistics.where_separated((statistics.residuals @ inverse).square().sum(-1).mean(-1))


def _nc1_trace_ratio(statistics: _ClassStatistics) -> Tensor:
    return statistics.where_separated(statistics.residuals.square().sum(-1).mean(-1) / statistics.between)


def _simplex_deviation(vectors: Tensor) -> NC2:
    lengths, classes = vectors.norm(dim=-1), vectors.shape[-2]
    row, column = torch.triu_indices(classes, classes, offset=1, device=vectors.device)
    cosines = _cosines(vectors)[..., row, column]
    return NC2(lengths.std(-1) / lengths.mean(-1), (cosines + 1 / (classes - 1)).abs().mean(-1))


def _gram_distance(statistics: _ClassStatistics) -> Tensor:
    cosines = _cosines(statistics.centred_means)
    classes = cosines.shape[-1]
    simplex = (torch.eye(classes, dtype=cosines.dtype, device=cosines.device) * classes - 1) / (classes - 1)
    return (cosines - simplex).norm(dim=(-2, -1))


def _nc3(statistics: _ClassStatistics, weight: Tensor) -> Tensor:
    means = statistics.centred_means
    difference = weight / weight.norm(dim=(-2, -1), keepdim=True) - means / means.norm(dim=(-2, -1), keepdim=True)
    return difference.square().sum((-2, -1))


def _nc3_uncentred(statistics: _ClassStatistics, weight: Tensor) -> Tensor:
    means = statistics.centred_means + statistics.centre
    return (_unit_rows(weight) - _unit_rows(means)).norm(dim=(-2, -1))


def _nc4(statistics: _ClassStatistics, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    differ = _disagreements(features, statistics.centre, statistics.centred_means, weight, bias)
    return statistics.where_separated(differ.double().mean(-1))


def _disagreements(features: Tensor, centre: Tensor, centred_means: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = features @ weight.mT
    if bias is not None:
        logits = logits + bias.unsqueeze(-2)
    # ‖h − m_k‖² = ‖h − g‖² − 2 closeness_k
    closeness = (features - centre) @ centred_means.mT - centred_means.square().sum(-1).unsqueeze(-2) / 2
    return logits.argmax(-1) != closeness.argmax(-1)


def _unit_rows(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _cosines(vectors: Tensor) -> Tensor:
    unit = _unit_rows(vectors)
    return unit @ unit.mT


def centred_unit(x: Tensor) -> Tensor:
    """Columns centred, then of Frobenius norm 1; NaN where x is constant up to rounding."""
    centred = x - x.mean(-2, keepdim=True)
    length = centred.norm(dim=(-2, -1), keepdim=True)
    return (centred / length).where(length > _ROUNDING * x.norm(dim=(-2, -1), keepdim=True), math.nan)


def _kernel_products(x: Tensor, y: Tensor) -> list[Tensor]:
    """⟨XXᵀ, XXᵀ⟩, ⟨XXᵀ, YYᵀ⟩, ⟨YYᵀ, YYᵀ⟩, through N×N kernels or through feature-space products, whichever matrices are smaller."""
    if x.shape[-2] < max(x.shape[-1], y.shape[-1]):
        x, y = x @ x.mT, y @ y.mT
        return [(a * b).sum((-2, -1)) for a, b in ((x, x), (x, y), (y, y))]
    return [(a.mT @ b).square().sum((-2, -1)) for a, b in ((x, x), (x, y), (y, y))]


# Checks of what comes in


def _statistics_and_head(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[_ClassStatistics, Tensor, Tensor | None]:
    weight, bias = _checked_head(features, weight, bias)
    return _class_statistics(features, labels, weight.shape[-2]), weight, bias


def _checked_head(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    weight = _checked("weight", weight, 2)
    if isinstance(features, Tensor) and (features.shape[:-2], features.shape[-1:]) != (weight.shape[:-2], weight.shape[-1:]):
        raise ValueError(f"weight {_shape(weight)} does not fit features {_shape(features)}: they need [..., K, d] and [..., N, d].")
    if bias is not None:
        bias = _checked("bias", bias, 1)
        if bias.shape != weight.shape[:-1]:
            raise ValueError(f"bias {_shape(bias)} does not fit weight {_shape(weight)}: they need [..., K] and [..., K, d].")
    return weight, bias


def _one_mean_a_weight(means: Tensor, weight: Tensor) -> None:
    if means.shape != weight.shape:
        raise ValueError(f"means {_shape(means)} do not fit weight {_shape(weight)}: both need [..., K, d].")


def _checked(name: str, tensor: Tensor, dimensions: int) -> Tensor:
    """The tensor in float64, known to have at least so many dimensions, none of size 0, and to be finite."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}, not a torch tensor: convert it with torch.as_tensor.")
    if tensor.dim() < dimensions or 0 in tensor.shape:
        kind = "a matrix" if dimensions == 2 else "a vector"
        raise ValueError(f"{name} has shape {_shape(tensor)}: {kind}, or a batch of such, without empty dimensions is needed.")
    if not (finite := tensor.isfinite()).all():
        kind, where = "NaN" if tensor.isnan().any() else "infinite values", _where(~finite.flatten(-dimensions).all(-1))
        raise ValueError(f"{name} {_shape(tensor)} holds {kind}{where}: leave diverged networks out.")
    return tensor.double()


def _one_hot(features: Tensor, labels: Tensor, classes: int | None) -> Tensor:
    """Class membership [..., N, K] as 0.0 and 1.0, every class with at least one point."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels are {kind}, not a tensor of whole numbers: class numbers 0..K−1 are needed.")
    if labels.shape != features.shape[:-1]:
        raise ValueError(f"labels {_shape(labels)} do not fit features {_shape(features)}: they need [..., N] and [..., N, d].")
    lowest, highest = int(labels.min()), int(labels.max())
    classes = highest + 1 if classes is None else classes
    if lowest < 0 or highest >= classes:
        raise ValueError(f"label {lowest if lowest < 0 else highest} is outside 0..{classes - 1}: number the {classes} classes from 0.")
    members = (labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)).double()
    _no_empty_class(members.sum(-2))
    return members


def _no_empty_class(counts: Tensor) -> None:
    _at_least_two_classes(classes := counts.shape[-1])
    if (empty := counts == 0).any():
        number = int(empty.nonzero()[0, -1])
        raise ValueError(
            f"class {number} of 0..{classes - 1} has no point{_where(empty[..., number])}, so it has no mean: "
            f"give points of every class, or number the classes without gaps."
        )


def _at_least_two_classes(classes: int) -> None:
    if classes < 2:
        raise ValueError(f"{classes} class is too few: neural collapse compares at least 2.")


def _where(wrong: Tensor) -> str:
    """Names the first wrong batch member; empty where there is no batch."""
    return f" in batch member {tuple(wrong.nonzero()[0].tolist())}" if wrong.dim() else ""


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
