"""The simplex equiangular tight frame (ETF): in which dimensions K vectors can form it, and how far from it label noise alone keeps them.

Knows no network: the vectors are free, found by optimisation, or placed on the simplex itself.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.linalg import eigh, null_space
from scipy.optimize import minimize

from ncbook.metrics import gram_floor, nc1_trace_ratio

TOUCHES = 1e-4
"""A distance from the simplex that counts as none: the optimiser stops at about 1e-7."""


def simplex_cosines(classes: int) -> np.ndarray:
    """The cosines [K, K] of the K vectors of a simplex ETF, K/(K−1) (I − 11ᵀ/K): 1 with itself, −1/(K−1) with any other."""
    return (classes * np.eye(classes) - 1) / (classes - 1)


def nearest_distance(classes: int, dim: int, seed: int) -> float:
    """How near to the simplex the cosines of K free vectors come in `dim` dimensions: ‖C − simplex‖_F at the end of L-BFGS.

    It starts from Gaussian vectors drawn from `seed`. Raises `ValueError` for less than two dimensions, where every cosine is ±1 and
    there is nothing to follow downhill.
    """
    if dim < 2:
        raise ValueError(f"dim={dim} leaves nothing to optimise, all cosines being ±1: give at least 2.")
    target = simplex_cosines(classes)

    def squared_distance(flat: np.ndarray) -> tuple[float, np.ndarray]:
        vectors = flat.reshape(classes, dim)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / lengths
        difference = unit @ unit.T - target
        slope = 4 * difference @ unit
        tangent = slope - (slope * unit).sum(axis=1, keepdims=True) * unit
        return float((difference**2).sum()), (tangent / lengths).ravel()

    start = np.random.default_rng(seed).standard_normal(classes * dim)
    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-16, "gtol": 1e-10}
    return float(np.sqrt(minimize(squared_distance, start, jac=True, method="L-BFGS-B", options=options).fun))


def nearest_distances(classes: int, dims: Sequence[int], starts: int = 5) -> pd.DataFrame:
    """`nearest_distance` from several starts in each dimension, a row a start: feature_dim, value, floor (`metrics.gram_floor`)."""
    rows = [(dim, nearest_distance(classes, dim, seed), gram_floor(classes, dim)) for dim in dims for seed in range(starts)]
    return pd.DataFrame(rows, columns=["feature_dim", "value", "floor"])


def random_distance(classes: int, dim: int, draws: int = 20_000) -> float:
    """The same distance for K Gaussian vectors, centred on their mean: its average over draws. What no collapse at all looks like."""
    vectors = np.random.default_rng(0).standard_normal((draws, classes, dim))
    vectors -= vectors.mean(axis=1, keepdims=True)
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    return float(np.linalg.norm(unit @ unit.transpose(0, 2, 1) - simplex_cosines(classes), axis=(1, 2)).mean())


def collapsed_nc1(clean: torch.Tensor, noisy: torch.Tensor, classes: int) -> float:
    """NC1 (trace) on the noisy labels of features that are perfectly collapsed on the clean ones: every point lies on its true vertex.

    Labels [N], int. Depends on the labels alone: for uniform noise the same for every tight frame of true means; for the labels drawn,
    within about a tenth.
    """
    if clean.equal(noisy):
        return 0.0
    return float(nc1_trace_ratio(torch.from_numpy(simplex_cosines(classes))[clean], noisy))


def least_collapsed_nc1(clean: torch.Tensor, noisy: torch.Tensor, classes: int) -> float:
    """The least of that NC1 over all arrangements of the true means, in any dimension; labels [N], int, every class among the noisy.

    With the true means as rows of V [K, d] it is tr(Vᵀ A V) / tr(Vᵀ B V), whose least is the least generalised eigenvalue of A and B [K, K]
    where the means do not all coincide, that is across the vector of ones.
    """
    counts = np.histogram2d(noisy.numpy(), clean.numpy(), bins=classes, range=[[0, classes]] * 2)[0]
    sizes = counts.sum(axis=1)
    shares = counts / sizes[:, None]
    within = (np.diag(counts.sum(axis=0)) - shares.T @ (sizes[:, None] * shares)) / sizes.sum()
    centred = shares - shares.mean(axis=0)
    apart = null_space(np.ones((1, classes)))
    return float(eigh(apart.T @ within @ apart, apart.T @ (centred.T @ centred / classes) @ apart, eigvals_only=True)[0])


def collapsed_nc1_closed(flipped: float, classes: int) -> float:
    """The same where a share `flipped` of the labels is spread evenly over the other classes: (1 − a²)/a² with a = 1 − qK/(K−1)."""
    shrink = 1 - flipped * classes / (classes - 1)
    return (1 - shrink**2) / shrink**2
