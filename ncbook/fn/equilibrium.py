"""The feature norm that squared distance and weight decay ask for on their own: the minimiser of a deep unconstrained features model.

The model. Features H belong to a chain of homogeneous layers, collapsed onto one mean a class; the K class means have one singular value
σ, the classifier W one singular value w. The D hidden layers that make H are free to point anywhere, so that only their size counts:
where D + 1 layers share one weight decay λ, every stationary point of a ReLU network balances them, ‖W₁‖ = … = ‖W_D‖ = ‖W‖ but for biases
(scale a unit's incoming weights and bias by c, its outgoing weights by 1/c, and set the derivative at c = 1 to 0; Du, Hu and Lee 2018 for
the flow). Hence σ = γ w^D
with a `gain` γ that data and architecture set and λ does not. With the loss ‖Wh + b − y‖² averaged over points and over K classes, or
summed over these, the part of the objective that depends on the scale is, per singular value,

    (1 − a)² / K² + λ/2 · (D + 1) · w²,    a = σ w,    and 1/K in place of 1/K² for the sum.

Its stationary points satisfy σ² = x · a / (1 − a) with x = λK²/2 (λK/2 for the sum). D = 1 is the model of Zhu et al. (2021), Zhou et al.
(2022) and Tirer and Bruna (2022), with λ_H n = λ/γ²; more layers are the deep one of Tirer and Bruna and of Súkeník et al. (2023). Under
ReLU the means form an orthogonal frame, whose length is σ: then `norm` is the mean norm of the features, biases apart.
"""

import math

from scipy.optimize import brentq

_FITS = {"mean": 2, "sum": 1}
"""The power of K by which the loss divides a class's squared distance."""


def _pull(weight_decay: float, classes: int, reduction: str) -> float:
    if reduction not in _FITS:
        raise ValueError(f"reduction={reduction!r} is unknown: choose one of {', '.join(_FITS)}.")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay={weight_decay} is none: give a number of at least 0.")
    return weight_decay * classes ** _FITS[reduction] / 2


def _weakest_fit(depth: int) -> float:
    """The `a` below which a stationary point is a maximum of the objective along the common scale of all layers."""
    if depth < 1:
        raise ValueError(f"depth={depth} is too small: features need at least one hidden layer.")
    return (depth - 1) / (2 * depth)


def _excess(fit: float, pull: float, gain: float, depth: int) -> float:
    """log of the norm that `fit` needs under this pull, over the one that it gives; times depth + 1. 0 at a stationary point."""
    return (depth + 1) / 2 * (math.log(pull) - math.log1p(-fit)) - (depth - 1) / 2 * math.log(fit) - math.log(gain)


def gain(norm: float, weight_decay: float, depth: int, classes: int = 10, reduction: str = "mean") -> float:
    """The gain γ of hidden layers whose features have the length `norm` at the minimiser. Raises `ValueError` for impossible values."""
    if not (math.isfinite(norm) and norm > 0):
        raise ValueError(f"norm={norm} is no length of features: give a positive number.")
    fit = 1 / (1 + _pull(weight_decay, classes, reduction) / norm**2)
    if fit <= _weakest_fit(depth):
        raise ValueError(f"norm={norm} is below every minimum under weight_decay={weight_decay}: so short features are no equilibrium.")
    return norm ** (depth + 1) / fit**depth


def critical_weight_decay(gain: float, depth: int, classes: int = 10, reduction: str = "mean") -> float:
    """The weight decay above which vanishing features are the only minimum."""
    return _weight_decay_at(_weakest_fit(depth), gain, depth, classes, reduction)


def turning_weight_decay(gain: float, depth: int, classes: int = 10, reduction: str = "mean") -> float:
    """The weight decay up to which the minimum that has features is lower than vanishing ones; for depth 1 it is `critical_weight_decay`.

    With D > 1 and K > 2 solutions of a lower rank, which are outside of this model, can be better than both (Súkeník et al. 2024).

    At a stationary point of fit a the objective is (1 − a)(1 + D a) / K², which is below the 1 / K² of vanishing features where
    a > (D − 1) / D. For D > 1 these are a local minimum at every weight decay: near 0 the penalty, of second order in w, outweighs the fit.
    """
    return _weight_decay_at(2 * _weakest_fit(depth), gain, depth, classes, reduction)


def _weight_decay_at(fit: float, gain: float, depth: int, classes: int, reduction: str) -> float:
    """The weight decay under which `fit` is stationary."""
    fitted = (1 - fit) * (fit ** (depth - 1) * gain**2) ** (1 / (depth + 1))
    return fitted / _pull(1, classes, reduction)


def equilibrium_norm(weight_decay: float, gain: float, depth: int, classes: int = 10, reduction: str = "mean") -> float:
    """Length of the features at the minimum that has any, 0 where there is none; as λ → 0 it tends to γ^(1 / (D + 1)), given for λ = 0.

    Under no weight decay at all the model has no equilibrium: every split of the targets between features and classifier fits them.
    """
    pull = _pull(weight_decay, classes, reduction)
    if weight_decay == 0:
        return gain ** (1 / (depth + 1))
    if weight_decay >= critical_weight_decay(gain, depth, classes, reduction):
        return 0.0
    lowest = max(_weakest_fit(depth), 1e-300)
    fit = brentq(_excess, lowest, 1 - 1e-15, args=(pull, gain, depth), xtol=1e-15)
    return math.sqrt(pull * fit / (1 - fit))
