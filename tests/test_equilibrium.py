"""The equilibrium of the unconstrained features model against direct minimisation, and its limits."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from ncbook.fn.equilibrium import critical_weight_decay, equilibrium_norm, gain, turning_weight_decay

K = 3


def minimised(weight_decay: float, gain: float, depth: int, reduction: str) -> float:
    """Mean norm of the features of a chain of free square layers on `gain` times the one-hot classes, by L-BFGS over all weights."""
    share = K if reduction == "mean" else 1

    def loss(flat):
        layers = flat.reshape(depth + 1, K, K)
        inputs = [gain * np.eye(K)]
        for layer in layers:
            inputs.append(layer @ inputs[-1])
        missed = inputs[-1] - np.eye(K)
        back, gradients = 2 * missed / K / share, []
        for layer, seen in zip(layers[::-1], inputs[-2::-1]):
            gradients.append(back @ seen.T + weight_decay * layer)
            back = layer.T @ back
        value = (missed**2).sum() / K / share + weight_decay / 2 * (layers**2).sum()
        return value, np.concatenate([g.ravel() for g in gradients[::-1]])

    start = np.tile(np.eye(K), (depth + 1, 1, 1)) + 0.1 * np.random.default_rng(0).normal(size=(depth + 1, K, K))
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-10})
    features = gain * np.eye(K)
    for layer in found.x.reshape(depth + 1, K, K)[:-1]:
        features = layer @ features
    return float(np.linalg.norm(features, axis=0).mean())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("depth", "weight_decay"), [(1, 0.02), (1, 0.1), (2, 0.01), (3, 0.05)])
def test_the_closed_form_is_the_minimum_found_directly(depth, weight_decay, reduction):
    expected = equilibrium_norm(weight_decay, 2.0, depth, K, reduction)
    assert minimised(weight_decay, 2.0, depth, reduction) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("depth", [1, 3])
def test_features_vanish_above_the_critical_weight_decay_alone(depth):
    critical = critical_weight_decay(2.0, depth, K)
    assert minimised(1.05 * critical, 2.0, depth, "mean") == pytest.approx(0, abs=1e-2) == equilibrium_norm(1.05 * critical, 2.0, depth, K)
    assert minimised(0.9 * critical, 2.0, depth, "mean") == pytest.approx(equilibrium_norm(0.9 * critical, 2.0, depth, K), rel=1e-3)


@pytest.mark.parametrize("depth", [2, 5])
def test_the_collapsed_minimum_is_the_lower_one_up_to_a_weight_decay(depth):
    strength, turn = 3.35, turning_weight_decay(3.35, depth, K)
    widths = np.linspace(0, 2, 20001)

    def objective(weight_decay):
        return (1 - strength * widths ** (depth + 1)) ** 2 / K**2 + weight_decay / 2 * (depth + 1) * widths**2

    below, above = objective(0.99 * turn), objective(1.01 * turn)
    assert turn < critical_weight_decay(strength, depth, K) and below[0] < below[1]
    assert strength * widths[below.argmin()] ** depth == pytest.approx(equilibrium_norm(0.99 * turn, strength, depth, K), rel=1e-3)
    assert above.argmin() == 0 and turning_weight_decay(strength, 1, K) == critical_weight_decay(strength, 1, K)


@pytest.mark.parametrize("depth", [1, 2, 5, 8])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gain_is_what_gives_the_norm(depth, reduction):
    for weight_decay in (0, 1e-6, 1e-4, 1e-3):
        norm = equilibrium_norm(weight_decay, 1.7, depth, 10, reduction)
        assert gain(norm, weight_decay, depth, 10, reduction) == pytest.approx(1.7, rel=1e-6)


def test_one_layer_is_the_usual_model_in_closed_form():
    weight_decay, strength = 0.003, 1.3
    fit = 1 - 50 * weight_decay / strength  # 1 − (K²/2) √(λ λ_H n) with λ_H n = λ / γ²
    assert equilibrium_norm(weight_decay, strength, 1) == pytest.approx(math.sqrt(fit * strength))
    assert critical_weight_decay(strength, 1) == pytest.approx(strength / 50)


def test_weight_decay_hardly_moves_the_norm_until_it_is_near_the_critical_one():
    norms = [equilibrium_norm(weight_decay, 1.4, 5) for weight_decay in (0, 1e-6, 1e-4, 1e-3)]
    assert norms == sorted(norms, reverse=True) and norms[2] / norms[0] > 0.99 and norms[3] / norms[0] > 0.94
    assert critical_weight_decay(1.4, 5) < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equilibrium_norm(-1, 1, 5), "weight_decay=-1"),
        (lambda: equilibrium_norm(1e-4, 1, 5, reduction="median"), "reduction='median'"),
        (lambda: critical_weight_decay(1, 0), "depth=0"),
        (lambda: gain(0.0, 1e-4, 5), "norm=0"),
        (lambda: gain(0.01, 1e-2, 5), "below every minimum"),
    ],
)
def test_impossible_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
