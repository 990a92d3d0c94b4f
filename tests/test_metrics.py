"""The metrics against independent oracles, closed forms, invariances and the known faults of other implementations."""

import math

import numpy as np
import pytest
import torch
from cka import cka_from_features
from cka.hsic import hsic
from ckatorch import cka_base
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import calinski_harabasz_score
from sklearn.neighbors import NearestCentroid

from ncbook import metrics
from ncbook.metrics import (
    collapse_from_moments,
    collapse_metrics,
    disagreements,
    feature_norm,
    gram_floor,
    linear_cka,
    nc1,
    nc1_trace_ratio,
    nc2,
    nc2_gram_distance,
    nc2_weight,
    nc3,
    nc3_uncentred,
    nc4,
)

KEYS = ["nc1", "nc1_trace_ratio", "nc2_equinorm", "nc2_equiangularity", "nc2_gram", "nc3", "nc3_uncentred", "nc4"]
SHAPES = [(400, 16, 10), (300, 64, 10), (200, 4, 10), (120, 9, 10), (90, 3, 2)]  # points, features, classes


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def problem(points=200, dim=12, classes=5, seed=0):
    """Imbalanced classes around random means with a common offset, and a random classifier with a bias."""
    drawn = (gaussian(points - classes, seed=seed + 1).abs() * classes / 2).long().clamp(max=classes - 1)
    labels = torch.cat([torch.arange(classes), drawn])
    features = gaussian(points, dim, seed=seed + 2) + 2 * gaussian(classes, dim, seed=seed + 3)[labels] + 3 * gaussian(dim, seed=seed + 4)
    return features, labels, gaussian(classes, dim, seed=seed + 5), gaussian(classes, seed=seed + 6)


def rotation(dim: int, seed: int = 7) -> torch.Tensor:
    return torch.linalg.qr(gaussian(dim, dim, seed=seed))[0]


def simplex(classes: int, dim: int) -> torch.Tensor:
    """Rows of length 1 with cosines −1/(K−1), in at least K dimensions."""
    rows = torch.zeros(classes, dim, dtype=torch.float64)
    rows[:, :classes] = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return rows / rows.norm(dim=-1, keepdim=True)


def reference(features, labels, weight, bias):
    """Every metric of collapse from its definition, in NumPy, class by class and pair by pair."""
    h, y, w, b = (t.numpy() for t in (features, labels, weight, bias))
    classes, dim = w.shape
    means = np.array([h[y == k].mean(0) for k in range(classes)])
    centred = means - means.mean(0)
    between = sum(np.outer(m, m) for m in centred) / classes
    within = sum(np.outer(p, p) for p in (h - means[y])) / len(h)
    norms = np.linalg.norm(centred, axis=1)
    cosines = np.array([[p @ q / np.linalg.norm(p) / np.linalg.norm(q) for q in centred] for p in centred])
    ideal = classes / (classes - 1) * (np.eye(classes) - np.ones((classes, classes)) / classes)
    nearest = [min(range(classes), key=lambda k: np.linalg.norm(p - means[k])) for p in h]
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / classes,
        "nc1_trace_ratio": np.trace(within) / np.trace(between),
        "nc2_equinorm": norms.std(ddof=1) / norms.mean(),
        "nc2_equiangularity": np.mean([abs(cosines[k, j] + 1 / (classes - 1)) for k in range(classes) for j in range(classes) if j != k]),
        "nc2_gram": np.sqrt(((cosines - ideal) ** 2).sum()),
        "nc3": ((w / np.sqrt((w**2).sum()) - centred / np.sqrt((centred**2).sum())) ** 2).sum(),
        "nc3_uncentred": np.sqrt(sum(np.sum((p / np.linalg.norm(p) - q / np.linalg.norm(q)) ** 2) for p, q in zip(w, means, strict=True))),
        "nc4": np.mean([np.argmax(w @ p + b) != k for p, k in zip(h, nearest, strict=True)]),
    }


class TestOracles:
    @pytest.mark.parametrize(("points", "dim", "classes"), SHAPES)
    def test_collapse_metrics_agree_with_their_definitions(self, points, dim, classes):
        arguments = problem(points, dim, classes)
        found, expected = collapse_metrics(*arguments), reference(*arguments)
        assert list(found) == KEYS
        assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-6, abs=1e-9)

    @pytest.mark.parametrize(("points", "dim", "classes"), SHAPES)
    def test_trace_ratio_agrees_with_the_calinski_harabasz_score_when_balanced(self, points, dim, classes):
        labels = torch.arange(points) % classes
        features = gaussian(points, dim) + gaussian(classes, dim, seed=1)[labels]
        expected = (points - classes) / ((classes - 1) * calinski_harabasz_score(features.numpy(), labels.numpy()))
        assert nc1_trace_ratio(features, labels).item() == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize(("points", "dim", "classes"), SHAPES)
    def test_nc4_agrees_with_nearest_centroid(self, points, dim, classes):
        features, labels, weight, bias = problem(points, dim, classes)
        nearest = NearestCentroid().fit(features.numpy(), labels.numpy()).predict(features.numpy())
        expected = np.mean(nearest != (features @ weight.T + bias).argmax(-1).numpy())
        assert 0 < expected < 1
        assert nc4(features, labels, weight, bias).item() == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(("points", "p", "q"), [(50, 8, 5), (20, 100, 7), (20, 6, 90), (30, 30, 30), (4, 3, 5)])
    @pytest.mark.parametrize("debiased", [False, True])
    def test_cka_agrees_with_ckatorch(self, points, p, q, debiased):
        x = gaussian(points, p) + 1
        y = (x @ gaussian(p, q, seed=1)) + gaussian(points, q, seed=2)
        expected = cka_base(x, y, unbiased=debiased, method="fro_norm").item()
        assert linear_cka(x, y, debiased=debiased).item() == pytest.approx(expected, rel=1e-6)

    def test_debiased_cka_agrees_with_pytorch_cka(self):
        x = gaussian(60, 40)
        y = x[:, :20] + gaussian(60, 20, seed=1)
        assert linear_cka(x, y, debiased=True).item() == pytest.approx(cka_from_features(x, y).item(), rel=1e-6)


class TestClosedForms:
    def test_perfect_collapse_is_zero_everywhere(self):
        labels = torch.arange(50) % 5
        means = 3 * simplex(5, 8)
        for name, value in collapse_metrics(means[labels], labels, 0.7 * means).items():
            assert value.item() == pytest.approx(0, abs=1e-12), name
        assert list(nc2_weight(means)) == [pytest.approx(0, abs=1e-12)] * 2

    @pytest.mark.parametrize("offset", [0.5, 1.0, 2.0, 5.0])
    def test_uncentred_nc3_measures_a_common_offset(self, offset):
        labels, means = torch.arange(100) % 10, simplex(10, 12)
        shifted = means.clone()
        shifted[:, 11] += offset
        assert nc3_uncentred(shifted[labels], labels, means).item() == pytest.approx(math.sqrt(10 * (2 - 2 / math.sqrt(1 + offset**2))))
        assert nc3(shifted[labels], labels, means).item() == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize(("dim", "floor"), [(2, 6.24), (3, 4.71), (5, 2.98), (8, 1.18), (9, 0), (64, 0)])
    def test_gram_floor(self, dim, floor):
        assert gram_floor(10, dim) == pytest.approx(floor, abs=0.005)
        labels = torch.arange(100) % 10
        assert all(nc2_gram_distance(gaussian(100, dim, seed=seed), labels) >= floor for seed in range(20))

    def test_gram_floor_is_attained_by_a_tight_frame(self):
        angles = torch.arange(10, dtype=torch.float64) * 2 * math.pi / 10
        frame = torch.stack([angles.cos(), angles.sin()], dim=-1)
        assert nc2_gram_distance(frame, torch.arange(10)).item() == pytest.approx(gram_floor(10, 2))

    @pytest.mark.parametrize("flipped", [1, 2, 3])
    def test_trace_ratio_of_collapsed_features_on_noisy_labels(self, flipped):
        classes = 10  # each class gives `flipped` points to each other class, out of 90
        clean = torch.arange(classes).repeat_interleave(90)
        noisy = clean.clone().reshape(classes, 90)
        for k in range(classes):
            noisy[k, : 9 * flipped] = torch.tensor([j for j in range(classes) if j != k]).repeat(flipped)
        rate = 9 * flipped / 90
        a = 1 - rate * classes / (classes - 1)
        features = simplex(classes, 16)[clean] + 2
        assert nc1_trace_ratio(features, noisy.flatten()).item() == pytest.approx((1 - a**2) / a**2)
        assert nc1_trace_ratio(features, clean).item() == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("debiased", [False, True])
    def test_cka_of_two_collapsed_representations_is_one(self, debiased):
        labels = torch.arange(100) % 10
        x, y = simplex(10, 10) @ rotation(10), 5 * simplex(10, 200) + 1
        assert linear_cka(x[labels], y[labels], debiased=debiased).item() == pytest.approx(1, abs=1e-12)

    def test_biased_cka_of_independent_data_grows_with_the_dimension_and_the_debiased_does_not(self):
        for dim, biased in [(32, 0.06), (2560, 0.84)]:
            x, y = gaussian(500, dim), gaussian(500, dim, seed=1)
            assert linear_cka(x, y).item() == pytest.approx(biased, abs=0.01)
            assert linear_cka(x, y, debiased=True).item() == pytest.approx(0, abs=0.01)

    def test_feature_norm(self):
        assert feature_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item() == 3.0


class TestKnownFaults:
    """What goes wrong in other implementations."""

    @pytest.mark.parametrize("dim", [1, 3, 8, 9, 10])
    def test_nc1_works_where_svds_of_rank_k_minus_1_fails(self, dim):
        arguments = problem(200, dim, 10)
        assert nc1(*arguments[:2]).item() == pytest.approx(reference(*arguments)["nc1"], rel=1e-6)

    def test_nc1_is_not_spoilt_by_the_rounding_of_float32_features_in_a_dead_direction(self):
        features, labels, *_ = problem(dim=3, classes=6)
        dead = torch.cat([features, 1 + 1e-9 * gaussian(200, 1)], dim=-1)
        assert nc1(dead, labels).item() == pytest.approx(nc1(features, labels).item(), rel=1e-6)

    def test_an_empty_class_is_not_a_mean_of_zero(self):
        features, labels, weight, _ = problem(classes=5)
        for function in (nc3, nc3_uncentred, nc4, collapse_metrics):
            with pytest.raises(ValueError, match=r"class 4 of 0\.\.4 has no point, so it has no mean: give points of every class"):
                function(features, labels.clamp(max=3), weight)
        for function in (nc1, nc1_trace_ratio, nc2, nc2_gram_distance):
            with pytest.raises(ValueError, match=r"class 2 of 0\.\.4 has no point"):
                function(features, torch.where(labels == 2, 1, labels))

    def test_the_empty_class_of_one_batch_member_is_named(self):
        features, labels, *_ = problem(classes=5)
        both = torch.stack([labels, labels.clamp(max=3)])
        with pytest.raises(ValueError, match=r"class 4 of 0\.\.4 has no point in batch member \(1,\)"):
            nc1(torch.stack([features, features]), both)

    @pytest.mark.parametrize("classes", [2, 3, 7, 26])
    def test_the_number_of_classes_is_not_fixed(self, classes):
        labels = torch.arange(classes * 4) % classes
        means = simplex(classes, classes + 1)
        assert max(value.item() for value in collapse_metrics(means[labels], labels, means).values()) < 1e-7

    def test_imbalance_does_not_move_the_centre(self):
        means, balanced = simplex(3, 3) + 1, torch.arange(3)
        imbalanced = torch.tensor([0] * 50 + [1, 2])
        for function in (nc2_gram_distance, lambda h, y: nc2(h, y).equinorm, lambda h, y: nc3(h, y, means - 1)):
            assert function(means[imbalanced], imbalanced).item() == pytest.approx(function(means[balanced], balanced).item(), abs=1e-7)

    def test_the_bias_counts_in_nc4(self):
        labels, means = torch.arange(50) % 5, simplex(5, 5)
        shove = torch.tensor([100.0, 0, 0, 0, 0])
        assert nc4(means[labels], labels, means).item() == 0
        assert nc4(means[labels], labels, means, shove).item() == pytest.approx(0.8)

    @pytest.mark.parametrize("debiased", [False, True])
    def test_cka_has_no_epsilon_that_spoils_small_scales(self, debiased):
        x, y = gaussian(40, 6), gaussian(40, 9, seed=1)
        expected = linear_cka(x, y, debiased=debiased).item()
        for scale in (1e-30, 1e-8, 1e8):
            assert linear_cka(scale * x, scale * y, debiased=debiased).item() == pytest.approx(expected, rel=1e-9)

    def test_debiased_cka_is_not_clamped(self):
        x, y = next(p for p in ((gaussian(20, 5, seed=s), gaussian(20, 5, seed=99 - s)) for s in range(20)) if cka_from_features(*p) == 0)
        xy, xx, yy = (value.item() for value in hsic((x @ x.T)[None], (y @ y.T)[None]))
        assert xy < 0
        assert linear_cka(x, y, debiased=True).item() == pytest.approx(xy / math.sqrt(xx * yy), rel=1e-6)

    def test_every_point_counts_not_only_the_last_minibatch(self):
        features, labels, weight, bias = problem(400)
        before = collapse_metrics(features, labels, weight, bias)
        for point in (0, 200, 399):
            moved = features.clone()
            moved[point] -= 200 * weight[labels[point]]
            after = collapse_metrics(moved, labels, weight, bias)
            assert all(after[name].item() != pytest.approx(before[name].item(), rel=1e-6) for name in KEYS), point


SINGLE = {
    "nc1": lambda h, y, w, b: nc1(h, y),
    "nc1_trace_ratio": lambda h, y, w, b: nc1_trace_ratio(h, y),
    "nc2_equinorm": lambda h, y, w, b: nc2(h, y).equinorm,
    "nc2_equiangularity": lambda h, y, w, b: nc2(h, y).equiangularity,
    "nc2_gram": lambda h, y, w, b: nc2_gram_distance(h, y),
    "nc3": lambda h, y, w, b: nc3(h, y, w),
    "nc3_uncentred": lambda h, y, w, b: nc3_uncentred(h, y, w),
    "nc4": nc4,
    "nc2_weight_equinorm": lambda h, y, w, b: nc2_weight(w).equinorm,
    "nc2_weight_equiangularity": lambda h, y, w, b: nc2_weight(w).equiangularity,
    "feature_norm": lambda h, y, w, b: feature_norm(h),
    "cka": lambda h, y, w, b: linear_cka(h, torch.nn.functional.one_hot(y)),
    "cka_debiased": lambda h, y, w, b: linear_cka(h, torch.nn.functional.one_hot(y), debiased=True),
}
ORDER, RELABEL = torch.randperm(200, generator=torch.Generator().manual_seed(3)), torch.tensor([3, 0, 4, 1, 2])
Q = rotation(12)
TRANSFORMATIONS = {
    "rotate all": lambda h, y, w, b: (h @ Q, y, w @ Q, b),
    "rotate features": lambda h, y, w, b: (h @ Q, y, w, b),
    "scale features": lambda h, y, w, b: (2.5 * h, y, w, b),
    "scale weight": lambda h, y, w, b: (h, y, 2.5 * w, 2.5 * b),
    "shift features": lambda h, y, w, b: (h + 4, y, w, b),
    "shift logits": lambda h, y, w, b: (h, y, w, b + 4),
    "permute points": lambda h, y, w, b: (h[ORDER], y[ORDER], w, b),
    "relabel classes": lambda h, y, w, b: (h, RELABEL[y], w[RELABEL.argsort()], b[RELABEL.argsort()]),
    "repeat points": lambda h, y, w, b: (h.repeat(2, 1), y.repeat(2), w, b),
    "stretch one feature": lambda h, y, w, b: (torch.cat([20 * h[:, :1], h[:, 1:]], dim=-1), y, w, b),
}
# What each transformation changes; everything else it must leave alone.
OF_FEATURES = {"nc1", "nc1_trace_ratio", "nc2_equinorm", "nc2_equiangularity", "nc2_gram"}
CHANGED_BY = {
    "rotate all": set(),
    "rotate features": {"nc3", "nc3_uncentred", "nc4"},
    "scale features": {"nc4", "feature_norm"},  # nc4: the bias stays behind
    "scale weight": set(),
    "shift features": {"nc3_uncentred", "nc4", "feature_norm"},
    "shift logits": set(),
    "permute points": set(),
    "relabel classes": set(),
    "repeat points": {"cka_debiased"},  # the points are no longer independent draws
    "stretch one feature": OF_FEATURES | {"nc3", "nc3_uncentred", "nc4", "feature_norm", "cka", "cka_debiased"},
}


class TestInvariances:
    @pytest.mark.parametrize("transformation", TRANSFORMATIONS)
    @pytest.mark.parametrize("metric", SINGLE)
    def test_each_transformation_changes_what_it_should_and_nothing_else(self, metric, transformation):
        before, after = SINGLE[metric](*problem()), SINGLE[metric](*TRANSFORMATIONS[transformation](*problem()))
        same = after.item() == pytest.approx(before.item(), rel=1e-9)
        assert same == (metric not in CHANGED_BY[transformation])

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        points=st.integers(30, 80),
        dim=st.integers(1, 20),
        classes=st.integers(2, 8),
        scale=st.floats(1e-3, 1e3),
        shift=st.floats(-50, 50),
        seed=st.integers(0, 10_000),
    )
    def test_collapse_metrics_ignore_rotation_scale_order_and_names(self, points, dim, classes, scale, shift, seed):
        features, labels, weight, _ = problem(points, dim, classes, seed)
        order = torch.randperm(points, generator=torch.Generator().manual_seed(seed))
        names = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
        q = rotation(dim, seed)
        before = collapse_metrics(features, labels, weight)
        after = collapse_metrics(scale * features[order] @ q, names[labels][order], (weight @ q)[names.argsort()])
        for name in KEYS:
            assert after[name].item() == pytest.approx(before[name].item(), rel=1e-6, abs=1e-6), name
        shifted = collapse_metrics(features + shift, labels, weight)
        for name in set(KEYS) - {"nc3_uncentred", "nc4"}:
            assert shifted[name].item() == pytest.approx(before[name].item(), rel=1e-6, abs=1e-6), name

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        points=st.integers(5, 60),
        p=st.integers(1, 70),
        q=st.integers(1, 70),
        scale=st.floats(1e-3, 1e3),
        shift=st.floats(-50, 50),
        seed=st.integers(0, 10_000),
        debiased=st.booleans(),
    )
    def test_cka_is_symmetric_bounded_and_ignores_rotation_scale_shift_and_order(self, points, p, q, scale, shift, seed, debiased):
        x, y = gaussian(points, p, seed=seed), gaussian(points, q, seed=seed + 1)
        value = linear_cka(x, y, debiased).item()
        assert (-1 - 1e-9 if debiased else 0) <= value <= 1 + 1e-9
        assert linear_cka(y, x, debiased).item() == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert linear_cka(x, scale * x @ rotation(p, seed) + shift, debiased).item() == pytest.approx(1, abs=1e-6)
        order = torch.randperm(points, generator=torch.Generator().manual_seed(seed))
        moved = (scale * x @ rotation(p, seed) + shift)[order]
        assert linear_cka(moved, y[order], debiased).item() == pytest.approx(value, rel=1e-6, abs=1e-6)

    def test_nc1_ignores_any_invertible_map_when_the_class_means_span_the_space_and_the_trace_ratio_does_not(self):
        features, labels, *_ = problem(dim=4, classes=6)
        mapped = features @ gaussian(4, 4, seed=11)
        assert nc1(mapped, labels).item() == pytest.approx(nc1(features, labels).item(), rel=1e-6)
        assert nc1_trace_ratio(mapped, labels).item() != pytest.approx(nc1_trace_ratio(features, labels).item(), rel=1e-2)

    def test_a_general_map_changes_cka(self):
        x = gaussian(50, 6)
        assert linear_cka(x, x @ gaussian(6, 6, seed=1)).item() < 0.95


class TestBatches:
    def test_a_batch_equals_a_loop_over_its_members_each_with_its_labels(self):
        members = [problem(seed=seed) for seed in range(6)]
        stacked = [torch.stack(tensors).unflatten(0, (2, 3)) for tensors in zip(*members, strict=True)]
        for name, metric in SINGLE.items():
            loop = torch.stack([metric(*member) for member in members]).reshape(2, 3)
            torch.testing.assert_close(metric(*stacked), loop, rtol=1e-10, atol=1e-12, msg=name)
        for name, value in collapse_metrics(*stacked).items():
            torch.testing.assert_close(value, SINGLE[name](*stacked), rtol=0, atol=0, msg=name)

    @pytest.mark.parametrize("dim", [3, 12, 300])
    def test_moments_and_single_decisions_say_what_the_points_say(self, dim):
        stacked = [torch.stack(tensors) for tensors in zip(*(problem(dim=dim, seed=seed) for seed in range(3)), strict=True)]
        features, labels, weight, bias = stacked
        members = torch.nn.functional.one_hot(labels).double()
        counts = members.sum(-2)
        means = members.mT @ features / counts.unsqueeze(-1)
        residuals = features - members @ means
        expected = collapse_metrics(*stacked)
        found = collapse_from_moments(counts, means, residuals.mT @ residuals, weight)
        found["nc4"] = disagreements(features, means, weight, bias).double().mean(-1)
        assert list(found) == list(expected)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=name)
        assert list(collapse_from_moments(counts, means, residuals.mT @ residuals)) == KEYS[:5]

    @pytest.mark.parametrize("dim", [5, 60])
    @pytest.mark.parametrize("debiased", [False, True])
    def test_cka_of_a_batch_equals_a_loop(self, dim, debiased):
        x, y = gaussian(3, 30, dim), gaussian(3, 30, 7, seed=1)
        loop = torch.stack([linear_cka(a, b, debiased) for a, b in zip(x, y, strict=True)])
        torch.testing.assert_close(linear_cka(x, y, debiased), loop, rtol=1e-10, atol=1e-12)

    def test_float32_input_is_computed_in_float64_without_gradients(self):
        features, labels, weight, bias = problem()
        single = [features.float(), labels.int(), weight.float().requires_grad_(), bias.float()]
        with torch.no_grad():
            found = collapse_metrics(*single)
        expected = collapse_metrics(single[0].double(), labels, single[2].detach().double(), single[3].double())
        for name, value in found.items():
            assert value.dtype == torch.float64
            assert not value.requires_grad
            assert torch.equal(value, expected[name])
        assert linear_cka(single[0], single[0]).dtype == feature_norm(single[0]).dtype == torch.float64

    def test_the_arguments_are_left_as_they_were(self):
        arguments = problem()
        copies = [tensor.clone() for tensor in arguments]
        collapse_metrics(*arguments)
        linear_cka(arguments[0], arguments[0])
        assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


class TestUndefinedValues:
    @pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
    def test_class_means_that_coincide(self, constant):
        _, labels, weight, _ = problem()
        found = collapse_metrics(torch.full((200, 12), constant, dtype=torch.float64), labels, weight)
        assert {name for name, value in found.items() if value.isnan()} >= set(KEYS) - {"nc3_uncentred"}

    def test_one_class_at_the_centre_has_no_angle(self):
        means = torch.tensor([[1.0, 0], [-1, 0], [0, 0]])
        found = collapse_metrics(means, torch.arange(3), torch.ones(3, 2))
        assert {name for name, value in found.items() if value.isnan()} == {"nc2_equiangularity", "nc2_gram", "nc3_uncentred"}

    def test_a_weight_of_zero_has_no_direction(self):
        features, labels, weight, _ = problem()
        assert nc3(features, labels, 0 * weight).isnan()
        assert all(value.isnan() for value in nc2_weight(0 * weight))

    @pytest.mark.parametrize("debiased", [False, True])
    @pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
    def test_cka_of_a_constant_representation(self, constant, debiased):
        assert linear_cka(torch.full((500, 4), constant, dtype=torch.float64), gaussian(500, 4), debiased).isnan()

    def test_debiased_cka_of_points_all_equally_far_apart(self):
        for points in (5, 7, 10):
            assert linear_cka(rotation(points), gaussian(points, 4), debiased=True).isnan()

    def test_an_undefined_member_leaves_the_others_alone(self):
        features, labels, weight, _ = problem()
        batch = collapse_metrics(torch.stack([features, 0 * features]), torch.stack([labels] * 2), torch.stack([weight] * 2))
        for name, value in collapse_metrics(features, labels, weight).items():
            assert batch[name][0].item() == pytest.approx(value.item(), rel=1e-10)
            assert batch[name][1].isnan()


H, Y, W = torch.ones(6, 4), torch.tensor([0, 1, 2] * 2), torch.ones(3, 4)
REFUSALS = [
    (lambda: nc1(H, Y[:5]), ValueError, "labels [5] do not fit features [6, 4]: they need [..., N] and [..., N, d]."),
    (lambda: nc1(H.expand(2, 6, 4), Y), ValueError, "labels [6] do not fit features [2, 6, 4]"),
    (lambda: nc3(H, Y, W[:, :3]), ValueError, "weight [3, 3] does not fit features [6, 4]: they need [..., K, d] and [..., N, d]."),
    (lambda: nc4(H, Y, W, torch.zeros(2)), ValueError, "bias [2] does not fit weight [3, 4]"),
    (lambda: linear_cka(H, H[:5]), ValueError, "x [6, 4] and y [5, 4] do not show the same points"),
    (lambda: nc1(H[0], Y[0]), ValueError, "features has shape [4]: a matrix, or a batch of such"),
    (lambda: feature_norm(H[:0]), ValueError, "features has shape [0, 4]"),
    (lambda: nc1(H * math.nan, Y), ValueError, "features [6, 4] holds NaN: leave diverged networks out."),
    (lambda: nc1(torch.stack([H, H / 0]), Y.expand(2, 6)), ValueError, "features [2, 6, 4] holds infinite values in batch member (1,)"),
    (lambda: nc2_weight(W * math.nan), ValueError, "weight [3, 4] holds NaN"),
    (lambda: nc4(H, Y, W, torch.full((3,), math.nan)), ValueError, "bias [3] holds NaN"),
    (lambda: linear_cka(H, H * math.nan), ValueError, "y [6, 4] holds NaN"),
    (lambda: nc3(H, Y + 1, W), ValueError, "label 3 is outside 0..2: number the 3 classes from 0."),
    (lambda: nc1(H, Y - 1), ValueError, "label -1 is outside 0..1"),
    (lambda: nc1(H, 0 * Y), ValueError, "1 class is too few"),
    (lambda: nc2_weight(W[:1]), ValueError, "1 class is too few"),
    (lambda: nc1(H, Y.float()), TypeError, "labels are torch.float32, not a tensor of whole numbers"),
    (lambda: nc1(H.numpy(), Y), TypeError, "features is a ndarray, not a torch tensor: convert it with torch.as_tensor."),
    (lambda: linear_cka(H[:3], H[:3], debiased=True), ValueError, "3 points are too few for debiased CKA: it needs at least 4."),
    (lambda: collapse_from_moments(Y, W, torch.eye(4)), ValueError, "counts [6], means [3, 4] and scatter [4, 4] do not fit"),
    (lambda: collapse_from_moments(torch.ones(3), W, torch.eye(3)), ValueError, "means [3, 4] and scatter [3, 3] do not fit"),
    (lambda: collapse_from_moments(Y[:3], W, torch.eye(4)), ValueError, "class 0 of 0..2 has no point"),
    (lambda: collapse_from_moments(torch.ones(3), W, torch.eye(4), W[:2]), ValueError, "means [3, 4] do not fit weight [2, 4]"),
    (lambda: disagreements(H, W[:2], W), ValueError, "means [2, 4] do not fit weight [3, 4]: both need [..., K, d]."),
    (lambda: gram_floor(10, 0), ValueError, "dim=0 is no feature dimension"),
    (lambda: gram_floor(1, 2), ValueError, "1 class is too few"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS, ids=[message[:50] for *_, message in REFUSALS])
def test_refusals_name_what_is_wrong(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_the_public_names():
    public = {name for name, value in vars(metrics).items() if getattr(value, "__module__", None) == metrics.__name__ and name[0] != "_"}
    assert public == {
        *("nc1", "nc1_trace_ratio", "nc2", "NC2", "nc2_weight", "nc2_gram_distance", "gram_floor", "nc3", "nc3_uncentred", "nc4"),
        *("collapse_metrics", "collapse_from_moments", "disagreements", "feature_norm", "linear_cka", "centred_unit"),
    }
