"""Statistics of part two over groups of runs: against scipy, published numbers, and coverage in simulations with a fixed seed."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ncbook.fn import statistics


def test_the_coefficient_of_variation_agrees_with_a_published_computation():
    found = statistics.coefficient_of_variation([3.8, 3.9, 3.9, 3.8, 4.1, 4.0, 3.4, 3.6, 3.8, 3.7, np.nan])
    assert found == pytest.approx((0.05263158, 0.03617573, 0.09632067, 10), abs=1e-7)


@pytest.mark.parametrize(("n", "cv"), [(3, 0.05), (9, 0.064), (9, 0.25)])
def test_its_interval_covers_the_truth(n, cv):
    samples = np.random.default_rng(0).normal(1, cv, size=(2000, n))
    bounds = np.array([statistics.coefficient_of_variation(sample)[1:3] for sample in samples[samples.min(axis=1) > 0]])
    assert np.mean((bounds[:, 0] < cv) & (cv < bounds[:, 1])) == pytest.approx(0.95, abs=0.015)


def test_a_coefficient_of_variation_of_one_value_and_of_wrong_values():
    assert statistics.coefficient_of_variation([1.0])[3] == 1 and math.isnan(statistics.coefficient_of_variation([1.0])[0])
    with pytest.raises(ValueError, match="The value -1 has no logarithm"):
        statistics.coefficient_of_variation([1.0, -1.0])


A, B = [1.0, 1.2, 1.1, 1.3], [2.0, 2.4, 1.9]


def test_a_difference_is_welchs():
    found, welch = statistics.difference(A, B), stats.ttest_ind(A, B, equal_var=False)
    assert found == pytest.approx((np.mean(A) - np.mean(B), *welch.confidence_interval(0.95), 3))
    assert math.isnan(statistics.difference(A, [2.0]).low)


def test_a_relative_effect_is_a_ratio_and_its_inverse_is_the_inverse():
    up, down = statistics.relative_effect(B, A), statistics.relative_effect(A, B)
    assert up.mean == pytest.approx(np.mean(B) / np.mean(A) - 1) and up.low < up.mean < up.high
    assert (1 + up.low) * (1 + down.high) == pytest.approx(1)
    assert statistics.relative_effect([100 * value for value in B], [100 * value for value in A]) == pytest.approx(up)
    assert statistics.relative_effect([np.nan], A).n == 0


def test_the_interval_of_a_relative_effect_covers_the_truth():
    rng = np.random.default_rng(1)
    draws = [statistics.relative_effect(rng.normal(1.5, 0.1, 3), rng.normal(1.0, 0.05, 3)) for _ in range(1000)]
    assert np.mean([found.low < 0.5 < found.high for found in draws]) > 0.94


def test_equivalence_is_two_one_sided_tests_after_welch():
    found = statistics.equivalence(A, B, 0.1)
    assert found.verdict == "different" and found.p_difference == pytest.approx(stats.ttest_ind(A, B, equal_var=False).pvalue)
    assert found.p_equivalence == pytest.approx(stats.ttest_ind(np.array(A) + 0.1, B, equal_var=False, alternative="greater").pvalue)
    near = statistics.equivalence([1.00, 1.01, 0.99, np.nan], [1.01, 1.00, 1.02, 0.99], 0.05)
    assert near.verdict == "equivalent" and near.difference.n == 3


def test_a_large_p_value_is_not_equivalence():
    found = statistics.equivalence([1.0, 1.4, 0.8], [1.1, 1.0, 1.2], 0.05)
    assert found.p_difference > 0.2 and found.verdict == "undecided"
    assert statistics.equivalence([1.0], [1.0], 0.05).verdict == "undecided"


@pytest.mark.parametrize(("shift", "verdict", "p_difference"), [(0.0, "equivalent", 1), (0.01, "equivalent", 0), (1.0, "different", 0)])
def test_differences_without_spread_decide(shift, verdict, p_difference):
    found = statistics.equivalence([1.0 + shift] * 3, [1.0] * 3, 0.05)
    assert found.verdict == verdict and found.p_difference == pytest.approx(p_difference)


def grid(cells, noise=0.01):
    rows = [
        {"model": model, "data": data, "fn_star": mean * (1 + noise * seed), "seed": seed}
        for (model, data), mean in cells.items()
        for seed in (-1, 0, 1)
    ]
    return pd.DataFrame(rows)


BASE = {"model": "mlp", "data": "mnist"}


def test_effects_that_add_and_effects_that_multiply():
    corner = {("mlp", "mnist"): 1.0, ("mlp", "cifar10"): 2.0, ("resnet20", "mnist"): 3.0}
    adds = statistics.interaction(grid({**corner, ("resnet20", "cifar10"): 4.0}), BASE).set_index("scale")
    assert adds.loc["linear", "mean"] == pytest.approx(0, abs=1e-12) and adds.loc["linear", "additive"] == pytest.approx(4)
    assert adds.loc["log", "mean"] == pytest.approx(math.log(4 / 6)) and adds.loc["log", "p"] < 0.01
    multiplies = statistics.interaction(grid({**corner, ("resnet20", "cifar10"): 6.0}), BASE).set_index("scale")
    assert multiplies.loc["log", "mean"] == pytest.approx(0, abs=1e-12)
    assert multiplies.loc["log", "additive"] == pytest.approx(multiplies.loc["log", "observed"]) == pytest.approx(6, rel=1e-3)
    assert multiplies.loc["linear", "mean"] == pytest.approx(2)
    assert multiplies.loc["linear", "low"] > 0 and multiplies.loc["linear", "n"] == 3


def test_a_grid_has_two_levels_of_two_factors():
    table = grid({("mlp", "mnist"): 1.0, ("resnet20", "mnist"): 3.0})
    for base in (BASE, {"model": "mlp"}, {"model": "cnn", "data": "mnist"}):
        with pytest.raises(ValueError, match="are no grid of two by two"):
            statistics.interaction(table, base)


def conditions(onset_moves, norm_moves, noise=0.02, seeds=3, draw=3):
    rng = np.random.default_rng(draw)
    rows = []
    for lr, (slow, large) in enumerate(zip(onset_moves, norm_moves)):
        for seed in range(seeds):
            time, norm = 100 * math.exp(slow + noise * rng.normal()), math.exp(large + noise * rng.normal())
            rows.append({"lr": lr, "batch": 0, "seed": seed, "since_switch": time, "fn_star": norm, "censored": False})
    return pd.DataFrame(rows)


MOVES = [-0.6, -0.3, 0.0, 0.3, 0.6]


def test_conditions_that_move_the_rate_alone():
    found = statistics.spread_over_conditions(conditions(MOVES, [0] * 5), ["lr"])
    assert found.onset.mean == pytest.approx(np.std(MOVES, ddof=1), rel=0.05) and found.norm.mean < 0.02
    assert found.ratio.high < 0.05 and found.ratio.n == 5
    assert found.onset_within == pytest.approx(0.02, rel=0.5)


def test_what_seeds_alone_scatter_is_taken_off_as_in_the_analysis_of_variance():
    table = conditions(MOVES, MOVES, noise=0.3)
    found = statistics.spread_over_conditions(table, ["lr"])
    logs = [np.log(runs["since_switch"]) for _, runs in table.groupby("lr")]
    assert found.onset.mean**2 == pytest.approx(found.onset_within**2 * (stats.f_oneway(*logs).statistic - 1) / 3)


def test_without_scatter_of_seeds_the_interval_of_a_spread_is_that_of_a_standard_deviation():
    found = statistics.spread_over_conditions(conditions(MOVES, [0] * 5, noise=0), ["lr"])
    low, high = (math.sqrt(4 * np.var(MOVES, ddof=1) / stats.chi2.ppf(p, 4)) for p in (0.975, 0.025))
    assert (found.onset.low, found.onset.high) == pytest.approx((low, high), rel=0.05) and found.norm.high == 0


def test_the_interval_of_a_spread_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(5), np.zeros(2)
    for draw in range(200):
        found = statistics.spread_over_conditions(conditions(*rng.normal(0, [[0.3], [0.1]], (2, 4)), noise=0.1, draw=draw), ["lr"])
        held += [found.onset.low <= 0.3 <= found.onset.high, found.norm.low <= 0.1 <= found.norm.high]
    assert (held > 180).all()  # 95 % of 200 are 190, with a standard deviation of 3


def test_the_variation_over_conditions_holds_the_truth_where_that_of_independent_runs_does_not():
    rng, truth, held = np.random.default_rng(5), math.sqrt(math.expm1(0.1**2 + 0.03**2)), np.zeros(2)
    for draw in range(200):
        table = conditions([0] * 4, rng.normal(0, 0.1, 4), noise=0.03, draw=draw)
        ways = statistics.variation_over_conditions(table, ["lr"]), statistics.coefficient_of_variation(table["fn_star"])
        held += [found.low <= truth <= found.high for found in ways]
    assert held[0] > 180 > 160 > held[1]


def test_the_variation_over_conditions_counts_both_sources():
    table = conditions([0] * 5, MOVES, noise=0.3)
    found, spread = statistics.variation_over_conditions(table, ["lr"]), statistics.spread_over_conditions(table, ["lr"])
    assert found.mean == pytest.approx(math.sqrt(math.expm1(spread.norm.mean**2 + spread.norm_within**2))) and found.n == 15
    assert statistics.variation_over_conditions(table, ["batch"]) == statistics.coefficient_of_variation(table["fn_star"])
    assert math.isnan(statistics.variation_over_conditions(table[table["lr"] < 2], ["lr"]).low)


def test_conditions_that_move_both():
    found = statistics.spread_over_conditions(conditions(MOVES, MOVES[::-1]), ["lr"])
    low, high = (stats.f.ppf(p, 4, 4) for p in (0.025, 0.975))
    assert found.ratio.mean == pytest.approx(1, rel=0.2)
    assert (found.ratio.low, found.ratio.high) == pytest.approx((found.ratio.mean * low, found.ratio.mean * high), rel=0.15)


def test_a_spread_counts_censored_runs_and_needs_conditions():
    table = conditions(MOVES, MOVES)
    table.loc[table["lr"] == 0, ["since_switch", "fn_star", "censored"]] = [np.nan, np.nan, True]
    found = statistics.spread_over_conditions(table, ["lr"])
    assert (found.runs, found.censored, found.onset.n) == (15, 3, 4)
    two = statistics.spread_over_conditions(table[table["lr"].isin([1, 2])], ["lr"])
    assert two.onset.mean > 0 and math.isnan(two.ratio.low)
    with pytest.raises(ValueError, match="Runs of 1 condition crossed the threshold"):
        statistics.spread_over_conditions(table, ["batch"])


def test_shifts_move_one_factor_at_a_time():
    table = conditions([0, math.log(2)], [0, 0], noise=0.001)
    other = table.assign(batch=1, fn_star=3 * table["fn_star"])
    found = statistics.shifts(pd.concat([table, other]), {"lr": 0, "batch": 0}).set_index(["factor", "level", "value"])
    assert found.loc[("lr", 1, "since_switch"), "mean"] == pytest.approx(1, abs=0.01)
    assert found.loc[("lr", 1, "fn_star"), "mean"] == pytest.approx(0, abs=0.01)
    assert found.loc[("batch", 1, "fn_star"), "mean"] == pytest.approx(2) and len(found) == 4
    with pytest.raises(ValueError, match="No run stands at base"):
        statistics.shifts(table, {"lr": 9, "batch": 0})


@pytest.mark.parametrize(
    ("logs", "shape", "least"),
    [
        ([0.5, 0.2, 0.0, 0.3, 0.6], "non-monotonic", 2),
        ([0.6, 0.45, 0.3, 0.15, 0.0], "falling", 4),
        ([0.0, 0.2, 0.4, 0.6, 0.8], "rising", 0),
    ],
)
def test_the_shape_of_a_curve(logs, shape, least):
    found = statistics.shape_over(conditions(logs, logs), "lr")
    assert (found.shape, found.least, found.least_share) == (shape, least, 1.0)
    assert bool(found.rises) == (shape != "falling") and bool(found.falls) == (shape != "rising")


def test_pairs_of_levels_are_those_of_an_independent_implementation_of_tukeys_test():
    rng = np.random.default_rng(3)
    sizes, means = (3, 5, 4, 2), (0.0, 0.35, 0.3, 0.9)
    logs = [mean + 0.15 * rng.standard_normal(size) for mean, size in zip(means, sizes)]
    rows = [(level, math.exp(value), False) for level, values in enumerate(logs) for value in values]
    found = statistics.shape_over(pd.DataFrame(rows, columns=["lr", "since_switch", "censored"]), "lr")
    low = stats.tukey_hsd(*logs).confidence_interval(0.95).low
    pairs = list(itertools.combinations(range(4), 2))
    assert found.rises == tuple((i, j) for i, j in pairs if low[j, i] > 0) and 0 < len(found.rises) < len(pairs)
    assert found.undecided == tuple(pair for pair in pairs if pair not in found.rises)


def test_the_extremes_have_the_interval_of_an_independent_implementation_of_tukeys_test():
    samples = {"a": [1.0, 2.0, 4.0], "b": [5.0, 9.0], "c": [3.0, 3.5, 2.0, 2.5], "none": [math.nan]}
    most, least, apart = statistics.extremes(samples)
    interval = stats.tukey_hsd(samples["b"], samples["a"], samples["c"]).confidence_interval()
    assert (most, least, apart.n) == ("b", "a", 2) and apart.mean == pytest.approx(7 - 7 / 3)
    assert (apart.low, apart.high) == pytest.approx((interval.low[0, 1], interval.high[0, 1]), rel=1e-6)
    assert math.isnan(statistics.extremes({1: [1.0], 2: [2.0]})[2].low)
    with pytest.raises(ValueError, match="known at 1 level"):
        statistics.extremes({1: [1.0], 2: []})


def test_a_time_that_is_only_a_bound_shows_no_rise_from_it_and_no_fall_to_it():
    table = conditions([0.5, 0.0, 0.5], [0.5, 0.0, 0.5])
    some = table["lr"].eq(0) & table["seed"].eq(0)
    table.loc[some, ["since_switch", "fn_star", "censored"]] = [np.nan, np.nan, True]
    assert (statistics.shape_over(table, "lr").falls, statistics.shape_over(table, "lr").rises) == (((0, 1),), ((1, 2),))
    quick = table.assign(since_switch=table["since_switch"].where(table["lr"] > 0, 10 * math.exp(-3)))
    quick.loc[some, "since_switch"] = np.nan
    assert statistics.shape_over(quick, "lr").rises == ((1, 2),) and not statistics.shape_over(quick, "lr").falls
    norms = quick.assign(fn_star=quick["since_switch"])
    assert (0, 1) in statistics.shape_over(norms, "lr", "fn_star").rises  # a norm is no bound


def test_levels_without_a_time_lend_the_others_no_certainty():
    table = conditions([0.0, 0.25], [0, 0], noise=0.1)
    observed = table[table["lr"] == 0].assign(lr=9, since_switch=1000.0, censored=True)
    found = statistics.shape_over(pd.concat([table, observed]), "lr")
    assert set(found.rises) == {(0, 9), (1, 9)} and found.undecided == ((0, 1),) and found.censored == (9,)
    alone = statistics.shape_over(pd.concat([observed, observed.assign(lr=10, since_switch=2000.0)]), "lr")
    assert alone.shape == "undecided"


def test_a_bend_within_the_scatter_is_undecided_and_its_least_level_uncertain():
    found = statistics.shape_over(conditions([0.01, 0.0, 0.01], [0] * 3, noise=0.1), "lr")
    assert found.shape == "undecided" and 0.3 < found.least_share < 1 and not found.rises and not found.falls


def test_a_shape_of_single_runs_has_a_least_level_and_no_more():
    table = conditions([0.5, 0.0], [0, 0], seeds=1)
    found = statistics.shape_over(table, "lr")
    assert (found.shape, found.least) == ("undecided", 1)
    table.loc[1, ["since_switch", "censored"]] = [np.nan, True]
    with pytest.raises(ValueError, match="since_switch is known at 1 level of lr"):
        statistics.shape_over(table, "lr")
