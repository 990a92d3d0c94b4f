"""Words, tables and figures that the chapters of part two share, on tables written by hand."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from test_fn_notebooks import made_up

from ncbook.analysis import Estimate
from ncbook.fn import calibration, course, grid, pages, paper, plots
from ncbook.fn.experiments import fn_baseline_specs, fn_calibration_specs, fn_grid_specs, fn_width_specs
from ncbook.fn.onset import onsets
from ncbook.sweep import table

SHARED = {"data": "mnist", "subset": 300, "switch": 10, "epochs": 90}


def baseline(seeds=(0, 1), **changes):
    return fn_baseline_specs(seeds=list(seeds), **SHARED | changes)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (pages.number(-1234.5678), "−1,234.568"),
        (pages.number(math.nan), "n/a"),
        (pages.percent(0.064), "6.4 %"),
        (pages.percent(4.58, sign=True), "+458 %"),
        (pages.percent(149.4551), "14,946 %"),
        (pages.power(1e-4), "10⁻⁴"),
        (pages.power(3e-5), "3·10⁻⁵"),
        (pages.power(0.0), "0"),
        (pages.power(0.05), "0.05"),
        (pages.with_interval(Estimate(1.038, 0.998, 1.078, 9)), "1.038 [0.998, 1.078]"),
        (pages.with_interval(Estimate(1234.5, math.nan, math.nan, 1), 1), "1,234.5"),
        (pages.percent_with_interval(Estimate(0.064, 0.043, math.inf, 9)), "6.4 % [4.3 %, no bound]"),
        (pages.percent_with_interval(Estimate(0.5, 0.25, 1.7e6, 3)), "50 % [25 %, > 10,000 %]"),
        (pages.percent_with_interval(Estimate(42, 0.25, 100.0, 3)), "4,200 % [25 %, 10,000 %]"),
        (pages.p_value(2e-7), "p < 0.001"),
        (pages.listing(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_are_written_the_english_way(written, text):
    assert written == text


def test_departures_name_what_is_less_than_the_papers_scale_and_nothing_else():
    at_scale = baseline(range(3), subset=0, switch=200, epochs=600)
    assert pages.departures([made_up(spec) for spec in at_scale]) == []
    (fewer,) = pages.departures([made_up(spec) for spec in baseline(range(3), subset=12000, switch=200, epochs=600)])
    assert fewer == "12,000 of the 60,000 training images of MNIST"
    (one,) = pages.departures([made_up(spec) for spec in baseline([0], subset=0, switch=200, epochs=600)])
    assert one == "1 seed, where the paper has 3 in the experiments of which it says how many"
    cells = fn_grid_specs(["cifar10"], 16, 0, 200, 700, [0, 1, 2])
    lossy = [dataclasses.replace(run, provenance=run.provenance | {"data": "cifar10 (jpeg q75)"}) for run in map(made_up, cells)]
    assert pages.departures(lossy) == ["CIFAR-10 in a lossy copy, JPEG images of quality 75"]
    assert "JPEG" in pages.scale_box(lossy).data and "JPEG" in pages.limit_texts(lossy)["scale_limits"]
    cells = fn_grid_specs(["cifar10"], 8, 0, 200, 300, [0, 1, 2])
    assert pages.departures([made_up(spec) for spec in cells]) == [
        "ResNet-20 of width 8, first published with 16, the paper giving none",
        "at most 100 epochs after the switch, where the paper's MLP on MNIST took 110 to collapse",
        "at most 300 epochs of ResNet-20, where the paper's took 660 to collapse on CIFAR-10",
    ]


def test_onset_rows_say_where_runs_did_not_cross():
    runs = [made_up(spec, collapses=spec.seed != 1) for spec in baseline([0, 1, 2])]
    found = onsets(table(runs), 0.01).assign(group=["a", "a", "b"])
    some, all_of_one = pages.onset_rows(found, "group")
    assert some[:2] == ["a", "1 of 2"] and some[2].startswith("≥ ") and not some[4].startswith("≥")
    assert all_of_one[1] == "1 of 1" and "≥" not in "".join(all_of_one)
    (none,) = pages.onset_rows(found[found["seed"] == 1], "group")
    assert none == ["a", "0 of 1", "> 90", "n/a", "n/a"]


def test_a_run_whose_features_became_one_point_is_not_said_to_have_stayed_above():
    runs = [made_up(spec, collapses=spec.seed == 0) for spec in baseline([0, 1, 2])]
    rows = table(runs)
    rows = rows[(rows["seed"] < 2) | (rows["epoch"] <= 40)]
    rows.loc[(rows["seed"] == 2) & (rows["epoch"] == 40), "nc1_trace_ratio_clean"] = np.nan
    short = onsets(rows, 0.01).assign(group=["a", "a", "b"])
    assert pages.censored_text(short, 0.01) == (
        "NC1 fell below 0.01 in 1 of 3 runs; 1 stayed above it until epoch 90; "
        "in 1 all features had become one point, for which NC1 is undefined, at epoch 40"
    )
    assert pages.censored_text(short[2:], 0.01).endswith("in the only run, until all its features had become one point at epoch 40")
    assert pages.onset_rows(short, "group")[1][2] == "one point at 40"
    (mixed,) = pages.onset_rows(short[1:].assign(group="a"), "group")
    assert mixed[:4] == ["a", "0 of 2", "> 90, one point at 40", "n/a"]


def test_a_run_that_stopped_at_its_own_threshold_is_not_said_to_be_at_one_point_below_it():
    rows = table([made_up(spec) for spec in baseline([0])])
    found = onsets(rows[rows["epoch"] <= 40], 1e-6).assign(group="a")
    assert pages.censored_text(found, 1e-6) == "NC1 stayed above 1e-06 in the only run, until it ended at epoch 40"
    assert pages.onset_rows(found, "group")[0][2] == "> 40"


def test_a_course_is_read_at_its_moments():
    runs = [made_up(spec) for spec in baseline()]
    found = course.courses(table(runs), 0.01)
    for run, row in zip(runs, found.to_dict("records")):
        at = dict(zip(run.epochs, range(len(run.epochs))))
        error, norm = run.metrics["train_error"], run.metrics["feature_norm"]
        assert row["terminal"] == run.epochs[error <= 0.01][0] and row["interpolating"] == run.epochs[error <= 0.001][0]
        assert (row["norm_switch"], row["norm_after"], row["error_after"]) == (norm[at[10]], norm[at[11]], error[at[11]])
        assert row["norm_early"] == norm[at[10]] and row["compression"] == norm[at[10]] / row["fn_star"]
        assert row["norm_top"] == norm[at[11] :].max() and row["norm_end"] == norm[-1]
    assert "falls from 21.00" in course.crash_text(found) and "in 2 of 2 runs" in course.approach_text(found)


def test_a_metric_that_rises_at_the_switch_may_fall_only_in_the_second_sense():
    run = made_up(baseline([0])[0])
    since = run.epochs - 10
    risen = dataclasses.replace(run, metrics=run.metrics | {"nc3_clean": np.where(since > 0, 2.0 * np.exp(-since / 200), 1.0)})
    (row,) = course.structure_rows(table([risen]), {"nc3_clean": "NC3"})
    assert row[-2:] == ["0 of 1", "1 of 1"]
    assert course.structure_text(table([risen])) == "in every run: NC2 (norms), NC2 (angles) and NC2 (Grams); in no run: NC3"


@pytest.mark.parametrize(
    ("values", "told"), [([1.0, 1.1, 1.2], "inside"), ([1.2, 1.21, 1.22], "outside"), ([1.1], "no interval"), ([], "not measured")]
)
def test_the_papers_value_lies_inside_the_interval_or_not(values, told):
    assert told in course.against_paper(values, 1.063)


def searched(norms, early=27.0):
    """Settings whose fn* are `norms`, NaN where they did not collapse, and the courses that they come from."""
    specs = fn_calibration_specs(["adam 0.001", "sgd 0.05"], ["mean", "sum"], ["kept"], [256], [1e-3], [128], seeds=[0], **SHARED)
    found = course.courses(table([made_up(spec) for spec in specs]), 0.01)
    norms = np.array(norms)
    found = found.assign(fn_star=norms, norm_early=early, censored=np.isnan(norms))
    return calibration.settings(found, paper.BASELINE), found


def test_settings_are_ranked_by_their_distance_in_logarithms():
    table, courses = searched([2 * 1.063, 1.063 / 1.1, math.nan, 1.063])
    assert table["setting"].tolist() == ["SGD 0.05, sum", "Adam 10⁻³, sum", "Adam 10⁻³, mean", "SGD 0.05, mean"]
    *ranked, unknown = table["distance"]
    assert ranked == pytest.approx([0, math.log(1.1) / 2, math.log(2) / 2]) and math.isnan(unknown)
    assert table.loc[table["chosen"], "setting"].tolist() == ["Adam 10⁻³, mean"]
    texts = calibration.choice_texts(table, courses)
    assert texts["choice"].endswith("whether seeds tell the two apart is not known.")
    assert "number 3 of the 3" in texts["choice"] and texts["search"].startswith("Of 4 settings, 3 collapsed")
    assert texts["fitting"].startswith("2 settings have") and "fn* 0.966 to 1.063" in texts["fitting"]
    rows = calibration.setting_rows(table)
    assert rows[2][:4] == ["**Adam 10⁻³, mean**", "1 of 1", "27.0", "2.126"] and rows[3][1:4] == ["0 of 1", "27.0", "n/a"]


def test_widths_rates_and_batches_are_searched_one_at_a_time():
    specs = fn_calibration_specs(["adam 0.001"], ["mean", "sum"], ["kept"], [64, 256], [1e-3, 2e-3], [128, 256], seeds=[0], **SHARED)
    assert len(specs) == 5
    found = course.courses(table([made_up(spec) for spec in specs]), 0.01)
    names = set(calibration.settings(found, paper.BASELINE)["setting"])
    assert names == {
        "Adam 10⁻³, mean",
        "Adam 10⁻³, sum",
        "Adam 10⁻³, mean, 64 units",
        "Adam 2·10⁻³, mean",
        "Adam 10⁻³, mean, batches of 256",
    }


def test_networks_that_differ_in_width_alone_are_told_once():
    specs = [*fn_width_specs([512, 64], seeds=[0], **SHARED), *fn_grid_specs(["mnist"], 4, 300, 10, 90, [0])]
    told = "MLP with 5 hidden layers of 64, 256 and 512 units and ResNet-20 of width 4"
    assert pages.setting_texts([made_up(spec) for spec in specs])["model"] == told


@pytest.mark.parametrize(("spread", "apart"), [(0.01, True), (0.2, False)])
def test_seeds_say_whether_the_baseline_and_the_nearest_setting_differ(spread, apart):
    specs = fn_calibration_specs(["adam 0.001"], ["mean", "sum"], ["kept"], [256], [1e-3], [128], seeds=[0, 1, 2], **SHARED)
    found = course.courses(table([made_up(spec) for spec in specs]), 0.01).assign(norm_early=27.0)
    centres = found["reduction"].map({"mean": 1.3, "sum": 1.1})
    found = found.assign(fn_star=centres + spread * (found["seed"] - 1))
    searched = calibration.settings(found, paper.BASELINE)
    assert searched["chosen"].tolist() == [False, True]
    said = calibration.choice_texts(searched, found)["choice"]
    assert "From it the nearest setting differs in fn at epoch 10 by 0 % [0 %, 0 %] and fn* by −15.4 % [" in said
    assert said.endswith(
        "seeds tell the two apart by fn*." if apart else "seeds do not tell the two apart, which does not make them equal."
    )
    if apart:
        assert calibration.setting_rows(searched)[1][3] == "1.300 [1.275, 1.325]"


def test_no_setting_fits_where_none_is_near():
    texts = calibration.choice_texts(*searched([5.0, 6.0, 7.0, 8.0]))
    assert texts["fitting"].startswith("No setting") and "number 1 of the 4" in texts["choice"]


def cells(norms):
    """Onsets of a grid of two by two, three seeds a cell: fn* of (mlp, mnist), (resnet20, mnist), (mlp, cifar10), (resnet20, cifar10)."""
    names = [(model, data) for data in ("mnist", "cifar10") for model in ("mlp", "resnet20")]
    rows = [(*name, norm * (1 + 0.01 * seed)) for name, norm in zip(names, norms) for seed in range(3)]
    found = pd.DataFrame(rows, columns=["model", "data", "fn_star"])
    return found.assign(T_NC=100.0, censored=found["fn_star"].isna(), diverged=False)


def test_effects_that_multiply_do_not_add():
    text = grid.interaction_text(cells([1.0, 4.0, 2.0, 8.0]))
    added, multiplied = text.split("If effects multiplied")
    assert "leaves out 0" in added and "holds 0" in multiplied
    assert grid.effects(cells([1.0, 4.0, 2.0, 8.0]))["cifar10"].mean == pytest.approx(3)


def test_an_effect_that_rests_on_some_of_the_runs_says_so():
    found = cells([1.0, 4.0, 2.0, 8.0])
    assert " from " not in grid.effects_text(found)
    found.loc[[1, 5], ["fn_star", "censored"]] = [math.nan, True]  # one run of the perceptron and one of ResNet-20, both on MNIST
    mnist, cifar = grid.effects_text(found).split("; ")
    assert "from 2 of 3 runs of MLP and 2 of 3 runs of ResNet-20" in mnist and " from " not in cifar


def test_the_cells_say_how_long_runs_without_collapse_were_observed():
    runs = [made_up(spec, collapses=spec.data.name == "mnist") for spec in fn_grid_specs(["cifar10", "mnist"], 4, 300, 10, 90, [0, 1, 2])]
    rows = {row[0]: row for row in grid.cell_rows(onsets(table(runs), 0.01))}
    assert rows["MLP on CIFAR-10"][1:4] == ["0 of 3", "> 90", "n/a"] and rows["ResNet-20 on MNIST"][1] == "3 of 3"
    assert rows["ResNet-20 on MNIST"][4] == "5.867 (Abstract)" and rows["MLP on MNIST"][4].startswith("1.051 (implied")


def test_a_cell_without_collapse_leaves_the_interaction_open():
    found = cells([1.0, 4.0, math.nan, 8.0])
    assert grid.interaction_text(found) == "Independence cannot be tested: no run collapsed in MLP on CIFAR-10."
    assert "on CIFAR-10 unknown" in grid.effects_text(found) and "on MNIST +300 %" in grid.effects_text(found)
    neither = grid.interaction_text(found.assign(fn_star=np.nan))
    assert neither == (
        "Independence cannot be tested: no run collapsed in MLP on MNIST, nor in ResNet-20 on MNIST, "
        "nor in MLP on CIFAR-10, nor in ResNet-20 on CIFAR-10."
    )
    alone = grid.interaction_text(found[found["data"] == "mnist"])
    assert alone == "Independence cannot be tested: that takes MNIST and one other data set, and here there is MNIST."


def test_the_papers_percentages_imply_its_cells():
    implied = {cell: value.value for cell, value in paper.grid().items()}
    assert implied["mlp", "mnist"] * 5.58 == pytest.approx(5.867)
    assert implied["mlp", "cifar10"] == pytest.approx(1.5135 / 1.68)
    assert "−1.1 % from the 1.063" in grid.arithmetic_text() and "inside the range" in grid.arithmetic_text()


def test_figures_mark_runs_that_collapsed_and_those_that_did_not():
    runs = [made_up(spec, collapses=spec.seed == 0) for spec in baseline()]
    rows = table(runs)
    found = onsets(rows, 0.01)
    norms, nc1 = plots.trajectories(rows, [plots.NORM, plots.NC1], onsets=found, threshold=0.01).axes
    circles = [line.get_xydata()[0] for line in nc1.lines if line.get_marker() == "o"]
    assert np.allclose(circles, [[found["T_NC"].iloc[0], 0.01]])
    onset, star = plots.onset_over(found, "seed", "seed").axes
    triangles = [line.get_xydata() for line in onset.lines if line.get_marker() == "^"]
    assert np.allclose(triangles, [[[1, 80]]])
    assert not [line for line in star.lines if line.get_marker() == "^"]


def test_many_runs_have_a_median_as_long_as_all_of_them_last():
    rows = table([made_up(spec) for spec in baseline(range(7))])
    last = rows.groupby("key")["epoch"].max().min()
    (norms,) = plots.trajectories(rows, [plots.NORM], by="model").axes
    *runs, median = [line for line in norms.lines if len(line.get_xdata()) > 2]
    assert len(runs) == 7
    assert median.get_xdata()[-1] == last < max(line.get_xdata()[-1] for line in runs)
    assert median.get_ydata()[-1] == np.median(rows[rows["epoch"] == last]["feature_norm"])
    few = plots.trajectories(rows[rows["seed"] < 6], [plots.NORM], by="model").axes[0]
    assert len([line for line in few.lines if len(line.get_xdata()) > 2]) == 6
