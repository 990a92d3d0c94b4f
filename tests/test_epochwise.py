"""Windows, spreads and milestones over the epochs against values worked out by hand, and the words that they choose."""

import math

import numpy as np
import pandas as pd
import pytest

from ncbook import analysis
from ncbook.report import epochwise
from ncbook.spec import ModelSpec, OptimizerSpec, RunSpec


def make_table(widths=(12, 64), seeds=(0, 1), epochs=range(1, 11), error=lambda width, epoch: 0.1):
    """Structure leads up to epoch 5, noise from epoch 6 on; seeds differ by 0.001 in the test error."""
    rows = [
        {"model": "resnet1d", "optimizer": "adam", "width": width, "seed": seed, "epoch": epoch, "epochs": max(epochs), "train_loss": 0.1}
        | {"test_error": error(width, epoch) + 0.001 * seed}
        | {"accuracy_flipped_clean": 0.8 if epoch == 3 else 0.3, "accuracy_flipped": 0.1 if epoch <= 5 else 0.9}
        | {"nc1_trace_ratio_clean": 1.0, "nc1_trace_ratio_noisy": 2.0 if epoch <= 7 else 0.5}
        for width in widths
        for seed in seeds
        for epoch in epochs
    ]
    return pd.DataFrame(rows)


def make_texts(table):
    means = analysis.seed_means(table, ["test_error"], by=[*analysis.CURVE, "width", "epoch"])
    runs = epochwise.milestones(table)
    return epochwise.epoch_texts(table, epochwise.spreads(table), runs, means, analysis.report_points("exp2"))


def test_windows_are_half_decades_of_recorded_epochs_and_none_is_nearly_empty():
    spec = RunSpec(
        model=ModelSpec(name="resnet1d", width=2), optimizer=OptimizerSpec(name="adam", lr=1e-3), epochs=15000, seed=0, record="dense"
    )
    found = epochwise.windows(spec.recorded_epochs)
    assert [(window[0], window[-1]) for window in found] == [
        (1, 3),
        (4, 10),
        (11, 31),
        (32, 100),
        (200, 1000),
        (1200, 3000),
        (3200, 10000),
        (10200, 15000),
    ]
    assert sum(found, []) == list(spec.recorded_epochs)
    assert epochwise.windows([1]) == [[1]] and epochwise.windows([3, 1, 2, 2]) == [[1, 2, 3]]
    assert epochwise.windows([*range(1, 11), 12]) == [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 12]]


def test_spreads_are_those_of_each_window_and_wobble_passes_over_a_trend():
    table = make_table(widths=[12], seeds=[0], error=lambda width, epoch: epoch / 100)
    found = epochwise.spreads(table).set_index("window").loc["4–10"]
    values = np.arange(4, 11) / 100
    assert found["std"] == pytest.approx(values.std(ddof=1)) and found["range"] == pytest.approx(0.06)
    assert found["wobble"] == pytest.approx(0.01 / math.sqrt(2))
    assert found["epoch"] == pytest.approx(math.sqrt(40)) and found["measured"] == 7
    noise = np.random.default_rng(0).normal(0, 0.02, 1001)
    table = make_table([12], [0], range(317, 1001), lambda width, epoch: epoch / 1e5 + noise[epoch])
    assert epochwise.spreads(table)["wobble"].iloc[0] == pytest.approx(0.02, rel=0.1)


def test_one_record_has_no_spread():
    found = epochwise.spreads(make_table(epochs=[1]))
    assert found[list(epochwise.SPREADS)].isna().all(axis=None) and len(found) == 4


@pytest.mark.parametrize(
    ("ahead", "epoch"),
    [([False, True, True], 2), ([True, False, True], 3), ([True] * 3, 1), ([True, True, False], math.nan), ([False] * 3, math.nan)],
)
def test_a_lead_counts_from_where_it_lasts(ahead, epoch):
    assert epochwise.lasting_lead([1, 2, 3], ahead) == pytest.approx(epoch, nan_ok=True)


def test_milestones_are_read_off_each_run():
    table = make_table(seeds=[0], epochs=[*range(1, 11), 200, 400, 600], error=lambda width, epoch: 0.5 if epoch < 4 else epoch / 1000)
    run = epochwise.milestones(table).iloc[0]
    assert (run["structure"], run["structure_epoch"], run["memorised_then"], run["memorised"]) == (0.8, 3, 0.1, 0.9)
    assert (run["overtaken"], run["collapse_overtaken"], run["best_epoch"], run["best_error"]) == (6, 8, 4, 0.004)
    assert (run["late_median"], run["late_min"], run["late_max"]) == (0.4, 0.2, 0.6)


def test_diverged_runs_and_labels_without_noise_have_no_milestones():
    table = make_table()
    lost = epochwise.milestones(table.assign(train_loss=math.nan))
    assert len(lost) == 4 and lost[list(epochwise.MILESTONES)].isna().all(axis=None)
    assert set(map(epochwise.order_text, lost.to_dict("records"))) == {"senza punti scambiati o divergente"}
    assert epochwise.milestones(table.assign(accuracy_flipped=math.nan, accuracy_flipped_clean=math.nan))["structure"].isna().all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "prima la struttura, poi il rumore"),
        ({"overtaken": math.nan, "memorised": 0.1}, "la struttura è davanti anche alla fine"),
        ({"overtaken": math.nan, "structure": 0.2}, "nessuna delle due prevale"),
        ({"structure": 0.1, "memorised_then": 0.4, "overtaken": 1.0}, "il rumore è davanti già alla prima misura"),
    ],
)
def test_the_order_of_learning_is_worded_by_the_run(changes, words):
    run = {"structure": 0.8, "structure_epoch": 3.0, "memorised_then": 0.1, "memorised": 0.9, "overtaken": 6.0}
    assert epochwise.order_text(run | changes) == words


def test_epochs_are_medians_with_ranges_and_say_who_never_comes():
    assert epochwise.epoch_text([4, 10, 6]) == "6 (4–10)" and epochwise.epoch_text([7]) == "7"
    assert epochwise.epoch_text([1000, math.nan]) == "1.000, in 1 seme su 2" and epochwise.epoch_text([math.nan]) == "mai"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.07, 0.1, "resta entro la fascia 0,07–0,10"),
        (0.08, 0.13, "esce dalla fascia 0,07–0,10"),
        (0.11, 0.13, "sta tutto sopra la fascia 0,07–0,10"),
        (0.01, 0.06, "sta tutto sotto la fascia 0,07–0,10"),
        (math.nan, math.nan, "senza misure dopo l’epoca 200"),
    ],
)
def test_the_band_is_worded_by_the_range(low, high, words):
    assert epochwise.in_band_text(low, high) == words


def test_words_follow_which_width_varies_more():
    calm = {12: 0.0, 64: 0.02}
    texts = make_texts(make_table(error=lambda width, epoch: 0.3 + calm[width] * (epoch % 2)))
    assert texts["wobble_tally"] == texts["range_tally"] == "W = 12: 2 sotto lo zero (su 2)"
    calm = {12: 0.02, 64: 0.0}
    texts = make_texts(make_table(error=lambda width, epoch: 0.3 + calm[width] * (epoch % 2)))
    assert texts["wobble_tally"] == "W = 12: 2 sopra lo zero (su 2)"
    assert texts["order"].startswith("W = 12: prima la struttura, poi il rumore (2 semi); W = 64: ")


def test_words_of_the_late_level_and_of_the_report():
    texts = make_texts(make_table(epochs=[1, 2, 3, 200, 400], error=lambda width, epoch: 0.09 if width == 64 else 0.2))
    assert texts["late_range"] == "da 0,090 a 0,091" and texts["late_band"].startswith("resta entro")
    assert texts["late_differences"] == "W = 12: +0,110 [+0,110; +0,110], intervallo tutto sopra lo zero"
    assert texts["late_records"] == "2 misure per rete"
    assert texts["report_late_range"] == "da 0,072 a 0,130" and texts["report_in_band"] == "8 su 9"
    assert (texts["report_critical_range"], texts["report_large_range"]) == ("da 0,041 a 0,052", "da 0,141 a 0,239")
    assert texts["report_distance"].startswith("W = 12: mediana 0,")


def test_intervals_keep_to_what_an_error_and_its_spread_can_be():
    table = make_table(error=lambda width, epoch: 0.001 * epoch)
    table.loc[table["seed"] == 1, "test_error"] *= 40
    (first, *_), (level, *_) = epochwise.spread_rows(epochwise.spreads(table)), epochwise.level_rows(epochwise.milestones(table))
    assert all("[0,000; " in cell for cell in first[3:]), first
    assert "[0,000; " in level[1], level


def test_words_and_rows_exist_whatever_was_run():
    whole = make_texts(make_table())
    lost = make_table().assign(train_loss=math.nan, test_error=math.nan)
    for table in (make_table([2], [0], [1]), make_table([2, 4], [3], [1, 2, 3]), lost):
        texts, runs = make_texts(table), epochwise.milestones(table)
        assert texts.keys() == whole.keys() and not [text for text in texts.values() if "nan" in text]
        cells = epochwise.spread_rows(epochwise.spreads(table)) + epochwise.learning_rows(runs) + epochwise.level_rows(runs)
        assert not [cell for row in cells for cell in row if "nan" in cell]
