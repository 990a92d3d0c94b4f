"""The claims of the fn* paper: measures on trajectories whose answers are known, scales, and pages of verdicts executed on altered runs."""

import dataclasses
import math

import numpy as np
import pandas as pd
import papermill
import pytest
from test_claims import CLAIM, fake
from test_notebooks import glued, outputs
from test_onset import SWITCH, falls_at, join, make_run

from ncbook import claims, verdicts
from ncbook.analysis import Estimate, estimate
from ncbook.chapters import CHAPTERS
from ncbook.evidence import Evidence
from ncbook.fn.experiments import BASELINE
from ncbook.fn.statistics import coefficient_of_variation
from ncbook.measures import MEASURES
from ncbook.spec import SwitchSpec
from ncbook.store import Store

BASE = {"subset": 300, "depth": 5, "width": 256, "activation": "relu", "optimizer": "adam", "lr": 1e-3, "momentum": 0.0}
BASE |= {"batch_size": 128, "target": None, "weight_decay": 1e-4}
COLLAPSE = ("nc2_equinorm_clean", "nc2_equiangularity_clean", "nc3_clean")


def runs(rates, seeds=(0, 1, 2), **labels):
    """Runs of one condition; `rates`: of the decay of NC1, one for all seeds or one a seed."""
    rates = [rates] * len(seeds) if isinstance(rates, float) else rates
    key = "-".join(map(str, labels.values()))
    return join(*(make_run(f"{key}-{seed}", rate=rate, **BASE | {"seed": seed} | labels) for seed, rate in zip(seeds, rates)))


def evidence_of(table):
    evidence = Evidence([])
    evidence.table = table
    return evidence


def cases(measure, *tables, **arguments) -> dict[str, Estimate]:
    table = join(*tables).astype({"depth": "Int64", "subset": "Int64"})
    return MEASURES[measure].function(evidence_of(table), **arguments)


def means(*given, **arguments):
    return {case: value.mean for case, value in cases(*given, **arguments).items()}


def test_relative_times_and_norms():
    tables = runs(0.05, depth=1), runs(0.1, depth=3)
    assert means("relative", *tables, value="since_switch", column="depth", pairs=[[1, 3], [3, 1]]) == {
        "depth 1 v depth 3": pytest.approx(1), "depth 3 v depth 1": pytest.approx(-0.5)
    }  # fmt: skip
    sizes = means("relative_size", *tables, value="since_switch", column="depth", pairs=[[1, 3], [3, 1]])
    assert list(sizes.values()) == pytest.approx([1, 0.5])
    norm = math.exp(-0.01 * (falls_at(0.05, 0.05) - falls_at(0.1)))
    found = means("relative", *tables, value="fn_star", column="depth", pairs=[[1, 3]], thresholds=[0.05], base_threshold=0.01)
    assert found == {"depth 1 v depth 3, NC1 < 0.05 v 0.01": pytest.approx(norm - 1)}
    assert cases("relative", *tables, value="fn_star", column="depth", pairs=[[1, 8]])["depth 1 v depth 8"].n == 0


def test_a_reflected_effect_keeps_its_interval():
    tables = runs([0.1, 0.11, 0.12], activation="tanh"), runs([0.05, 0.051, 0.052], activation="relu")
    arguments = dict(value="since_switch", column="activation", pairs=[["tanh", "relu"]])
    (effect,), (size,) = (cases(measure, *tables, **arguments).values() for measure in ("relative", "relative_size"))
    assert effect.high < 0 < size.low and size == pytest.approx((-effect.mean, -effect.high, -effect.low, 3))


def test_runs_that_never_collapse_count_with_their_time_and_have_no_norm():
    slow, quick = runs(1e-4, weight_decay=0.0), runs(0.05, weight_decay=1e-4)
    pairs = [[0.0, 1e-4], [1e-4, 0.0]]
    observed = (300 - SWITCH) / falls_at(0.05)
    arguments = dict(column="weight_decay", pairs=pairs)
    times = means("relative", slow, quick, value="since_switch", **arguments)
    assert list(times.values()) == pytest.approx([observed - 1, 1 / observed - 1])
    longer, shorter = cases("relative", slow, quick, value="since_switch", **arguments).values()
    assert longer.high == math.inf and longer.low > 0 and shorter.low == -1 and shorter.high < 0
    assert all(value.n == 0 for value in cases("relative", slow, quick, value="fn_star", **arguments).values())
    both = cases("relative", slow, runs(1e-4, weight_decay=1e-4), value="since_switch", **arguments)
    assert all(value.n == 0 for value in both.values())
    assert means("collapsed", slow, quick, column="weight_decay", levels=[0.0, 1e-4]) == {"λ = 0": 0, "λ = 10⁻⁴": 1}
    never, always = cases("collapsed", slow, quick, column="weight_decay", levels=[0.0, 1e-4]).values()
    assert never[1:] == pytest.approx((0, 1 - 0.025 ** (1 / 3), 3)) and always[1:] == pytest.approx((0.025 ** (1 / 3), 1, 3))
    assert cases("onset_range", slow, quick, column="weight_decay")["slowest − quickest"].n == 0
    slower = runs(0.025, weight_decay=1e-3)
    found = means("onset_range", slow, quick, slower, column="weight_decay")
    assert found == {"λ = 10⁻³ − λ = 10⁻⁴": pytest.approx(falls_at(0.025) - falls_at(0.05))}


def test_the_variation_within_pairs_counts_every_condition():
    tables = runs([0.05, 0.06, 0.07]), runs(0.1, lr=2e-3), runs([0.1, 0.11, 0.12], width=64), runs(1e-4, width=64, weight_decay=0.0)
    found = cases("norm_variation", *tables)
    first, second = ([3 * math.exp(-0.01 * falls_at(rate)) for rate in rates] for rates in ((0.05, 0.06, 0.07), (0.1, 0.1, 0.1)))
    both = found["MNIST MLP width 256"]
    assert both.mean > coefficient_of_variation(first + second).mean * 0.9 and both.n == 6 and math.isnan(both.low)  # two conditions
    alone = [3 * math.exp(-0.01 * falls_at(rate)) for rate in (0.1, 0.11, 0.12)]
    assert found["MNIST MLP width 64"] == pytest.approx(coefficient_of_variation(alone))


def test_conditions_move_the_time_or_the_norm():
    def conditions(**norms):
        return [runs([rate, rate * 1.01], seeds=[0, 1], decay=0.0, lr=lr, **norms) for lr, rate in ((3e-4, 0.05), (1e-3, 0.1), (2e-3, 0.2))]

    invariant = conditions()
    assert means("condition_spread", *invariant, what="norm")["Adam"] == pytest.approx(0, abs=1e-12)
    assert means("condition_spread", *invariant, what="ratio")["Adam"] == pytest.approx(0, abs=1e-12)
    under_sgd = runs(0.1, decay=0.0, norm=6.0, optimizer="sgd", lr=0.05, momentum=0.9)
    found = means("condition_spread", *invariant, under_sgd, what="norm")
    assert found["Adam"] == pytest.approx(0, abs=1e-12) and found["all optimisers"] == pytest.approx(math.log(2) / 2)
    assert cases("condition_spread", invariant[0], what="norm")["Adam"].n == 0
    on_digits = [table.assign(key=table["key"] + "d", data="digits", subset=pd.NA) for table in conditions(norm=6.0)]
    apart = means("condition_spread", *invariant, *on_digits, what="norm")
    assert [apart[f"{images}, Adam"] for images in ("MNIST", "digits")] == pytest.approx([0, 0], abs=1e-12)
    assert math.isnan(apart["digits, all optimisers"])
    survivor = runs([0.1, 1e-4], [0, 1], decay=0.0, norm=6.0, lr=5e-3)
    assert means("condition_spread", *invariant, survivor, what="norm")["Adam"] == pytest.approx(0, abs=1e-12)


def test_a_level_counts_as_collapsing_if_every_run_of_it_does():
    tables = runs(0.05, decay=0.0, weight_decay=1e-4), runs([0.05, 0.05, 1e-4], decay=0.0, norm=6.0, weight_decay=1e-3)
    assert means("at_onset", *tables, value="fn_star", collapsing="weight_decay") == {"all runs": pytest.approx(3)}
    assert means("at_onset", *tables, value="fn_star") == {"all runs": pytest.approx((3 * 3 + 2 * 6) / 5)}
    (variation,) = cases("norm_variation", *tables).values()
    assert variation.mean == pytest.approx(0) and variation.n == 3


def test_a_mean_over_collapsing_levels_counts_each_once_and_has_no_interval_over_one():
    quick, slow = runs(0.05, decay=0.0, weight_decay=1e-4), runs(0.05, (0, 1), decay=0.0, norm=6.0, weight_decay=1e-3)
    found = cases("at_onset", quick, slow, value="fn_star", collapsing="weight_decay")["all runs"]
    assert found == pytest.approx(estimate([3, 6])._replace(n=5)) and found.low < 3
    alone = cases("at_onset", quick, value="fn_star", collapsing="weight_decay")["all runs"]
    assert alone.mean == pytest.approx(3) and math.isnan(alone.low) and alone.n == 3


def test_final_norms_are_compared_whether_or_not_runs_collapse():
    slow = runs(1e-4, depth=1), runs(1e-4, norm=1.5, depth=2)
    arguments = dict(column="depth", pairs=[[1, 2]])
    assert means("relative", *slow, value="final_norm", **arguments) == {"depth 1 v depth 2": pytest.approx(1)}
    assert cases("relative", *slow, value="fn_star", **arguments)["depth 1 v depth 2"].n == 0
    fall = 1 - math.exp(-0.3)
    for settled, known in ((1.01 * fall, True), (0.99 * fall, False)):
        (size,) = cases("relative_size", *slow, value="final_norm", settled=settled, **arguments).values()
        assert bool(size.n) == known


@pytest.mark.parametrize("lost", ["feature_norm", "nc1_trace_ratio_clean"])
def test_a_run_that_ends_before_the_switch_has_no_time(lost):
    ended = runs(0.05, seeds=(3,), weight_decay=1e-4)
    ended = ended[ended["epoch"] <= ended["epoch"].sort_values().iloc[2]]
    ended.loc[ended["epoch"] == ended["epoch"].max(), lost] = math.nan
    tables = runs(0.05, weight_decay=1e-4), runs(0.1, weight_decay=1e-3)
    arguments = dict(value="since_switch", column="weight_decay", pairs=[[1e-4, 1e-3]])
    assert cases("relative", *tables, ended, **arguments) == cases("relative", *tables, **arguments)


def test_a_run_whose_features_became_one_point_has_no_time():
    gone = runs(0.001, seeds=(3,), weight_decay=1e-3)
    arguments = dict(value="since_switch", column="weight_decay", pairs=[[1e-4, 1e-3]])
    tables = runs(0.05, weight_decay=1e-4), runs(0.1, weight_decay=1e-3)
    assert cases("relative", *tables, gone, **arguments) != cases("relative", *tables, **arguments)  # censored, it counts
    gone.loc[gone["epoch"] >= 60, "nc1_trace_ratio_clean"] = math.nan
    assert cases("relative", *tables, gone, **arguments) == cases("relative", *tables, **arguments)


def test_a_curve_that_falls_and_rises_turns():
    tables = [runs([rate, 1.01 * rate, 1.02 * rate], depth=depth) for depth, rate in ((1, 0.05), (3, 0.1), (8, 0.06))]
    assert means("turns", *tables, column="depth", thresholds=[0.01]) == {"NC1 < 0.01": 1}
    assert means("turns", *tables[:2], column="depth", thresholds=[0.05]) == {"NC1 < 0.05": 0}
    alike = [runs([0.05, 0.06, 0.055], depth=depth) for depth in (1, 3, 8)]
    (open_,) = cases("turns", *alike, column="depth", thresholds=[0.01]).values()
    assert open_ == (0, 0, 1, 3) and claims.Range(0, math.inf).outcome(open_) == claims.UNDECIDED
    (never,) = cases("turns", *alike[:2], column="depth", thresholds=[0.01]).values()
    assert never == (0, 0, 0, 3)  # two levels cannot turn


def test_the_interaction_of_the_grid():
    norms = {("mlp", "mnist"): 1.0, ("resnet20", "mnist"): 6.0, ("mlp", "cifar10"): 0.8, ("resnet20", "cifar10"): 1.2}
    tables = [runs(0.1, decay=0.0, norm=norm, model=model, data=data) for (model, data), norm in norms.items()]
    assert means("grid_interaction", *tables, scale="linear") == {"linear": pytest.approx(1.2 - 0.8 - 6 + 1)}
    assert means("grid_interaction", *tables, scale="log") == {"log": pytest.approx(math.log(1.2 / 0.8 / 6))}
    assert cases("grid_interaction", *tables[:2], scale="log")["log"].n == 0


def test_a_moment_that_never_came_is_later_than_the_last_record():
    table = runs(1e-4)
    last = table["epoch"].max()
    assert (waiting := cases("at_onset", table, value="T_NC")["all runs"]) == (last, last, math.inf, 3)
    outcomes = [claims.Range(*ends).outcome(waiting) for ends in ((0, last), (0, last + 1), (last - 1, math.inf))]
    assert outcomes == [claims.FAILED, claims.UNDECIDED, claims.HELD]
    assert math.isnan(cases("at_onset", table, value="fn_star")["all runs"].mean)
    early = falls_at(0.1) + SWITCH
    mixed = cases("at_onset", runs([1e-4, 0.1, 0.1]), value="T_NC")["all runs"]
    assert mixed == (pytest.approx((last + 2 * early) / 3), pytest.approx(early), math.inf, 3)


def test_interventions_are_held_against_untouched_runs():
    tables = runs([0.05, 0.06]), runs([0.05, 0.06], norm=3.3, factor=0.5, factor_epoch=30, target="features")
    (case, found), *_ = cases("intervention_shift", *[table[table["seed"] < 2] for table in tables]).items()
    assert case == "features × 0.5 at epoch 30" and found.mean == pytest.approx(0.1) and found.n == 2
    up = runs([0.05, 0.06], norm=3.63, factor=2.0, factor_epoch=30, target="features")
    both = means("intervention_shift", *[table[table["seed"] < 2] for table in (*tables, up)])
    assert both == {
        "features × 0.5 at epoch 30": pytest.approx(0.1), "features × 2 at epoch 30": pytest.approx(0.21),
        "features × 2 v × 0.5 at epoch 30": pytest.approx(0.1),
    }  # fmt: skip
    assert means("at_onset", *tables, value="since_switch") == {"all runs": pytest.approx((falls_at(0.05) + falls_at(0.06)) / 2)}
    for untouched in (runs(1e-4), runs(0.05)):
        assert cases("intervention_shift", untouched)["all"].n == 0


def test_the_norm_predicts_where_it_crosses_early_and_alike():
    early = [runs(rate, seeds=[seed], norm=norm, decay=0.02) for seed, (rate, norm) in enumerate([(0.05, 3.0), (0.05, 2.9), (0.05, 3.1)])]
    found = {measure: cases(measure, *early) for measure in ("crossing_first", "crossing_lead", "prediction_miss", "baseline_excess")}
    assert all(list(values)[0].endswith("from other runs") for values in found.values())
    assert found["crossing_first"]["from other runs"].n == 3 and 0 <= found["crossing_first"]["from other runs"].low
    stars = np.array([norm * math.exp(-0.02 * falls_at(0.05)) for norm in (3.0, 2.9, 3.1)])
    levels = np.array([np.delete(stars, i).mean() for i in range(3)])
    leads = falls_at(0.05) - np.log(np.array([3.0, 2.9, 3.1]) / levels) / 0.02
    assert found["crossing_lead"]["from other runs"].mean == pytest.approx(leads.mean(), abs=0.05)
    assert found["crossing_first"]["from other runs"].mean == pytest.approx((leads > 0).mean())
    alone = cases("crossing_first", early[0])
    assert all(value.n == 0 for value in alone.values())


def test_the_norm_along_the_run():
    tables = [runs(0.05, depth=2), runs(1e-4, decay=0.001, depth=8)]
    assert means("norm_change", *tables, column="depth", since=-30) == {
        "depth 2": pytest.approx(math.exp(-0.3) - 1), "depth 8": pytest.approx(math.exp(-0.03) - 1)
    }  # fmt: skip
    assert math.isnan(means("norm_change", *tables, column="depth", since=-400)["depth 2"])
    since = means("norm_change", *tables, column="depth", since=10)
    assert since["depth 8"] == pytest.approx(math.exp(-0.001 * (300 - SWITCH - 10)) - 1)
    assert means("norm_at", *tables, epoch=10) == {"epoch 10": 27}


def test_collapse_and_fit_along_the_run():
    table = runs(0.05)
    table["nc3_clean"] = np.exp(-0.02 * table["epoch"])
    table["train_error"] = np.where(table["epoch"] < 15, 0.3, 0.0)
    fall = math.exp(-0.02 * (falls_at(0.05) - 10)) - 1
    assert means("change_to_onset", table, metrics=["nc3_clean"], after=10) == {"NC3": pytest.approx(fall, abs=0.002)}
    assert means("first_fit", table, error=0.01) == {"all runs": 15}


def test_arithmetic():
    found = MEASURES["implied_effect"].function(None, value=[2.9, 3.1], over=[1.0, 1.0])["reported numbers"]
    assert found == pytest.approx((2, 1.9, 2.1, 0))
    assert verdicts.value_text(found, "en") == "2.000 [1.900, 2.100]" and verdicts.value_text(found, "it") == "2,000 [1,900; 2,100]"


def test_a_small_mean_keeps_an_interval_that_is_not_small():
    assert verdicts.value_text(Estimate(5e-7, -0.02, 0.02, 5), "en") == "0.000 [−0.020, 0.020]"
    assert verdicts.value_text(Estimate(-5e-7, math.nan, math.nan, 1), "en") == "0.000000"
    assert (
        verdicts.value_text(Estimate(5e-7, 1e-7, 9e-7, 5), "en")
        == verdicts.value_text(Estimate(5e-7, math.nan, math.nan, 1), "en")
        == "< 10⁻⁶"
    )
    width, count = Estimate(math.exp(math.log(24)), math.nan, math.nan, 1), Estimate(6, 6, 6, 3)
    for value, text in [(width, "24"), (count, "6 [6, 6]"), (Estimate(6, 5.5, math.inf, 3), "6.000 [5.500, ∞]")]:
        assert verdicts.value_text(value, "en") == text
    below = claims.Range(-math.inf, 0.1)
    assert verdicts.value_text(Estimate(0.083, 0.066, 0.1004, 2), "en", below) == "0.0830 [0.0660, 0.1004]"
    assert verdicts.value_text(Estimate(0.083, 0.066, 0.1, 2), "en", below) == "0.083 [0.066, 0.100]"
    for effect, width in ((0.5, 3.2 / 1.5 - 2), (1.0, 1.6 - 2)):
        found = MEASURES["common_base"].function(None, values=[[2.0, 2.2], [3.0, 3.2]], effects=[[0.0, 0.0], [effect, effect]])
        assert found["reported numbers"].mean == pytest.approx(width)
    for n, values in ((9, [1] * 4 + [-1] * 4 + [0]), (4, [1, 1, -1, -1])):
        least = MEASURES["least_extreme"].function(None, n=n)[f"{n} values"].mean
        assert least == pytest.approx(1 / np.std(values, ddof=1))
        samples = np.random.default_rng(0).normal(size=(500, n))
        assert (np.abs(samples - samples.mean(1, keepdims=True)).max(1) / samples.std(1, ddof=1)).min() >= least
    half = MEASURES["student_half_width"].function(None, mean=2.0, variation=0.5, n=9)["9 values"].mean
    sample = estimate(2 + np.array([1] * 4 + [-1] * 4 + [0]))
    assert half == pytest.approx((sample.high - sample.low) / 2)


ONE_RUN = {"collapses": dict(rate=0.05), "does not": dict(rate=1e-4), "ends at the switch": dict(rate=0.05, end=SWITCH)}


@pytest.mark.parametrize("run", ["collapses", "does not", "diverges", "ends at the switch"])
@pytest.mark.parametrize("claim", claims.chosen([], "fn_star"), ids=lambda claim: claim.id)
def test_no_claim_is_decided_by_a_single_run_whatever_it_did(claim, run):
    table = make_run("a", **ONE_RUN.get(run, {"rate": 0.05}), **BASE).assign(**dict.fromkeys(COLLAPSE, 0.5))
    if run == "diverges":
        table.loc[table["epoch"] > SWITCH, ["nc1_trace_ratio_clean", "feature_norm", "train_error", *COLLAPSE]] = np.nan
    evidence = evidence_of(table.astype({"depth": "Int64", "subset": "Int64"}))
    for check in claim.checks if claim.reads else ():
        if check.measure not in ("least_extreme", "student_half_width"):
            outcomes = {case.outcome for case in claims._cases(check, evidence)}
            assert outcomes == {claims.UNDECIDED}


def test_runs_on_fewer_images_with_an_earlier_switch_or_narrower_bear_no_verdict(tmp_path):
    spec = dataclasses.replace(BASELINE, epochs=90, data=dataclasses.replace(BASELINE.data, subset=300), switch=SwitchSpec(epoch=10))
    found = claims._found(1, Evidence([fake(spec)]), claims.Scale(90, 1))
    assert found == claims.Found(missing=0, total=1, epochs=90, seeds=1, subset=300, switch=10, width=256)
    for name, least, enough in [("subset", claims.ALL, 300), ("switch", 11, 10), ("width", 257, 256)]:
        assert claims.reaches(found, claims.Scale(90, 1, **{name: enough}))
        assert not claims.reaches(found, claims.Scale(90, 1, **{name: least}))
    everything = claims._found(1, Evidence([fake(dataclasses.replace(spec, data=BASELINE.data))]), claims.Scale(90, 1))
    assert claims.reaches(everything, claims.Scale(90, 1, subset=claims.ALL))


def test_only_chapters_that_fall_short_by_themselves_are_named():
    spec = dataclasses.replace(BASELINE, epochs=90, switch=SwitchSpec(epoch=10))
    runs = [fake(dataclasses.replace(spec, seed=seed)) for seed in (0, 1)] + [fake(dataclasses.replace(spec, seed=0, batch_size=64))]
    keys = [run.spec.key for run in runs]
    short = claims._short(claims.Scale(90, 2), {"enough": keys[:2], "one seed": keys[2:], "missing": [*keys[:2], "x"]}, Evidence(runs))
    assert {chapter: (found.seeds, found.missing) for chapter, found in short.items()} == {"one seed": (1, 0), "missing": (2, 1)}


def test_every_quantity_that_falls_short_stands_in_the_reason_and_in_the_commands():
    scale = {"epochs": 90, "seeds": 3, "subset": 0, "switch": 200, "width": 16, "width_parameter": "resnet_width"}
    claim = claims._claim({**CLAIM, "reads": [{"chapter": "exp1"}, {"chapter": "exp2"}], "scale": scale})
    found = claims.Found(missing=0, total=2, epochs=80, seeds=2, subset=12000, switch=50, width=8)
    result = claims.Result(
        claim, (), found, claims.NOT_YET, {"exp1": found, "exp2": dataclasses.replace(found, epochs=90, subset=claims.ALL)}
    )
    arguments = '-p epochs 90 -p seeds "[0, 1, 2]" -p subset 0 -p switch 200 -p resnet_width 16'
    others = '-p seeds "[0, 1, 2]" -p switch 200 -p resnet_width 16'  # it has the epochs and all images
    assert verdicts.reason_text(result, "en") == (
        "There are 80 epochs and 90 are needed; there are 2 seeds and 3 are needed; there are 12,000 training images and all are needed; "
        "the loss changes at epoch 50 and not at 200; the narrowest network has width 8 and not 16; "
        f"to have them `ncbook sweep exp1 {arguments}`, `ncbook sweep exp2 {others}`, then the same values as defaults."
    )
    assert verdicts.scale_text(result, "en") == "80 epochs, 12,000 images, switch at epoch 50, width 8, seeds: 2"


@pytest.fixture
def startup(tmp_path, monkeypatch):
    """Kernels started by the test see no published run."""
    folder = tmp_path / "ipython" / "profile_default" / "startup"
    folder.mkdir(parents=True)
    defaults = f"(None, {str(tmp_path / 'none')!r})"
    (folder / "no_published_runs.py").write_text(f"import ncbook.store\nncbook.store.Store.__init__.__defaults__ = {defaults}\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


@pytest.mark.parametrize(
    ("chapter", "id", "language", "metrics"),
    [
        ("verdicts", "R12", "it", {"test_error": lambda seed: 0.05 + 0.01 * seed}),
        (
            "fn_verdicts",
            "F17",
            "en",
            {"feature_norm": lambda s: 25 + s, "train_error": lambda s: 0.0, "nc1_trace_ratio_clean": lambda s: 0.5},
        ),
    ],
)
def test_altered_runs_alter_the_executed_page_of_verdicts(tmp_path, own_store, startup, chapter, id, language, metrics):
    store = Store(own_store, tmp_path / "none")
    (claim,) = claims.chosen([id])
    specs = [spec for reads in claim.reads for spec in reads.specs()]
    for spec in specs:
        store.save(fake(spec, **{name: value(spec.seed) for name, value in metrics.items()}))

    def page():
        source, parameters = CHAPTERS[chapter].notebook, {"claims": [id]}
        notebook = papermill.execute_notebook(source, tmp_path / "out.ipynb", parameters, cwd=str(tmp_path), progress_bar=False)
        (table,) = [text for output in outputs(notebook) if 'class="claims"' in (text := output.get("data", {}).get("text/html", ""))]
        return glued(notebook)[f"measured_{id}"], table

    before, row = page()
    run, metric = store.load(specs[0].key), next(iter(metrics))
    store.save(dataclasses.replace(run, metrics={**run.metrics, metric: 1.25 * run.metrics[metric]}))
    after, altered_row = page()
    (result,) = claims.evaluate([claim], store)
    assert after == "; ".join(verdicts.measured_texts(result, language)) != before
    values = [float(store.load(spec.key).metrics[metric][-1]) for spec in specs]
    number = verdicts.value_text(estimate(values), language)
    assert number in after and number in altered_row and number not in row


def test_a_claim_can_be_restricted_to_an_activation_or_a_weight_decay():
    """The page on all images has both groups; the baseline stands in each."""
    activations, decays = (claims.Reads("fn_full_scale", only).specs() for only in ({"weight_decay": [1e-4]}, {"activation": ["relu"]}))
    assert {spec.optimizer.weight_decay for spec in activations} == {1e-4} and len({spec.model.activation for spec in activations}) == 3
    assert {spec.model.activation for spec in decays} == {"relu"} and len({spec.optimizer.weight_decay for spec in decays}) > 3
