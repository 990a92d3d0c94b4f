"""Onset of collapse, its prediction, and interventions: on trajectories whose answers are known in closed form."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncbook.fn import onset, predictor, statistics
from ncbook.fn.intervention import norm_shifts

THRESHOLD = 0.01
SWITCH = 20


def epochs_after(switch, end):
    """As the record "phases" has them."""
    return sorted({*range(1, 11), *range(5, end, 5), *range(switch + 1, switch + 11), end})


def make_run(key, *, rate=0.05, decay=0.01, norm=3.0, switch=SWITCH, end=300, **labels):
    """t epochs after the switch NC1 is exp(−rate·t) and the norm `norm`·exp(−decay·t); before it both are constant, NC1 far below."""
    epoch = np.array(epochs_after(switch or 0, end))
    t = epoch - (switch or 0)
    after = t > 0
    named = {"data": "mnist", "model": "mlp", "weight_decay": 1e-4, "seed": 0, "factor": np.nan, "factor_epoch": pd.NA, **labels}
    run = pd.DataFrame({"key": key, **named, "switch": switch, "epochs": end, "epoch": epoch})
    run["nc1_trace_ratio_clean"] = np.where(after, np.exp(-rate * t), 1e-3)
    run["feature_norm"] = np.where(after, norm * np.exp(-decay * t), 27.0)
    return run.assign(train_loss=0.1, train_error=0.0, test_error=0.02).astype({"switch": "Int64", "factor_epoch": "Int64"})


def join(*runs):
    return pd.concat(runs, ignore_index=True)


def falls_at(rate, threshold=THRESHOLD):
    return -math.log(threshold) / rate


def onset_of(*runs, **kwargs):
    return onset.onsets(join(*runs), THRESHOLD, **kwargs)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 0.5), st.floats(-0.02, 0.02), st.floats(0.003, 0.5), st.integers(0, 50))
def test_onset_and_norm_are_exact_on_exponentials_whatever_was_recorded(rate, decay, threshold, switch):
    found = onset.onsets(make_run("a", rate=rate, decay=decay, switch=switch, end=400), threshold).iloc[0]
    t = falls_at(rate, threshold)
    assert found["since_switch"] == pytest.approx(max(t, 1))
    assert found["T_NC"] == pytest.approx(switch + max(t, 1))
    assert found["fn_star"] == pytest.approx(3 * math.exp(-decay * max(t, 1)))
    assert found["at_start"] == (t < 1) and found["stayed_below"] and not found["censored"]


def test_cross_entropy_below_the_threshold_is_no_onset():
    table = make_run("a")
    assert (table.loc[table["epoch"] <= SWITCH, "nc1_trace_ratio_clean"] < THRESHOLD).all()
    assert onset_of(table)["T_NC"].item() > SWITCH + 50
    never = make_run("a", rate=0.0)
    assert onset_of(never)["censored"].item()


def test_without_a_switch_every_epoch_counts():
    run = make_run("a", switch=None)
    for table in (run, run.drop(columns="switch")):
        assert onset_of(table)["T_NC"].item() == pytest.approx(falls_at(0.05))


def test_a_run_that_never_falls_is_censored_at_its_last_epoch():
    found = onset_of(make_run("a", rate=0.001, end=150), make_run("b")).set_index("key")
    late = found.loc["a"]
    assert late["censored"] and math.isnan(late["T_NC"]) and math.isnan(late["fn_star"]) and late["last_epoch"] == 150
    assert pd.isna(late["stayed_below"]) and not late["diverged"]
    assert found["epochs"].tolist() == [150, 300] and str(found["switch"].dtype) == "Int64"


def test_a_run_that_ended_before_its_switch_was_never_observed():
    run = make_run("a")
    found = onset_of(run[run["epoch"] <= SWITCH]).iloc[0]
    assert found["censored"] and found["last_epoch"] == SWITCH and not found["diverged"]


@pytest.mark.parametrize(("since", "censored", "seen"), [(21, True, 20), (60, True, 55), (200, False, 195)])
def test_a_diverged_run_is_named_and_was_observed_up_to_its_last_number(since, censored, seen):
    run = make_run("a")
    run.loc[run["epoch"] >= since, ["nc1_trace_ratio_clean", "feature_norm", "train_loss"]] = np.nan
    found = onset_of(run).iloc[0]
    assert found["diverged"] and not found["one_point"] and found["censored"] == censored and found["last_epoch"] == seen


def test_features_that_became_one_point_are_no_fit_and_no_divergence():
    run = make_run("a", weight_decay=0.1, rate=0.001)
    vanished = run["epoch"] >= 60
    run.loc[vanished, "nc1_trace_ratio_clean"] = np.nan
    run.loc[vanished, ["feature_norm", "train_error"]] = 0.0, 0.9
    found = onset_of(run)
    assert found[["censored", "diverged", "one_point", "last_epoch", "final_train_error"]].iloc[0].tolist() == [True, False, True, 300, 0.9]
    assert onset.classify(found).tolist() == ["no fit"]


def test_a_gap_in_the_records_is_no_divergence():
    run = make_run("a")
    run.loc[run["epoch"].between(105, 115), "nc1_trace_ratio_clean"] = np.nan
    found = onset_of(run).iloc[0]
    assert found["T_NC"] == pytest.approx(SWITCH + falls_at(0.05)) and not found["diverged"]


def test_the_first_crossing_counts_and_a_return_is_told():
    run = make_run("a")
    run.loc[run["epoch"].between(200, 220), "nc1_trace_ratio_clean"] = 0.02
    found = onset_of(run).iloc[0]
    assert found["T_NC"] == pytest.approx(SWITCH + falls_at(0.05)) and not found["stayed_below"]


def test_metrics_of_zero_are_below_every_threshold():
    run = make_run("a")
    run.loc[run["epoch"] >= 50, ["nc1_trace_ratio_clean", "feature_norm"]] = 0.0
    found = onset_of(run).iloc[0]
    assert 45 < found["T_NC"] <= 50 and 0 <= found["fn_star"] < 3


def test_records_need_no_order():
    run = make_run("a")
    pd.testing.assert_frame_equal(onset_of(run.sample(frac=1, random_state=0)), onset_of(run))


def test_a_run_in_two_chapters_counts_once():
    run = make_run("a")
    (_, once), (_, twice) = (next(onset.trajectories(table)) for table in (run, join(run, run)))
    assert once.epochs.tolist() == twice.epochs.tolist()


def test_labels_stay_and_measurements_go():
    found = onset_of(make_run("a", activation="gelu", nc2_gram_clean=0.3))
    assert found["activation"].item() == "gelu"
    assert not {"nc1_trace_ratio_clean", "nc2_gram_clean", "train_loss", "test_error", "epoch"} & set(found)


@pytest.mark.parametrize("threshold", [0, -1, math.nan, math.inf])
def test_a_threshold_must_be_positive(threshold):
    with pytest.raises(ValueError, match=f"threshold={threshold} is no level"):
        onset.onsets(make_run("a"), threshold)


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="has no column nc9: its columns are key,"):
        onset_of(make_run("a"), metric="nc9")


def test_no_run_gives_no_row():
    found = onset.onsets(make_run("a").iloc[:0], THRESHOLD)
    assert found.empty and {"key", "T_NC", "fn_star", "censored"} <= set(found)


def test_summaries_count_the_runs_that_never_crossed():
    slow = make_run("c", rate=0.001, weight_decay=1e-3)
    cells = onset.summary(onset_of(make_run("a"), make_run("b", rate=0.04), make_run("d", weight_decay=1e-3), slow), ["weight_decay"])
    quick, mixed = (cells.set_index("weight_decay").loc[decay] for decay in (1e-4, 1e-3))
    assert (quick["runs"], quick["censored"], quick["T_NC_n"], quick["biased"]) == (2, 0, 2, False)
    assert quick["T_NC_mean"] == pytest.approx(SWITCH + (falls_at(0.05) + falls_at(0.04)) / 2) and quick["T_NC_low"] < quick["T_NC_mean"]
    assert (mixed["runs"], mixed["censored"], mixed["fn_star_n"], mixed["biased"]) == (2, 1, 1, True) and math.isnan(mixed["fn_star_low"])


def test_the_interval_of_an_onset_ends_at_the_switch():
    found = onset_of(make_run("a", rate=0.5), make_run("b", rate=0.03))
    (cell,) = onset.summary(found, ["weight_decay"]).to_dict("records")
    assert found["T_NC"].mean() - 6 * found["T_NC"].std() < SWITCH == cell["T_NC_low"] and cell["since_switch_low"] == 0
    assert cell["T_NC_high"] - SWITCH == pytest.approx(cell["since_switch_high"])


def test_regimes_of_weight_decay():
    weak = [make_run(f"w{seed}", rate=0.001, weight_decay=0.0) for seed in (0, 1)]
    right = [make_run(f"r{seed}", weight_decay=1e-4) for seed in (0, 1)]
    strong = [make_run(f"s{seed}", weight_decay=1e-2).assign(train_error=0.9) for seed in (0, 1)]
    lost = make_run("l", weight_decay=1e-1)
    told = ["nc1_trace_ratio_clean", "feature_norm"]
    lost.loc[lost["epoch"] > 40, told] = np.nan
    border = [make_run("b0", weight_decay=1e-5), make_run("b1", rate=0.001, weight_decay=1e-5)]
    found = onset.regimes(onset_of(*strong, *weak, *right, lost, *border))
    assert found["weight_decay"].tolist() == [0.0, 1e-5, 1e-4, 1e-2, 1e-1]
    assert found["regime"].tolist() == ["no collapse", "mixed", "collapse", "no fit", "diverged"]
    assert found.loc[1, list(onset.REGIMES)].tolist() == [1, 1, 0, 0]
    lost.loc[lost["epoch"] <= 200, told] = right[0][told]
    assert onset.classify(onset_of(lost)).tolist() == ["collapse"]
    with pytest.raises(ValueError, match="fitted=5 is no share"):
        onset.classify(onset_of(*weak), fitted=5)


# --- the predictor


def crash(run, level, epochs=2, error=0.6):
    """In the first `epochs` after the switch the norm falls from 5 to `level`, and the network errs."""
    for after in range(1, epochs + 1):
        row = run["epoch"] == SWITCH + after
        run.loc[row, ["feature_norm", "train_error"]] = [5.0 if after == 1 else level, error]
    return run


RATES, DECAYS = (0.04, 0.05, 0.06), (0.008, 0.010, 0.013)


def cohort(**kwargs):
    return [make_run(f"k{i}", rate=rate, decay=decay, seed=i, **kwargs) for i, (rate, decay) in enumerate(zip(RATES, DECAYS))]


def of(found, name, key="k0"):
    return found[(found["predictor"] == name) & (found["key"] == key)].iloc[0]


def test_predictions_come_from_the_other_runs_alone():
    found = predictor.predictions(join(*cohort()), THRESHOLD)
    t = [falls_at(rate) for rate in RATES]
    level = np.mean([3 * math.exp(-decay * time) for decay, time in zip(DECAYS[1:], t[1:])])
    crossings = [math.log(3 / level) / decay for decay in DECAYS]
    lead = np.mean([time - crossing for time, crossing in zip(t[1:], crossings[1:])])
    norm, mean, line = (of(found, name) for name in predictor.PREDICTORS)
    assert norm["level"] == pytest.approx(level) and norm["crossing"] == pytest.approx(SWITCH + crossings[0])
    assert norm["predicted"] == pytest.approx(SWITCH + crossings[0] + lead)
    assert norm["error"] == pytest.approx(crossings[0] + lead - t[0]) and norm["lead"] == pytest.approx(t[0] - crossings[0])
    assert norm["made_at_epoch"] >= norm["crossing"] > norm["made_at_epoch"] - 5
    assert mean["predicted"] == pytest.approx(SWITCH + np.mean(t[1:])) and mean["lead"] == pytest.approx(t[0])
    assert mean["made_at_epoch"] == SWITCH
    # the logarithm of NC1 is a line here
    assert line["error"] == pytest.approx(0, abs=1e-6) and line["made_at_epoch"] == norm["made_at_epoch"]


def test_the_future_of_a_run_changes_no_prediction_about_it():
    runs = cohort()
    before = predictor.predictions(join(*runs), THRESHOLD)
    future = runs[2]["epoch"] > of(before, "feature_norm", "k2")["made_at_epoch"]
    runs[2].loc[future, "nc1_trace_ratio_clean"] *= 30
    runs[2].loc[future, "feature_norm"] *= 3
    after = predictor.predictions(join(*runs), THRESHOLD)
    for name in predictor.PREDICTORS:
        known = ["predicted", "made_at_epoch", "level"]
        assert of(after, name, "k2")[known].tolist() == of(before, name, "k2")[known].tolist()
        assert of(after, name, "k2")["T_NC"] > of(before, name, "k2")["T_NC"] + 20


def test_a_crash_at_the_switch_is_no_crossing():
    calm = of(predictor.predictions(join(*cohort()), THRESHOLD), "feature_norm")
    crashed = [crash(run, level=0.2) for run in cohort()]
    found = of(predictor.predictions(join(*crashed), THRESHOLD), "feature_norm")
    assert found["predicted"] == pytest.approx(calm["predicted"]) and found["made_at_epoch"] == calm["made_at_epoch"]
    # a fall while the network still fits is a false alarm, and the predictor is charged with it
    fooled = [crash(run, level=0.2, error=0.0) for run in cohort()]
    assert of(predictor.predictions(join(*fooled), THRESHOLD), "feature_norm")["made_at_epoch"] == SWITCH + 2


def test_a_norm_from_below_gives_no_sign():
    rising = cohort()
    rising[0]["feature_norm"] = 0.1
    found = predictor.predictions(join(*rising), THRESHOLD)
    assert math.isnan(of(found, "feature_norm")["predicted"]) and math.isnan(of(found, "extrapolated_nc1")["predicted"])
    assert of(found, "mean_onset")["predicted"] > SWITCH


def test_nc1_that_does_not_fall_or_is_too_short_is_not_extrapolated():
    path = next(onset.trajectories(make_run("a", rate=-0.01)))[1]
    assert math.isnan(predictor.extrapolate(path, THRESHOLD, known_at=100))
    falling = next(onset.trajectories(make_run("a")))[1]
    assert math.isnan(predictor.extrapolate(falling, THRESHOLD, known_at=SWITCH + 2))
    assert predictor.extrapolate(falling, THRESHOLD, known_at=SWITCH + 3) == pytest.approx(SWITCH + falls_at(0.05))


def test_records_of_the_crash_are_not_extrapolated():
    run = make_run("a")
    crashed = run["epoch"].between(SWITCH + 1, SWITCH + 4)
    run.loc[crashed, ["nc1_trace_ratio_clean", "train_error"]] = [30.0, 0.6]
    path = next(onset.trajectories(run))[1]
    assert predictor.extrapolate(path, THRESHOLD, known_at=SWITCH + 8) == pytest.approx(SWITCH + falls_at(0.05))


def test_runs_that_never_collapse_are_no_source_but_can_be_a_false_alarm():
    slow = make_run("slow", rate=0.001, decay=0.01)
    found = predictor.predictions(join(*cohort(), slow), THRESHOLD)
    assert of(found, "feature_norm")["sources"] == 2 and of(found, "feature_norm", "slow")["sources"] == 3
    assert math.isnan(of(found, "feature_norm", "slow")["error"])
    told = predictor.errors(found).set_index("predictor")
    assert told["runs"].tolist() == [4, 4, 4] and told.loc["feature_norm", "false"] == 1 and told.loc["feature_norm", "mae_n"] == 3


def test_leaving_out_a_condition_leaves_out_its_seeds():
    table = join(*cohort(), *(run.assign(key="x" + run["key"], weight_decay=1e-3) for run in cohort()))
    easy, hard = (of(predictor.predictions(table, THRESHOLD, leave_out=out), "feature_norm") for out in (["key"], ["weight_decay"]))
    assert (easy["sources"], hard["sources"]) == (5, 3)
    pair = predictor.predictions(join(*cohort(), *cohort(data="cifar10")).assign(key=lambda t: t["key"] + t["data"]), THRESHOLD)
    assert set(pair["sources"]) == {2}


def test_errors_judge_all_predictors_by_the_same_runs():
    runs = cohort()
    runs[2]["feature_norm"] = 0.1
    found = predictor.predictions(join(*runs, make_run("k3", rate=0.03, seed=3)), THRESHOLD)
    told = predictor.errors(found).set_index("predictor")
    judged = found[found["key"] != "k2"].assign(size=lambda t: t["error"].abs())
    assert told["mae_n"].tolist() == [3, 3, 3] and told["silent"].tolist() == [1, 0, 1]
    for name, part in judged.groupby("predictor"):
        assert told.loc[name, "mae_mean"] == pytest.approx(part["size"].mean())
        assert told.loc[name, "median"] == pytest.approx(part["size"].median())
        assert told.loc[name, "ahead"] == pytest.approx((part["lead"] > 0).mean())
    assert told.loc["mean_onset", "worse_mean"] == pytest.approx(told.loc["mean_onset", "mae_mean"] - told.loc["feature_norm", "mae_mean"])
    assert told.loc["feature_norm", "worse_mean"] == 0
    assert len(predictor.errors(found, by=["data", "model"])) == 3


def test_predictions_need_other_runs():
    with pytest.raises(ValueError, match="The table holds 1 run: a prediction comes from other runs"):
        predictor.predictions(make_run("a"), THRESHOLD)
    with pytest.raises(ValueError, match="window=2 is too short"):
        predictor.predictions(join(*cohort()), THRESHOLD, window=2)
    alone = predictor.predictions(join(*cohort()), THRESHOLD, leave_out=["weight_decay"])
    assert alone["predicted"].isna().all() and set(alone["sources"]) == {0}


# --- interventions


def test_a_run_that_collapsed_before_the_scaling_counts_on_neither_side():
    """Where scaling does nothing, leaving out early runs on one side alone would make a difference of its own."""
    times = [70, 75, 79, 85, 90, 95]
    runs = pd.DataFrame({"T_NC": times, "fn_star": 1 + 0.01 * np.array(times), "censored": False, "factor": np.nan, "factor_epoch": pd.NA})
    runs = pd.concat([runs, runs.assign(factor=2.0, factor_epoch=80)], ignore_index=True).assign(target="features")
    (effect,) = statistics.intervention_effects(runs, margin=0.05).to_dict("records")
    assert effect["difference_mean"] == pytest.approx(0, abs=1e-12) and (effect["too_late"], effect["difference_n"]) == (3, 3)
    assert norm_shifts(runs)["features × 2 at epoch 80"].mean == pytest.approx(0, abs=1e-12)


def test_interventions_are_compared_with_untouched_runs():
    runs = [make_run(f"u{i}", seed=i, decay=decay) for i, decay in enumerate(DECAYS)]
    for factor, name in ((2.0, "up"), (0.5, "down")):
        for i, decay in enumerate(DECAYS):
            scaled = dict(factor=factor, factor_epoch=60 if factor == 2 else 200, target="features")
            runs.append(make_run(f"{name}{i}", seed=i, decay=decay, norm=3.0 if factor == 2 else 1.0, **scaled))
    table = join(*runs).astype({"factor_epoch": "Int64"})
    found = statistics.intervention_effects(onset.onsets(table, THRESHOLD), margin=0.05).set_index("factor")
    assert found.loc[2.0, "difference_mean"] == 0 and found.loc[2.0, ["runs", "too_late", "difference_n"]].tolist() == [3, 0, 3]
    # these collapsed before they were scaled
    assert found.loc[0.5, "too_late"] == 3 and found.loc[0.5, "verdict"] == "undecided" and found.loc[0.5, "difference_n"] == 0
    with pytest.raises(ValueError, match="No run without an intervention has a fn_star"):
        statistics.intervention_effects(onset.onsets(table[table["factor"].notna()], THRESHOLD), margin=0.05)
    with pytest.raises(ValueError, match="margin=0.0 leaves no room"):
        statistics.intervention_effects(onset.onsets(table, THRESHOLD), margin=0)
