"""What the chapters over one setting say, from onsets made up so that the answer is known."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from scipy import stats

from ncbook.analysis import estimate
from ncbook.fn import phases, sweeps
from ncbook.fn.experiments import MARGIN
from ncbook.fn.onset import onsets
from ncbook.fn.pages import with_interval
from ncbook.fn.statistics import shape_over
from ncbook.fn.sweeps import ACTIVATION, DEPTH, WEIGHT_DECAY, WIDTH

NEVER = math.nan


def made_up(factor, times, norms=None, errors=None, switch=50, epochs=300) -> pd.DataFrame:
    """A table as of `onset.onsets`; times and norms: level -> one value a seed, NaN for a run that never crossed."""
    rows = []
    for level, values in times.items():
        for seed, time in enumerate(values):
            censored = math.isnan(time)
            norm = math.nan if censored else norms[level][seed] if norms else 1 + seed / 100
            rows.append(
                {
                    "key": f"{level}-{seed}",
                    factor.column: level,
                    "seed": seed,
                    "T_NC": switch + time,
                    "since_switch": time,
                    "fn_star": norm,
                    "censored": censored,
                    "diverged": False,
                    "one_point": False,
                    "at_start": False,
                    "stayed_below": pd.NA if censored else True,
                    "last_epoch": epochs if censored else round(switch + time + 30),
                    "final_train_error": errors[level] if errors else 0.0,
                }
            )
    return pd.DataFrame(rows).astype({"stayed_below": "boolean"})


def around(mean, spread=0.01) -> list[float]:
    return [mean * (1 - spread), mean, mean * (1 + spread)]


TURNING = {1: around(200), 3: around(60), 5: around(100), 8: around(180)}


def test_a_curve_that_turns_is_said_to_with_its_lowest_level_and_its_widest_pairs():
    runs = made_up(DEPTH, TURNING)
    texts = sweeps.onset_texts(runs, DEPTH, 0.01)
    assert texts["quickest"].startswith(f"depth 3, {with_interval(estimate(TURNING[3]), 1)} epochs") and "100 %" in texts["quickest"]
    assert "is non-monotonic: of 6 pairs of levels it rises in 3 (most from depth 3 to 8)" in texts["time_shape"]
    assert "falls in 3 (most from depth 1 to 3)" in texts["time_shape"]
    assert "has an undecided shape: of 6 pairs of levels it rises in 0 and falls in 0" in texts["norm_shape"]
    assert texts["time_shift"].startswith("+100 % [") and texts["time_shift"].endswith("at depth 1") and texts["reference"] == "depth 5"


def test_a_level_without_collapse_has_no_mean_and_is_named_as_longer():
    runs = made_up(DEPTH, TURNING | {1: [NEVER] * 3})
    texts = sweeps.onset_texts(runs, DEPTH, 0.01)
    assert "9 of 12 runs; 3 stayed above it until epoch 300" in texts["crossed"]
    assert "of 3 pairs" in texts["time_shape"]
    assert texts["time_shape"].endswith("; at depth 1 no run collapsed")
    assert texts["spread"].startswith("over depth 3, 5 and 8, where every run collapsed") and texts["spread"].endswith("not in it")


def test_effects_of_levels_that_collapsed_in_part_are_lower_bounds_on_the_time():
    rows = sweeps.shift_rows(made_up(DEPTH, {1: [NEVER] * 3, 3: [200.0, 200.0, NEVER], 5: around(100), 8: around(50)}), DEPTH)
    assert rows[0] == ["1", "n/a", "n/a"] and rows[1][:1] == ["3"] and rows[1][1] == "≥ +100 %"
    assert not rows[1][2].startswith("≥") and rows[2][1].startswith("−50 % [")
    assert not any("≥" in text for row in sweeps.shift_rows(made_up(DEPTH, {3: [NEVER, 1.0], 5: [NEVER, 1.0]}), DEPTH) for text in row)


def test_the_largest_effect_says_what_it_leaves_out():
    runs = made_up(DEPTH, {1: [NEVER] * 3, 2: [110.0, 112.0, NEVER], 3: [200.0, NEVER], 5: around(100), 8: around(50)})
    texts = sweeps.onset_texts(runs, DEPTH, 0.01)
    assert texts["time_shift"] == (
        "≥ +100 % at depth 3 (one run on one side, no interval; at depth 2 it may be larger; at depth 1 no run collapsed)"
    )
    whole = sweeps.onset_texts(made_up(DEPTH, TURNING), DEPTH, 0.01)["time_shift"]
    assert whole.count("(") == 0


def test_crossings_that_do_not_last_or_were_there_from_the_start_are_counted():
    runs = made_up(DEPTH, {5: around(100)})
    runs["at_start"], runs["stayed_below"] = [True, False, False], pd.array([True, False, False], dtype="boolean")
    crossed = sweeps.onset_texts(runs, DEPTH, 0.01)["crossed"]
    assert "; in 1 run it lay below already at the first record after the switch" in crossed
    assert crossed.endswith("in 2 runs NC1 rose above it again")


@pytest.mark.parametrize(
    ("times", "quickest", "shape"),
    [
        ({1: [NEVER], 5: [NEVER]}, "no run collapsed", "known at 0 levels"),
        ({1: [NEVER], 5: [80.0]}, "depth 5, 80.0 epochs after the switch, the only one", "known at 1 level,"),
        ({1: [90.0], 5: [80.0]}, "cannot be said", "is undecided (one run a level, no interval; from least to greatest: depth 5 and 1)"),
        ({3: [90.0, 91.0]}, "the only one", "known at 1 level,"),
    ],
)
def test_nothing_is_decided_by_one_level_or_one_seed(times, quickest, shape):
    texts = sweeps.onset_texts(made_up(DEPTH, times), DEPTH, 0.01)
    assert quickest in texts["quickest"] and shape in texts["time_shape"]
    assert not re.search(r"\bnan\b|None|NA", " ".join(texts.values()))


def test_levels_without_order_are_compared_by_name():
    times = {"relu": around(100), "tanh": around(150), "gelu": around(151)}
    runs = made_up(ACTIVATION, times, {"relu": around(1.07), "tanh": around(1.33), "gelu": around(2.13)})
    text = sweeps.shape_text(runs, ACTIVATION, "since_switch")
    assert "in 2 of 3 pairs" in text and "with Tanh than with ReLU" in text and "with GELU than with ReLU" in text
    assert sweeps.order_text(runs, ACTIVATION).endswith("the same order")
    turned = made_up(ACTIVATION, times, {"relu": around(2), "tanh": around(1.5), "gelu": around(1)})
    assert sweeps.order_text(turned, ACTIVATION).endswith("the opposite order")
    assert "with Tanh than with GELU" in sweeps.shape_text(turned, ACTIVATION, "fn_star")


def test_a_single_pair_is_told_as_the_table_tells_it():
    times = {"relu": around(100), "tanh": [150.0, 250.0]}
    runs = made_up(ACTIVATION, times, {"relu": [1.29, 1.3, 1.31], "tanh": [2.4, 3.2]})
    shift = sweeps.shift_rows(runs, ACTIVATION)[0][2]
    assert "[−" in shift and shape_over(runs, "activation", "fn_star").rises  # Tukey's pooled scatter would tell them apart
    assert sweeps.shape_text(runs, ACTIVATION, "fn_star") == (
        f"fn* is not told apart in the one pair with several runs each: {shift} with Tanh, against ReLU"
    )
    sure = made_up(ACTIVATION, times, {"relu": [1.29, 1.3, 1.31], "tanh": [2.4, 2.41]})
    assert sweeps.shape_text(sure, ACTIVATION, "fn_star").startswith("fn* differs in the one pair")


def test_beside_the_paper_stand_mean_variation_and_relative_difference():
    runs = made_up(ACTIVATION, {"relu": around(100), "tanh": around(150)}, {"relu": [1.0, 1.1, 1.2], "tanh": around(2)})
    relu, tanh = sweeps.beside_rows(runs, ACTIVATION, {"relu": 1.0})
    assert relu[0] == "ReLU" and relu[1] == with_interval(estimate([1.0, 1.1, 1.2])) and relu[2].startswith("9.1 % [")
    assert relu[3] == "1.00" and relu[4].startswith("+10 % [") and tanh[3:] == ["n/a", "n/a"]


def test_the_reference_is_the_baseline_s_level_or_the_first():
    assert sweeps.reference(made_up(WIDTH, {64: [1.0], 256: [1.0]}), WIDTH) == 256
    assert sweeps.reference(made_up(WIDTH, {512: [1.0], 64: [1.0]}), WIDTH) == 64


def test_steps_and_range_are_ratios_of_neighbours_and_of_extremes():
    runs = made_up(WIDTH, {64: around(200), 128: [NEVER] * 3, 256: around(100), 512: around(50)})
    first, second = sweeps.steps_text(runs, WIDTH, "since_switch").split("; ")
    assert first.startswith("from width 64 to 256: −50 % [") and second.startswith("from width 256 to 512: −50 % [")
    found = sweeps.range_text(runs, WIDTH, "since_switch")
    assert found.startswith("+300 % [") and found.endswith("(width 64 over width 512)")


def test_an_effect_of_the_threshold_alone_is_seen_as_one():
    strict, loose = (made_up(DEPTH, {1: around(100), 8: around(100)}, {1: around(norm), 8: around(norm)}) for norm in (1, 2))
    texts = sweeps.threshold_texts(strict, loose, DEPTH)
    assert texts["mixed"].startswith("+100 % [") and texts["at_loose"].startswith("0 % [") and texts["at_strict"].startswith("0 % [")
    assert [row[-1].split()[0] for row in sweeps.threshold_rows(strict, loose, DEPTH)] == ["2.00", "2.00"]
    partly = sweeps.threshold_texts(made_up(DEPTH, {1: [NEVER], 8: [1.0]}), loose, DEPTH)
    assert partly["at_strict"] == "unknown, since no run collapsed at depth 1"
    assert "depth 8 alone" in sweeps.threshold_texts(made_up(DEPTH, {8: [1.0]}), loose, DEPTH)["mixed"]


def history(key, depth, rate, last=100, switch=10) -> pd.DataFrame:
    """The tidy table of a run whose norm decays by the share `rate` an epoch."""
    epochs = np.arange(1, last + 1)
    norm = 10 * np.exp(-rate * epochs)
    columns = {"epoch": epochs, "feature_norm": norm, "nc1_trace_ratio_clean": np.exp(-epochs / 10), "train_error": 0.0}
    return pd.DataFrame({"key": key, "depth": depth, "seed": 0, "switch": switch} | columns)


def test_the_drift_is_the_change_over_the_last_epochs_and_unknown_in_short_phases():
    table = pd.concat([history("falls", 1, 0.01), history("rests", 3, 0), history("short", 5, 0.01, last=20)])
    ended = sweeps.endings(table, onsets(table, 1e-9)).set_index("key")
    assert ended.loc["falls", "drift"] == pytest.approx(math.exp(-0.01 * MARGIN) - 1)
    assert ended.loc["rests", "drift"] == pytest.approx(0) and math.isnan(ended.loc["short", "drift"])
    assert ended.loc["falls", "norm_end"] == pytest.approx(10 * math.exp(-1))
    assert ended.loc["falls", "nc1_least"] == pytest.approx(math.exp(-10))


def test_levels_whose_norm_still_falls_are_named():
    ended = made_up(DEPTH, {1: around(100), 3: around(100)})
    drifts = [-0.02, -0.021, -0.019, -0.001, 0.001, 0]
    texts = sweeps.ending_texts(ended.assign(drift=drifts, norm_end=[2, 2, 2, 1, 1, 1]), DEPTH)
    assert texts["falling"].startswith("at depth 1 the norm was still falling") and texts["ends_apart"].startswith("+100 %")
    assert "phase is too short" in sweeps.ending_texts(ended.assign(drift=math.nan, norm_end=1.0), DEPTH)["falling"]


THREE = {0.0: [NEVER] * 3, 1e-5: around(200), 1e-4: around(100), 1e-2: [NEVER] * 3}
ERRORS = {0.0: 0.0, 1e-5: 0.0, 1e-4: 0.0, 1e-2: 0.9}


def test_the_regimes_and_what_lies_at_either_end():
    texts = phases.regime_texts(made_up(WEIGHT_DECAY, THREE, errors=ERRORS))
    assert texts["regimes"] == "collapse at λ = 10⁻⁵ and 10⁻⁴; no collapse at λ = 0; no fit at λ = 0.01"
    assert texts["lower_edge"].startswith("at λ = 0 collapse came in 0 of 3 runs until epoch 300")
    assert texts["upper_edge"] == "at λ = 0.01 collapse came in 0 of 3 runs until epoch 300 (final training error 0.900 [0.900, 0.900])"
    gone = made_up(WEIGHT_DECAY, THREE, errors=ERRORS)
    last = gone["weight_decay"] == 1e-2
    gone.loc[last, "one_point"], gone.loc[last, "last_epoch"] = True, [53, 53, 55]
    upper = phases.regime_texts(gone)["upper_edge"]
    assert "0 of 3 runs until their last epochs, 53 to 55 (" in upper and upper.endswith("; in 3 all features had become one point)")
    inner = phases.regime_texts(made_up(WEIGHT_DECAY, {level: THREE[level] for level in (1e-5, 1e-4)}))
    assert re.match(r"at λ = 10⁻⁵ the time to collapse differs by \+100 % .* at λ = 10⁻⁴$", inner["lower_edge"])
    assert inner["upper_edge"].endswith("this side of the optimum was not reached")
    assert "no optimal range" in phases.regime_texts(made_up(WEIGHT_DECAY, {0.0: [NEVER]}))["upper_edge"]


def test_the_cluster_leaves_out_a_weight_decay_at_which_one_run_did_not_collapse():
    norms = {1e-5: [1.0, 1.02, 1.04], 1e-4: [1.1, 1.12, 1.14], 1e-3: [5.0, 5.0, 5.0]}
    runs = made_up(WEIGHT_DECAY, THREE | {1e-3: [90.0, 90.0, NEVER]}, norms, ERRORS | {1e-3: 0.0})
    texts = phases.cluster_texts(runs)
    values = norms[1e-5] + norms[1e-4]
    assert texts["collapsing"] == "λ = 10⁻⁵ and 10⁻⁴"
    assert f"each counted once, the mean of fn* is {with_interval(estimate([1.02, 1.12]).within(0))}, with a coeff" in texts["cluster"]
    assert texts["within_sigma"] == f"{sum(abs(v - np.mean(values)) <= np.std(values, ddof=1) for v in values)} of 6"
    assert texts["onset_range"].startswith("100.0 [") and texts["onset_range"].endswith("epochs (λ = 10⁻⁵ less λ = 10⁻⁴)")
    alone = phases.cluster_texts(runs[runs["weight_decay"] != 1e-5])
    assert f"fn* is {with_interval(estimate(norms[1e-4]))}, with a" in alone["cluster"] and "a mean over" in alone["cluster"]
    assert phases.cluster_texts(made_up(WEIGHT_DECAY, {0.0: [NEVER]}))["collapsing"] == "none"


def test_the_training_error_of_mixed_regimes_has_ends_and_no_mean():
    runs = made_up(WEIGHT_DECAY, {1e-4: around(100), 1e-3: [NEVER] * 3})
    runs.loc[runs["weight_decay"] == 1e-3, "final_train_error"] = [0.01, 0.02, 0.9]
    assert [row[-2:] for row in phases.regime_rows(runs)] == [["collapse", "0.0000 [0.0000, 0.0000]"], ["mixed", "0.0100 to 0.9000"]]


def test_the_paper_s_interval_is_held_against_student_s():
    low, high = stats.t.interval(0.95, 8, loc=1.038, scale=1.038 * 0.064 / 3)
    assert phases.reported_texts()["student_interval"] == f"[{low:.3f}, {high:.3f}]"


def test_the_phase_diagram_shades_each_weight_decay_by_its_regime():
    runs = made_up(WEIGHT_DECAY, THREE, errors=ERRORS).assign(nc1_least=0.005)
    upper, lower = phases.phase_diagram(runs, 0.01).axes
    shades = [patch.get_facecolor()[:3] for patch in upper.patches if isinstance(patch, Rectangle)]
    assert len(shades) == 4 and len(set(shades)) == 3 and shades[1] == shades[2]
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["0", "10⁻⁵", "10⁻⁴", "0.01"]
    assert len(upper.lines[0].get_xdata()) == 12
