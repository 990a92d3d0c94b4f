"""Statistics, words and figures from tables: against values worked out by hand, scipy and the report's own points."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ncbook import analysis, pages, plots
from ncbook.analysis import Estimate, estimate, interior_peak
from ncbook.report import modelwise

WIDTHS = [2, 4, 8, 16, 32]
ERRORS = [0.5, 0.1, 0.2, 0.3, 0.05]


def make_table(errors=ERRORS, seeds=(0, 1, 2), models=("resnet1d", "cnn1d"), optimizers=("sgd", "adam"), spread=0.01, epochs=3000):
    """A last-epoch table whose curves follow `errors`; seed s adds (s − mean) · `spread`, Adam adds 0.02."""
    rows = []
    for model in models:
        for optimizer in optimizers:
            for width, error in zip(WIDTHS, errors):
                for seed in seeds:
                    value = error + spread * (seed - np.mean(seeds)) + 0.02 * (optimizer == "adam")
                    run = dict(model=model, optimizer=optimizer, width=width, parameters=12 * width**2, seed=seed, label_noise=0.2)
                    measured = dict(train_loss=0.1, train_error=0.5 * value, test_error=value, nc1=2 * value)
                    rows.append({**run, "epochs": epochs, "epoch": epochs, **measured})
    return pd.DataFrame(rows)


def test_the_interval_of_a_mean_is_students():
    values = [0.1, 0.4, 0.35, 0.2]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert estimate(values) == pytest.approx((np.mean(values), low, high, 4))


def test_one_seed_has_a_mean_and_no_interval():
    mean, low, high, n = estimate([0.3])
    assert (mean, n) == (0.3, 1) and math.isnan(low) and math.isnan(high)


def test_an_interval_is_cut_where_its_quantity_ends():
    wide, single = estimate([0.0, 0.9]), estimate([0.3]).within(0, 1)
    assert wide.low < 0 and wide.high > 1 and wide.within(0, 1) == (wide.mean, 0, 1, 2) and wide.within(0) == (wide.mean, 0, wide.high, 2)
    assert math.isnan(single.low) and math.isnan(single.high)
    table = pd.DataFrame(
        {
            "seed": [0, 1],
            "test_error": [0.0, 0.9],
            "nc1_clean": [0.0, 0.9],
            "biased": [0.0, 0.9],
            "debiased": [-0.9, 0.9],
            "rise": [0.0, 0.9],
        }
    )
    means = analysis.seed_means(table.assign(width=1), [*table][1:], by=["width"]).set_index("metric")
    assert means["low"].tolist() == [0, 0, 0, -1, wide.low] and means["high"].tolist() == [1, wide.high, 1, 1, wide.high]


def test_diverged_seeds_do_not_enter_a_mean_and_do_not_count():
    assert estimate([0.1, np.nan, 0.3, np.inf])[0::3] == (pytest.approx(0.2), 2)
    assert estimate([np.nan]).n == 0


def test_last_epoch_takes_each_run_at_its_own_end():
    runs = pd.DataFrame({"key": ["a", "a", "b", "b"], "epochs": [5, 5, 9, 9], "epoch": [1, 5, 5, 9]})
    assert analysis.last_epoch(runs)[["key", "epoch"]].values.tolist() == [["a", 5], ["b", 9]]


@pytest.mark.parametrize(
    ("curve", "peak"),
    [
        ([5, 1, 2, 4, 3], (1, 3, 4)),
        ([5, 4, 3, 2, 1], None),
        ([1, 2, 3, 4, 5], None),
        ([5, 3, 1, 3, 5], None),
        ([2, 2, 2, 2], None),
        ([9, 1], None),
        ([9], None),
        ([], None),
        ([5, 1, 1.2, 1, 4, 0], (1, 4, 5)),  # the small bump before the peak is not taken for it
        ([1, 2, 3, 4, 3.9, 9], (0, 3, 4)),
        ([np.nan, 1, np.nan, 4, 3], (1, 3, 4)),
    ],
)
def test_interior_peak(curve, peak):
    assert interior_peak(curve) == peak


def test_peaks_give_position_rise_and_fall_in_pairs_of_one_seed():
    found = analysis.peaks(make_table()).set_index(analysis.CURVE)
    peak = found.loc[("resnet1d", "sgd")]
    assert (peak["width"], peak["before_width"], peak["after_width"]) == (16, 4, 32)
    assert peak["seed_widths"] == (16, 16, 16)
    assert peak["rise_mean"] == pytest.approx(0.2) and peak["fall_mean"] == pytest.approx(0.25)
    # the seeds differ by a constant, so the pairs do not differ at all
    assert peak["rise_low"] == pytest.approx(0.2) and peak["high"] > peak["mean"] + 0.01
    assert len(found) == 4


def test_beyond_is_taken_at_the_minimum_that_the_other_seeds_choose():
    curves = {0: [5, 1, 2, 4, 0.5], 1: [5, 2, 1, 4, 0.5], 2: [5, 2, 1, 4, 0.5]}  # seed 0 has its own minimum one width earlier
    rows = [(seed, width, error) for seed, curve in curves.items() for width, error in enumerate(curve, 1)]
    table = pd.DataFrame(rows, columns=["seed", "width", "test_error"]).assign(model="resnet1d", optimizer="sgd")
    (peak,) = analysis.peaks(table.assign(parameters=table["width"])).to_dict("records")
    assert (peak["width"], peak["before_width"], peak["beyond_n"]) == (4, 3, 3)
    assert peak["beyond_mean"] == pytest.approx(-1.5)  # each seed's error there is 2; at its own minimum it would be 1


def test_a_rise_within_the_noise_keeps_zero_in_its_interval():
    table = make_table([0.5, 0.1, 0.11, 0.1, 0.05], models=["resnet1d"], optimizers=["sgd"])
    table.loc[table["width"] == 8, "test_error"] += [-0.05, 0.0, 0.05]
    peak = analysis.peaks(table).iloc[0]
    assert peak["rise_low"] < 0 < peak["rise_high"]
    assert pages.sign_text(Estimate(*peak[["rise_mean", "rise_low", "rise_high", "rise_n"]])) == "intervallo che contiene lo zero"


def test_the_rise_of_a_peak_that_noise_has_made_is_not_told_from_zero_too_often():
    """Eleven widths of pure noise always have an interior peak; at positions of their own choice a fifth of such curves would rise."""
    places = pd.MultiIndex.from_product([["resnet1d"], ["sgd"], range(1, 12), range(3)], names=[*analysis.CURVE, "width", "seed"])
    curve = places.to_frame(index=False).assign(parameters=lambda table: table["width"])
    rng = np.random.default_rng(0)
    rises = [analysis.peaks(curve.assign(test_error=rng.normal(size=33))).iloc[0] for _ in range(300)]
    assert sum(rise["rise_low"] > 0 for rise in rises) <= 0.1 * len(rises)


def test_a_monotone_curve_has_no_row():
    assert analysis.peaks(make_table([5, 4, 3, 2, 1])).empty


def test_differences_pair_seeds_and_leave_out_the_unpaired():
    table = make_table()
    table = table[~((table["optimizer"] == "adam") & (table["seed"] == 2))]
    found = analysis.paired_differences(table, ["test_error"])
    assert set(found["n"]) == {2}
    assert found["mean"].tolist() == pytest.approx([-0.02] * 10)
    assert analysis.paired_differences(table[table["optimizer"] == "sgd"], ["test_error"]).empty


def test_correlations_agree_with_scipy():
    table = make_table(models=["resnet1d"], optimizers=["sgd"], seeds=[0])
    table["nc1"] = [3.0, 1.0, 4.0, 1.5, 2.0]
    found = analysis.correlations(table, ["nc1"]).set_index("kind")
    pearson = stats.pearsonr(table["nc1"], table["test_error"])
    assert found.loc["pearson", "r"] == pytest.approx(pearson.statistic)
    assert tuple(found.loc["pearson", ["low", "high"]]) == pytest.approx(tuple(pearson.confidence_interval(0.95)))
    assert found.loc["spearman", "r"] == pytest.approx(stats.spearmanr(table["nc1"], table["test_error"]).statistic)
    wider = found.loc["spearman"]
    assert wider["low"] < wider["r"] < wider["high"] and set(found["n"]) == {5}


def test_correlations_are_undefined_on_two_widths_and_on_constants():
    table = make_table(seeds=[0])
    assert analysis.correlations(table[table["width"] <= 4], ["nc1"])["r"].isna().all()
    assert analysis.correlations(table.assign(nc1=1.0), ["nc1"])["r"].isna().all()


def test_report_points_are_its_figure_under_our_names():
    points = analysis.report_points("exp1")
    point = points.query("metric == 'test_error' and model == 'resnet1d' and optimizer == 'sgd' and width == 64")
    assert point[["parameters", "value"]].values.tolist() == [[50624, 0.0524]]
    assert set(points["metric"]) == {"test_error", *analysis.REPORT_METRICS.values()}
    with pytest.raises(ValueError, match="experiment='exp9' has no table of the report's points: choose one of exp1"):
        analysis.report_points("exp9")


def test_the_reports_resnet_peaks_at_16():
    points = analysis.report_points("exp1").query("metric == 'test_error'").rename(columns={"value": "test_error"})
    found = analysis.peaks(points.assign(seed=0)).set_index(analysis.CURVE)["width"]
    assert found.loc["resnet1d"].to_dict() == {"sgd": 16, "adam": 16}


def test_beside_report_pairs_points_and_leaves_out_the_hidden_one():
    table = make_table()
    both = analysis.beside_report(analysis.seed_means(table, ["test_error"]), analysis.report_points("exp1"))
    assert len(both) == 4 * len(WIDTHS) - 1  # the figure hides CNN1D, SGD, W=16
    row = both.query("model == 'resnet1d' and optimizer == 'sgd' and width == 4").iloc[0]
    assert row["difference"] == pytest.approx(0.1 - 0.1184)


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (0.1534, 3, False, "0,153"),
        (-0.5, 1, True, "−0,5"),
        (0.5, 1, True, "+0,5"),
        (-0.0001, 2, True, "0,00"),
        (12345.6, 1, False, "12.345,6"),
        (np.nan, 3, False, "n.d."),
        (np.inf, 3, False, "∞"),
    ],
)
def test_numbers_are_written_the_italian_way(value, digits, sign, text):
    assert pages.number(value, digits, sign=sign) == text


def test_words_of_intervals_and_seeds():
    assert pages.with_interval(Estimate(0.1, 0.05, 0.15, 3), 2) == "0,10 [0,05; 0,15]"
    assert pages.with_interval(estimate([0.1]), 2) == "0,10"
    assert pages.with_interval(Estimate(1.067, 0.481, 1_717_064.4, 3)) == "1,067 [0,481; > 10.000]"
    assert pages.with_interval(Estimate(20_000, 10_000, 30_000, 3), 0) == "20.000 [10.000; 30.000]"
    assert pages.with_interval(Estimate(0.00012, -0.0002, 0.00044, 3), sign=True) == "+0,00012 [−0,00020; +0,00044]"
    assert pages.seeds_text([1, 1]) == "un solo seme, nessun intervallo"
    assert pages.seeds_text([3, 3]) == "media di 3 semi, intervallo al 95 % (t di Student)"
    assert pages.seeds_text([1, 3]).startswith("media di 1–3 semi")
    assert pages.listing([2, 4, 8]) == "2, 4 e 8" and pages.listing(["a"]) == "a" and pages.listing([]) == ""
    assert pages.percent(0.2) == "20 %" and pages.percent(0.125) == "12,5 %"
    read = ["lo 0,5 %", "l’1 %", "il 7 %", "l’8 %", "l’11,3 %", "il 18 %", "l’84 %", "il 100 %"]
    assert [pages.with_article(pages.percent(share)) for share in (0.005, 0.01, 0.07, 0.08, 0.113, 0.18, 0.84, 1)] == read


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Estimate(1, 0.5, 1.5, 3), "intervallo tutto sopra lo zero"),
        (Estimate(-1, -1.5, -0.5, 3), "intervallo tutto sotto lo zero"),
        (Estimate(0.1, -0.5, 0.7, 3), "intervallo che contiene lo zero"),
        (Estimate(0.1, np.nan, np.nan, 1), "un solo seme, nessun intervallo"),
        (Estimate(np.nan, np.nan, np.nan, 0), "n.d."),
    ],
)
def test_the_word_for_a_sign_follows_the_interval(value, text):
    assert pages.sign_text(value) == text


def test_reduced_scale_is_found_by_comparison_with_the_report():
    points = analysis.report_points("exp1").query("metric == 'test_error'")
    whole = points.assign(epochs=3000, label_noise=0.2, seed=0)
    assert pages.departures(whole, "exp1") == []
    assert pages.departures(whole.assign(epochs=400), "exp1") == ["400 epoche invece delle 3.000 del report"]
    assert pages.departures(whole.assign(label_noise=0.1), "exp1") == ["rumore sulle etichette 10 % invece del 20 %"]
    assert pages.departures(whole[whole["width"] < 64], "exp1") == ["4 delle 44 configurazioni del report non eseguite"]


def test_peak_texts_carry_the_tables_numbers_and_follow_them():
    points = analysis.report_points("exp1")
    texts = modelwise.peak_texts(make_table(), points)
    assert texts["resnet1d_sgd_peak"] == "16 (3.072)" and texts["resnet1d_sgd_report_peak"] == "16 (3.440)"
    assert texts["cnn1d_sgd_report_peak"] == "24 (12.936; punto a W = 16 non leggibile)"
    assert texts["cnn1d_adam_report_peak"] == "12 (3.444)"
    assert texts["resnet1d_adam_peak_error"].startswith("0,320 [")
    assert texts["peak_count"] == "4 su 4" and texts["rise_tally"] == "4 sopra lo zero (su 4)"
    assert "ResNet1D con SGD: −0,050 [" in texts["beyond_minimum"] and "intervallo tutto sotto lo zero" in texts["beyond_minimum"]
    worse = modelwise.peak_texts(make_table([0.5, 0.1, 0.2, 0.3, 0.15]), points)
    assert "ResNet1D con SGD: +0,050 [" in worse["beyond_minimum"] and "intervallo tutto sopra lo zero" in worse["beyond_minimum"]


def test_intervals_beyond_the_epochs_of_most_networks_are_said_to_rest_on_fewer_seeds():
    last = make_table(seeds=[0, 1, 2]).assign(epochs=2000)

    def limits(long_seeds):
        return pages.limit_texts(last.assign(epochs=last["epochs"].mask(last["seed"].isin(long_seeds), 15000)), "exp4")["seed_limits"]

    assert limits([0, 1]) == "Gli intervalli poggiano su 3 semi, oltre l’epoca 2.000 su 2: con così pochi semi sono molto larghi."
    assert limits([1]).endswith("oltre l’epoca 2.000 il seme è uno solo, e non ve ne sono.")
    assert limits([]) == limits([0, 1, 2]) and "3 inizializzazioni" in limits([])


def test_texts_exist_whatever_was_run():
    points, whole = analysis.report_points("exp1"), make_table()
    one = make_table(models=["cnn1d"], optimizers=["adam"], seeds=[4])
    one = one[one["width"] == 4]
    for make in (
        lambda last: modelwise.peak_texts(last, points),
        lambda last: modelwise.report_texts(analysis.seed_means(last, ["test_error"]), points),
        lambda last: modelwise.difference_texts(last, ["test_error", "nc1"]),
        lambda last: modelwise.collapse_texts(last, {"nc1": "NC1"}),
        lambda last: pages.limit_texts(last, "exp1"),
    ):
        assert make(whole).keys() == make(one).keys()
        assert not [text for text in make(one).values() if "nan" in text]
    assert modelwise.peak_texts(one, points)["resnet1d_sgd_peak"] == "n.d."
    assert modelwise.peak_texts(one, points)["cnn1d_adam_peak"] == "nessuno"


def test_lines_and_bands_are_the_means_and_their_intervals():
    means = analysis.seed_means(make_table(), ["test_error"])
    figure = plots.over_parameters(means, [plots.Panel("errore", {"test_error": ""}, log=True)], analysis.report_points("exp1"))
    assert [ax.get_title() for ax in figure.axes] == ["ResNet1D", "CNN1D"]
    sgd, report = figure.axes[0].lines[:2]
    assert sgd.get_ydata().tolist() == pytest.approx(ERRORS)
    assert report.get_linestyle() == "None" and report.get_markerfacecolor() == "none" and len(report.get_xdata()) == 11
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(0.5 + stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3))


def test_a_logarithmic_axis_shows_every_mean_and_point_and_cuts_bands_that_reach_0():
    means = pd.DataFrame(
        {"metric": "nc1", "epoch": [1, 10, 100], "mean": [2.0, 0.02, 0.2], "low": [0.0, 0.0, 0.1], "high": [4.0, 0.5, 0.3]}
    )
    points = pd.DataFrame({"metric": "nc1", "epoch": [10], "value": [0.01]})
    (ax,) = plots.curves(means, [plots.Panel("NC1", {"nc1": ""}, log=True)], "epoch", "epoca", log_x=True, points=points).axes
    bottom, top = ax.get_ylim()
    assert ax.get_yscale() == "log" and 0.005 < bottom < 0.01 and 4 < top < 8
    assert ax.collections[0].get_paths()[0].vertices[:, 1].min() == pytest.approx(bottom)
    (linear,) = plots.curves(means.assign(mean=[2.0, 0.0, 0.2]), [plots.Panel("NC1", {"nc1": ""}, log=True)], "epoch", "epoca").axes
    assert linear.get_yscale() == "linear" and linear.get_ylim()[0] < 0


@pytest.mark.parametrize(
    "only", [{"models": ["cnn1d"]}, {"optimizers": ["adam"]}, {"seeds": [0]}, {"errors": [0.0]}, {"errors": [np.nan] * 5}]
)
def test_figures_draw_whatever_was_run(only):
    table = make_table(**only)
    means = analysis.seed_means(table, ["test_error", "nc1"])
    plots.over_parameters(means, [plots.Panel("errore", {"test_error": "a", "nc1": "b"}, log=True)]).canvas.draw()
    plots.correlation_rows(analysis.correlations(table, ["nc1"]), {"nc1": "NC1"}).canvas.draw()
