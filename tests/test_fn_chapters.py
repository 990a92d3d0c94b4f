"""What the chapters on conditions, interventions, prediction and the equilibrium say of runs whose answers are known."""

import math

import numpy as np
import pandas as pd
import pytest

from ncbook.fn import conditions, forecasts, intervention, settled
from ncbook.fn.equilibrium import equilibrium_norm
from ncbook.fn.onset import onsets

SWITCH, END = 20, 200
LABELS = {
    "data": "mnist", "subset": 300, "model": "mlp", "width": 256, "depth": 5, "activation": "relu", "optimizer": "adam", "lr": 1e-3,
    "momentum": 0.0, "weight_decay": 1e-4, "batch_size": 128, "seed": 0, "epochs": END, "switch": SWITCH, "reduction": "mean",
    "factor": np.nan, "factor_epoch": pd.NA, "target": None,
}  # fmt: skip


def make_run(key, *, rate=0.06, norm=1.0, approach=0.05, factor_at=1.0, **labels):
    """t epochs after the switch NC1 is exp(−rate·t) and the norm `norm`·(1 + 3·exp(−approach·t)), times what is left of `factor_at`."""
    epoch = np.array(sorted({*range(5, END + 1, 5), *range(SWITCH + 1, SWITCH + 11)}))
    t = np.maximum(epoch - SWITCH, 0)
    named = LABELS | labels
    feature_norm = norm * (1 + 3 * np.exp(-approach * t))
    if not np.isnan(named["factor"]):
        since = epoch - named["factor_epoch"]
        feature_norm = feature_norm * np.where(since > 0, named["factor"] ** np.exp(-0.1 * np.maximum(since, 0)), 1)
    run = pd.DataFrame({"key": key, **named, "epoch": epoch, "nc1_trace_ratio_clean": np.exp(-rate * t), "feature_norm": feature_norm})
    run["squared_norm_1"] = run["squared_norm_classifier"] = 10.0
    return run.assign(train_error=0.0, train_loss=0.1).astype({"switch": "Int64", "factor_epoch": "Int64", "factor": float})


def join(*runs):
    return pd.concat(runs, ignore_index=True)


@pytest.fixture(scope="module")
def three_conditions():
    """The baseline, a quicker one with the same norm at onset, and SGD with twice that norm; two seeds that differ by 2 %."""
    base = [make_run(f"a{seed}", seed=seed, norm=1 + 0.02 * seed) for seed in (0, 1)]
    quick = [make_run(f"b{seed}", seed=seed, norm=1 + 0.02 * seed, rate=0.12, approach=0.1, lr=2e-3) for seed in (0, 1)]
    other = [make_run(f"c{seed}", seed=seed, norm=2 + 0.04 * seed, optimizer="sgd", lr=0.05, momentum=0.9) for seed in (0, 1)]
    return conditions.labelled(join(*base, *quick, *other))


def test_conditions_say_what_moves_fn_star_and_what_does_not(three_conditions):
    found = onsets(three_conditions, 0.01)
    said = conditions.texts(found)
    assert "differs, by an interval that leaves out 0, with SGD 0.05 (+100 %" in said["moved"]
    assert "not told apart from it with Adam 2·10⁻³ (" in said["moved"]
    rows = {row[0]: row for row in conditions.shift_rows(found)}
    assert rows["Adam 2·10⁻³"][1] == "2 of 2" and rows["Adam 2·10⁻³"][2].startswith("−50 %") and rows["SGD 0.05"][3].startswith("+100 %")
    assert "varies more between conditions" in said["spread"]


def test_conditions_without_onsets_or_with_one_seed_are_said_to_be_so(three_conditions):
    said = conditions.texts(onsets(three_conditions, 1e-12))
    assert said["spread"].startswith("Under no condition did every run collapse") and "is unknown with" in said["moved"]
    alone = conditions.texts(onsets(three_conditions[three_conditions["seed"] == 0], 0.01))
    assert "without an interval" in alone["moved"] and "unknown" in alone["spread"] and alone["variation_within"].startswith("n/a")
    assert conditions.texts(onsets(three_conditions[three_conditions["key"] == "a0"], 0.01))["moved"].startswith("Only the baseline")


@pytest.fixture(scope="module")
def scaled():
    """The baseline, and the same with features doubled at epoch 40, a factor that is forgotten at the rate 0.1."""
    touched = {"factor": 2.0, "factor_epoch": 40, "target": "features"}
    return join(*(make_run(f"{name}{seed}", seed=seed, **extra) for seed in (0, 1) for name, extra in (("a", {}), ("b", touched))))


def test_recovery_is_the_ratio_to_the_mean_of_the_untouched_runs(scaled):
    recovered = intervention.recovery(scaled)
    run = recovered[recovered["key"] == "b0"]
    assert run["epoch"].iloc[0] == 40 and run["ratio"].iloc[0] == pytest.approx(1)
    assert run["ratio"].iloc[1:].to_numpy() == pytest.approx(2 ** np.exp(-0.1 * (run["epoch"].iloc[1:] - 40)), rel=1e-9)
    assert recovered.loc[recovered["key"] == "a1", "ratio"].to_numpy() == pytest.approx(1)
    larger = join(scaled, make_run("a2", seed=2, norm=1.1**3))
    recovered = intervention.recovery(larger).set_index("key")
    assert recovered.loc["a0", "ratio"].to_numpy() == pytest.approx(1 / 1.1) == recovered["least"].to_numpy()
    assert recovered.loc["a2", "ratio"].to_numpy() == pytest.approx(1.1**2) == recovered["greatest"].to_numpy()
    returned = intervention.returns(recovered.reset_index()).set_index("key")
    # twice the norm is at the greatest, 1.331 times, when exp(−0.1 t) = ln 1.331 / ln 2, t = 8.8: the next record
    assert returned["back"].to_dict() == {"b0": 10, "b1": 10}
    assert returned["inside"].all()
    said = intervention.texts(onsets(larger, 0.01), intervention.recovery(larger), 0.08)["returns"]
    assert said.startswith("When the norm first lay in the range") and said.endswith("in that range in 2 of 2 scaled runs.")


def test_the_first_record_after_a_scaling_tells_how_much_of_it_is_left(scaled):
    recovered = intervention.recovery(scaled)
    changes = intervention.first_changes(recovered)
    after = int(recovered[recovered["key"] == "b0"]["epoch"].iloc[1]) - 40
    assert changes["after"].to_list() == [after] * 2
    assert changes["change"].to_numpy() == pytest.approx(2 ** math.exp(-0.1 * after))
    said = intervention.texts(onsets(scaled, 0.01), recovered, 0.08)["first"]
    assert f"features × 2 at epoch 40: × {2 ** math.exp(-0.1 * after):.2f} [" in said and f"after {after} epochs" in said


def test_times_count_from_the_scaling_where_its_epoch_is_not_recorded(scaled):
    moved = scaled.assign(factor_epoch=scaled["factor_epoch"].where(scaled["factor"].isna(), 38))
    recovered = intervention.recovery(moved)
    assert recovered.loc[recovered["key"] == "b0", "after"].iloc[0] == 2
    assert intervention.returns(recovered)["back"].to_list() == [2, 2]  # at epoch 40 they are still like the untouched ones
    assert "No run has a record at the epoch of its scaling" in intervention.texts(onsets(moved, 0.01), recovered, 0.08)["first"]


def test_an_intervention_without_untouched_onsets_is_not_tested(scaled):
    never = onsets(scaled, 1e-9)
    assert intervention.effect_rows(never, 0.08) == [["features × 2 at epoch 40", "0 of 2", *["n/a"] * 5]]
    assert "nothing can be tested" in intervention.texts(never, intervention.recovery(scaled), 0.08)["verdicts"]
    alone = scaled[scaled["factor"].notna()]
    assert "untouched" in intervention.texts(onsets(alone, 0.01), intervention.recovery(alone), 0.08)["returns"]


def test_a_rule_that_nc1_follows_makes_the_extrapolation_exact_and_the_page_say_so():
    runs = [make_run(f"r{i}", rate=0.04 + 0.01 * i, weight_decay=1e-4 * (1 + i // 2), seed=i % 2) for i in range(6)]
    found = forecasts.forecasts(join(*runs))
    assert set(found["protocol"]) == set(forecasts.PROTOCOLS) and found["key"].nunique() == 6
    said = forecasts.texts(found)
    assert said["compared"].count("extrapolated NC1 misses by less") == 2 and said["sources"].startswith("6 runs of 1 pair")
    leads = forecasts.lead_table(found)
    assert (leads["lead"] == leads["T_NC"] - leads["crossing"]).all()
    single = forecasts.forecasts(runs[0])
    assert single.empty and len(forecasts.error_rows(single)) == 2 and "no run" in forecasts.texts(single)["ahead"]


def test_norms_at_rest_are_foretold_from_the_reference_alone():
    decays = [1e-4, 1e-3, 3e-3]
    norms = {decay: equilibrium_norm(decay, 1.4, 5) for decay in decays}
    runs = [make_run(f"w{decay}", weight_decay=decay, norm=norms[decay], approach=0.2) for decay in decays]
    table = settled.labelled(join(*runs))
    ends = settled.predicted(settled.settled(table))
    assert ends["predicted"].to_numpy() == pytest.approx(list(norms.values()), rel=1e-6) == ends["final"].to_numpy()
    assert settled.fitted_gain(ends) == pytest.approx(1.4) and ends["drift"].abs().max() < 1e-6
    assert ends["reference"].tolist() == [True, False, False]
    line = settled.curve(ends)
    assert line["predicted"].iloc[-1] == 0
    assert np.interp(1e-3, line["weight_decay"], line["predicted"]) == pytest.approx(norms[1e-3], rel=1e-3)
    said = settled.texts(table, ends, settled.norms_at_levels(table, ends))
    assert said["foretold"].startswith("At λ = 10⁻³") and said["foretold"].count(" 0 % from it") == 2


def test_vanished_features_are_counted_and_not_averaged():
    norm = equilibrium_norm(1e-3, 1.4, 5)
    runs = [make_run("a", norm=equilibrium_norm(1e-4, 1.4, 5), approach=0.2)]
    runs += [make_run(f"b{seed}", weight_decay=1e-3, seed=seed, norm=norm, approach=0.2) for seed in (0, 1)]
    runs.append(make_run("b2", weight_decay=1e-3, seed=2, norm=1e-5).assign(squared_norm_1=settled.VANISHED / 2))
    table = settled.labelled(join(*runs))
    ends = settled.predicted(settled.settled(table))
    said = settled.texts(table, ends, settled.norms_at_levels(table, ends))
    assert "the features vanish in 1 of 3 runs" in said["foretold"] and said["foretold"].endswith("measured in the rest, 0 % from it.")
    assert said["drifts"].endswith("where the features have not vanished.") and settled.rows(ends)[-1][4] == "vanished"
    gone = ends[ends["key"].isin(["a", "b2"])].assign(
        final=lambda runs: runs["final"].where(~runs["vanished"])
    )  # at once, NC1 never finite
    assert settled.texts(table, gone, settled.norms_at_levels(table, gone))["foretold"].endswith("is foretold and all features vanish.")


@pytest.mark.parametrize(
    ("decay", "norm", "said"),
    [
        (1e-3, 1.18, ["Nowhere", "So the norm goes with the curve at λ = 10⁻³; its interval includes the curve's change at"]),
        (1e-3, 1.4, ["So the norm goes against the curve at λ = 10⁻³; its interval excludes the curve's change at λ = 10⁻³."]),
        (1e-3, None, ["in 2 of 2 runs at λ = 10⁻³, although the model has a collapsed minimum there, the lower of the two.", "is open"]),
        (8e-3, None, ["No run but those", "minimum there. Whether"]),
        (1e-1, None, ["Nowhere", "where it has none, they vanish in 2 of 2 runs."]),
    ],
)
def test_what_became_of_the_prediction_is_told(decay, norm, said):
    gone = {"squared_norm_1": settled.VANISHED / 2} if norm is None else {}
    runs = [make_run(f"a{seed}", seed=seed, norm=1.22 + 0.01 * seed, approach=0.2) for seed in (0, 1)]
    norms = {seed: (norm or 1e-5) * (1 + 0.01 * seed) for seed in (0, 1)}
    runs += [make_run(f"b{seed}", weight_decay=decay, seed=seed, norm=norms[seed], approach=0.2).assign(**gone) for seed in norms]
    ends = settled.predicted(settled.settled(settled.labelled(join(*runs))))
    told = settled._compared(ends)
    assert all(part in told for part in said), told
    assert settled._compared(ends[ends["reference"]]).startswith("No run under another setting")


def test_a_run_that_diverged_and_stopped_has_not_vanished():
    diverged = make_run("b", weight_decay=1e-3)
    diverged = diverged[diverged["epoch"] <= SWITCH + 3].assign(squared_norm_1=np.nan)
    table = settled.labelled(join(make_run("a"), diverged))
    ends = settled.predicted(settled.settled(table))
    assert ends["vanished"].tolist() == [False, False]
    assert settled.texts(table, ends, settled.norms_at_levels(table, ends))["drifts"].startswith("Over the last")


def test_rates_are_told_with_intervals():
    runs = [
        make_run(f"{lr}{seed}", lr=lr, seed=seed, norm=norm + 0.1 * seed) for lr, norm in ((1e-3, 1.0), (2e-3, 1.1)) for seed in (0, 1, 2)
    ]
    table = settled.labelled(join(*runs))
    said = settled.texts(table, ends := settled.settled(table).assign(predicted=1.0), settled.norms_at_levels(table, ends))["rates"]
    assert said.count("[") == 2 and ", with overlapping intervals," in said


def test_norms_at_levels_are_shares_of_the_final_norm():
    table = settled.labelled(make_run("a"))
    ends = settled.settled(table)
    found = settled.norms_at_levels(table, ends, [0.5, 0.01, 1e-9]).set_index("level")
    t = -math.log(0.01) / 0.06
    assert list(found.index) == [0.5, 0.01]
    assert found.loc[0.01, "share"] == pytest.approx((1 + 3 * math.exp(-0.05 * t)) / (1 + 3 * math.exp(-0.05 * (END - SWITCH))), rel=1e-3)
    assert found.loc[0.01, "norm"] == ends["fn_star"].item()


def test_scatter_is_compared_over_the_runs_that_pass_every_level():
    """Two runs differ by a factor of two throughout, a third passes the first level only."""
    levels = pd.DataFrame(
        [
            (key, setting, level, norm * share, share)
            for key, setting, norm in (("a", "x", 1.0), ("b", "y", 2.0))
            for level, share in ((0.1, 3), (0.01, 2))
        ]
        + [("c", "z", 0.1, 40.0, 4)],
        columns=["key", "setting", "level", "norm", "share"],
    )
    said = settled._own_levels(levels)
    assert "3.33 at NC1 = 0.1 (3 runs) and 2.00 at NC1 = 0.01 (2 runs)" in said
    assert said.endswith(
        "Over the 2 runs, of 2 settings, that pass all of them, the coefficient of variation of the norm is 47.1 % at 0.1, 47.1 % at 0.01 and 47.1 % at the end."
    )
    assert "cannot be compared" in settled._own_levels(levels[levels["key"] != "b"])


def test_runs_without_a_reference_have_no_prediction():
    table = settled.labelled(make_run("a", weight_decay=1e-3))
    ends = settled.predicted(settled.settled(table))
    assert ends["predicted"].isna().all() and settled.curve(ends).empty
    said = settled.texts(table, ends, settled.norms_at_levels(table, ends))
    assert said["gain"].startswith("n/a") and said["critical"] == "n/a" and "no second weight decay" in said["foretold"]


def test_layers_are_compared_by_their_squared_norms():
    runs = [make_run("a"), make_run("b", weight_decay=1e-3)]
    runs[1]["squared_norm_1"] = np.where(runs[1]["epoch"] < END, 990.2, 20)
    table = settled.labelled(join(*runs))
    header, rows = settled.balance_table(table)
    assert header == ["Run", "Seed", "$W_1$", "$W$", "Largest / least"]
    assert rows == [["λ = 10⁻⁴, rate 10⁻³", "0", "10.00", "10.00", "1.00"], ["λ = 10⁻³, rate 10⁻³", "0", "20.00", "10.00", "2.00"]]
    said = settled._balanced(table)
    assert "is 1.00 times the least at λ = 10⁻⁴, rate 10⁻³ and 2.00 times at λ = 10⁻³, rate 10⁻³" in said
    assert "right after the switch it was 1.00 to 99.02 times the least. The first layer is the least in 1 of 2 runs, and" in said
    assert said.endswith("in 1 of the 1 that give the gain.") and settled._unrested(table) == ""
    assert settled._unrested(table[table["key"] == "b"]).startswith("In none of these runs is the first layer the least")
    vanished = settled.labelled(join(*runs, make_run("c", weight_decay=1e-2).assign(squared_norm_1=settled.VANISHED / 2)))
    assert settled._balanced(vanished) == said + " 1 run diverged or ended with a vanished layer, and counts for neither."
    assert settled.balance_table(vanished)[1][2][-1] == "n/a"
    lost = settled.labelled(make_run("a").assign(squared_norm_1=np.nan, squared_norm_classifier=np.nan))
    assert settled._balanced(lost).startswith("No run ended")
