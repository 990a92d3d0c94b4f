"""The simplex by optimisation against the closed-form floor; label noise on collapsed features against its formula; their words."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from ncbook import analysis, simplex
from ncbook.metrics import gram_floor, nc1_trace_ratio, nc2_gram_distance
from ncbook.report import dimensions


@pytest.mark.parametrize(("classes", "dims"), [(10, range(2, 13)), (4, range(2, 6)), (3, (2, 3))])
def test_free_vectors_come_down_to_the_floor_and_no_further(classes, dims):
    found = simplex.nearest_distances(classes, dims, starts=2)
    assert found["floor"].tolist() == [gram_floor(classes, dim) for dim in dims for _ in range(2)]
    assert found["value"].to_numpy() == pytest.approx(found["floor"].to_numpy(), abs=1e-6)
    touched = found["value"] < simplex.TOUCHES
    assert (touched == (found["feature_dim"] >= classes - 1)).all()
    pd.testing.assert_frame_equal(found, simplex.nearest_distances(classes, dims, starts=2))


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match="dim=1 leaves nothing to optimise, all cosines being ±1: give at least 2."):
        simplex.nearest_distance(10, 1, 0)


def test_random_means_lie_where_the_metric_puts_them():
    means = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 10, 9)))
    measured = nc2_gram_distance(means, torch.arange(10).expand(200, 10))
    assert simplex.random_distance(10, 9, draws=200) == pytest.approx(float(measured.mean()))


@pytest.mark.parametrize("dim", [2, 64])
def test_the_mean_over_random_means_depends_little_on_the_draws(dim):
    means = torch.from_numpy(np.random.default_rng(1).standard_normal((20_000, 10, dim)))
    others = nc2_gram_distance(means, torch.arange(10).expand(20_000, 10)).mean()
    assert simplex.random_distance(10, dim) == pytest.approx(float(others), rel=5e-3)


def test_noise_alone_costs_collapsed_features_what_the_formula_says():
    clean = torch.arange(10).repeat_interleave(900)
    noisy = clean.clone().reshape(10, 900)
    for k in range(10):
        noisy[k, :162] = torch.tensor([other for other in range(10) if other != k]).repeat(18)  # 18 %, evenly
    noisy = noisy.flatten()
    assert simplex.collapsed_nc1(clean, noisy, 10) == pytest.approx(simplex.collapsed_nc1_closed(0.18, 10)) == pytest.approx(0.5625)
    assert simplex.collapsed_nc1(clean, clean, 10) == simplex.collapsed_nc1_closed(0, 10) == 0


def test_no_arrangement_of_collapsed_means_comes_below_the_least_and_one_comes_to_it():
    """By brute force: three means on a line, at all angles within the plane of what tells them apart; and many at random in space."""
    generator = np.random.default_rng(0)
    clean = torch.from_numpy(generator.integers(0, 3, 300))
    noisy = torch.where(torch.from_numpy(generator.random(300) < 0.3), torch.from_numpy(generator.integers(0, 3, 300)), clean)
    least = simplex.least_collapsed_nc1(clean, noisy, 3)
    plane = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
    angles = np.linspace(0, np.pi, 1000)
    lines = torch.from_numpy(np.cos(angles)[:, None] * plane[0] + np.sin(angles)[:, None] * plane[1])[..., None]
    values = nc1_trace_ratio(lines[:, clean], noisy.expand(1000, -1))
    assert float(values.min()) == pytest.approx(least, rel=1e-4) and float(values.min()) >= least
    anywhere = nc1_trace_ratio(torch.from_numpy(generator.standard_normal((1000, 3, 4)))[:, clean], noisy.expand(1000, -1))
    assert float(anywhere.min()) > least and simplex.collapsed_nc1(clean, noisy, 3) > least > 0
    assert simplex.least_collapsed_nc1(clean, clean, 3) == 0


class Labels:
    """What the chapter's words need of `data.Data`."""

    y_clean = torch.arange(10).repeat(10)
    y_noisy = torch.cat([torch.arange(10).roll(1), torch.arange(10).repeat(9)])
    flipped = y_clean != y_noisy
    classes = 10


def make_last(nc2, seeds=(0, 1), dims=(2, 3, 8, 9, 10)):
    rows = [
        {"model": "resnet1d", "optimizer": "sgd", "width": 64, "feature_dim": dim, "seed": seed, "nc1_trace_ratio_noisy": 0.1 * dim}
        | {"nc2_gram_noisy": nc2(dim) + 0.01 * seed, "nc2_gram_clean": nc2(dim)}
        for dim in dims
        for seed in seeds
    ]
    return pd.DataFrame(rows).astype({"feature_dim": "Int64"})


def make_texts(last):
    means = analysis.seed_means(
        last, ["nc1_trace_ratio_noisy", "nc2_gram_noisy", "nc2_gram_clean"], by=[*analysis.CURVE, "width", "feature_dim"]
    )
    distances = simplex.nearest_distances(10, range(7, 11), starts=1)
    return means, dimensions.texts(last, means, analysis.report_points("exp3"), distances, Labels())


def test_words_follow_a_fall_to_the_floor_and_its_absence():
    means, fallen = make_texts(make_last(lambda dim: gram_floor(10, dim) + 0.5))
    drop = "da d = 8 a d = 9: −1,18 [−1,18; −1,18], intervallo tutto sotto lo zero (il minimo geometrico: −1,18)"
    assert fallen["drops_clean"].startswith(drop)
    assert fallen["at_threshold_clean"] == "0,50 [0,50; 0,50]" and fallen["permits"] == "con d = 9 e 10: tutte e sole quelle con d ≥ 9"
    assert fallen["flipped_count"] == "10" and fallen["flipped_share"] == "il 10 %" and fallen["optimiser_gap"].startswith("10⁻")
    assert fallen["floor_last_steps"] == "di 0,60 da d = 7 a 8 e di 1,18 da d = 8 a 9"
    assert fallen["floor_shares"].startswith("d = 2: 92,5 %; d = 3: 90,3 %; d = 8: ")
    _, flat = make_texts(make_last(lambda dim: 7.0))
    assert "da d = 8 a d = 9: 0,00 [0,00; 0,00], intervallo che contiene lo zero" in flat["drops_clean"]
    rows = dimensions.nc2_rows(means, analysis.report_points("exp3"), 10)
    assert rows[0][0] == "2" and rows[0][2] == "6,24" and rows[0][4:] == ["6,74 [6,74; 6,74]", "6,21"]
    assert rows[3][5] == "1,90" and rows[3][2] == "0,00"


def test_no_interval_reaches_below_the_floor():
    means, _ = make_texts(make_last(lambda dim: gram_floor(10, dim) + 0.001))
    _, noisy, floor, excess, *_ = dimensions.nc2_rows(means, analysis.report_points("exp3"), 10)[0]
    assert noisy.startswith(f"6,24 [{floor}; 6,3") and "[0,000; 0,0" in excess


def test_words_exist_for_one_seed_few_dimensions_and_diverged_networks():
    whole = make_texts(make_last(lambda dim: 1.0))[1]
    for last in (make_last(lambda dim: 1.0, (0,), (2,)), make_last(lambda dim: math.nan, (0,), (9,))):
        means, texts = make_texts(last)
        assert texts.keys() == whole.keys() and not [text for text in texts.values() if "nan" in text]
        assert dimensions.nc2_rows(means, analysis.report_points("exp3"), 10)
    assert make_texts(make_last(lambda dim: 1.0, (0,), (2,)))[1]["drops_noisy"].startswith("da d = 8 a d = 9: n.d.")


def test_what_the_optimiser_does_not_find_is_not_claimed():
    found = pd.DataFrame({"feature_dim": [8, 9], "value": [1.2, 0.1], "floor": [1.18, 0.0]})
    assert dimensions.permits_text(found, 10) == "in nessuna delle dimensioni provate"
    assert dimensions.permits_text(found.assign(value=0.0), 10) == "con d = 8 e 9: non esattamente quelle con d ≥ 9"


def test_below_text_counts_and_names():
    means = pd.DataFrame({"metric": "nc1", "feature_dim": [2, 3, 5], "mean": [0.1, 0.6, math.nan]})
    assert dimensions.below_text(means, "nc1", 0.5) == "1 su 2 (d = 2)"
    assert dimensions.below_text(means, "nc1", 1) == "2 su 2"


def test_references_stand_beside_the_means():
    means = dimensions.with_references(make_texts(make_last(lambda dim: 1.0))[0], Labels()).set_index(["metric", "feature_dim"])["mean"]
    assert means["floor", 3] == gram_floor(10, 3) and means["floor", 9] == 0
    assert means["collapsed", 2] == means["collapsed", 10] == simplex.collapsed_nc1(Labels.y_clean, Labels.y_noisy, 10)
    assert means["random", 2] > means["floor", 2]
