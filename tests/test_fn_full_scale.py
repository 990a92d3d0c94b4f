"""The page on the networks on all images: what errors make of NC1, and the second half of the second phase, on runs made up for it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from ncbook import metrics
from ncbook.fn import full_scale
from ncbook.fn import plots as fn_plots
from ncbook.fn.onset import onsets
from ncbook.fn.sweeps import DEPTH
from ncbook.simplex import collapsed_nc1_closed

SWITCH, LAST = 10, 110


@pytest.mark.parametrize("error", [0.002, 0.01, 0.04])
def test_nc1_of_errors_is_that_of_features_collapsed_on_the_classes_that_are_seen(error):
    """Of each class a share is seen as others, as much as each of the nine."""
    labels = torch.arange(10).repeat_interleave(9000).view(10, 9000)
    seen, erring = labels.clone(), round(9000 * error)
    seen[:, :erring] = (labels[:, :erring] + 1 + torch.arange(erring) % 9) % 10
    features = torch.eye(10, dtype=torch.float64)[seen.flatten()] + 3
    measured = metrics.nc1_trace_ratio(features, labels.flatten()).item()
    assert full_scale.error_nc1(erring / 9000) == pytest.approx(measured, rel=1e-9)
    assert full_scale.error_of(measured) == pytest.approx(erring / 9000, rel=1e-9)


def test_nc1_is_over_that_of_errors_where_there_are_some_and_not_too_many():
    table = pd.DataFrame({"nc1_trace_ratio_clean": [3 * full_scale.error_nc1(0.01), 0.1, 5.0], "train_error": [0.01, 0.0, 0.9]})
    assert full_scale.with_error_nc1(table)["nc1_over_errors"].tolist() == pytest.approx([3, math.inf, math.nan], nan_ok=True)


def history(key, depth, *, ratio=1.0, error=0.01, norm=1.0, fall=0.0) -> pd.DataFrame:
    """A run whose NC1 is fifty times as high in the first half after the switch, and whose norm falls by the share `fall` at its third
    quarter."""
    epochs = np.arange(1, LAST + 1)
    since = epochs - SWITCH
    nc1 = np.where(since < 50, 50, ratio) * collapsed_nc1_closed(error, 10)
    columns = {
        "epoch": epochs,
        "nc1_trace_ratio_clean": nc1,
        "train_error": error,
        "feature_norm": np.where(since < 75, norm, norm * (1 - fall)),
    }
    return pd.DataFrame({"key": key, "depth": depth, "seed": 0, "switch": SWITCH} | columns)


def phase(*runs) -> pd.DataFrame:
    table = pd.concat(runs)
    return full_scale.late_phase(table, onsets(table, 1e-9))


def test_medians_are_over_the_second_half_of_the_phase():
    run = phase(history("a", 1, ratio=2, error=0.02, norm=3, fall=0.1)).iloc[0]
    assert run["over_errors"] == pytest.approx(2) and run["error_late"] == 0.02 and run["change"] == pytest.approx(-0.1)
    assert run["norm_late"] == pytest.approx(2.7)  # of 51 records 26 lie in the last quarter
    assert run["nc1_late"] == run["nc1_least"] == pytest.approx(2 * full_scale.error_nc1(0.02))


def test_levels_are_told_with_intervals_and_left_out_where_nothing_is_known():
    found = phase(history("a", 1, ratio=1), history("b", 1, ratio=1.2), history("c", 3, error=0.6), history("d", 5, error=0.0))
    assert full_scale.late_text(found, DEPTH, "over_errors") == "1.10 [0.00, 2.37] at depth 1"
    assert full_scale.late_text(found[found["depth"] > 1], DEPTH, "over_errors") == "n/a"
    rows = {row[0]: row[1:] for row in full_scale.late_rows(found, DEPTH)}
    assert [row[0] for row in rows.values()] == ["2", "1", "1"]
    assert rows["1"][3] == "1.00 [1.00, 1.00]" and rows["3"][3:5] == ["60.00", "n/a"] and rows["5"][4] == "n/a"


def test_a_level_whose_ratio_is_infinite_in_one_run_has_no_mean():
    table = pd.concat([history("a", 1), history("b", 1, error=0.0).assign(nc1_trace_ratio_clean=0.1)])
    found = full_scale.late_phase(table, onsets(table, 1e-9))
    assert found["over_errors"].tolist() == [pytest.approx(1), math.inf]
    assert full_scale.late_text(found, DEPTH, "over_errors") == "n/a"


def test_a_run_whose_features_become_one_point_is_counted_and_averaged_nowhere():
    gone = history("gone", 1, norm=1e-3)
    gone.loc[gone["epoch"] == LAST, "nc1_trace_ratio_clean"] = math.nan
    found = phase(gone, history("there", 1, norm=2))
    (row,) = full_scale.late_rows(found, DEPTH)
    assert row[1] == "2 (1 one point)" and row[6] == "2.000"
    assert full_scale.late_text(found, DEPTH, "norm_late") == "2.00 at depth 1"


def crossing(key, depth, before):
    """A run that errs on the share `before` until, at epoch 60, NC1 falls to nearly nothing; None: it fits and does not fall so far."""
    run = history(key, depth, ratio=1 if before is None else 1e-6, norm=2.0, fall=0.5)
    return run.assign(train_error=np.where(run["epoch"] < 60, before or 0, 0.0))


def test_the_training_error_at_the_onset_stands_beside_it():
    table = pd.concat([crossing("a", 1, 0.3), crossing("b", 1, 0.1), crossing("c", 3, None)])
    found = onsets(table, 1e-4)
    errors = found.set_index("key")["error_at_onset"]
    share = 60 - found["T_NC"][0]  # of the error before is left, between the records at 59 and 60
    assert errors.tolist() == pytest.approx([0.3 * share, 0.1 * share, math.nan], nan_ok=True) and 0 < share < 1
    once, never = full_scale.onset_rows(found, DEPTH)
    assert once[-1] == f"{10 * share:.2f} to {30 * share:.2f}" and never[-1] == "n/a" and never[1] == "0 of 1"
    assert full_scale.collapse_span(found, "fn_star") == "from 2.00 to 2.00, 1.0 times as much"
    assert full_scale.collapse_span(found[found["key"] == "c"], "fn_star") == "n/a"


def test_it_is_counted_who_fell_below_a_norm_while_fitting_and_who_of_these_collapsed():
    erring = history("e", 3, norm=2.0, fall=0.5, error=0.2)
    table = pd.concat([crossing("a", 1, 0.3), crossing("c", 1, None), history("d", 1, norm=2.0), erring])
    found = onsets(table, 1e-4)
    passed, none = (full_scale.passed_text(table, found, {1: norm, 3: norm}, DEPTH) for norm in (1.5, 0.5))
    assert passed == "2 of 3 runs at depth 1 and 0 of 1 run at depth 3; 1 of these 2 collapsed"
    assert none == "0 of 3 runs at depth 1 and 0 of 1 run at depth 3"


def test_a_run_without_a_record_after_the_switch_keeps_its_row():
    gone = history("gone", 1).assign(feature_norm=math.nan)
    found = phase(gone, history("there", 1)).set_index("key")
    assert found.loc["gone", ["nc1_least", "norm_late", "change"]].isna().all() and found.loc["there", "norm_late"] == 1


def test_the_papers_norms_are_drawn_in_the_colours_of_the_levels_that_are_shown():
    table = pd.concat([history("a", 1), history("b", 3)])
    (ax,) = fn_plots.trajectories(table, [fn_plots.NORM], by="depth", reported={1: 0.5, 3: 0.7, 8: 0.9}).axes
    levels = {
        line.get_ydata()[0]: line.get_color() for line in ax.lines if len(set(line.get_xdata())) == 2 and line.get_linestyle() == "-."
    }
    assert levels == {0.5: fn_plots.level_colors([1, 3])[1], 0.7: fn_plots.level_colors([1, 3])[3]}
