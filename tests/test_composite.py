"""The composite figure: eleven panels from the runs, each with the report's own values beside."""

import pytest
from test_claims import fake

from ncbook.evidence import Evidence
from ncbook.experiments import exp1_specs, exp2_specs, exp3_specs, exp4_specs
from ncbook.report import composite

METRICS = {"test_error": 0.2, "nc1_trace_ratio_noisy": 0.3, "nc2_gram_noisy": 1.5, "nc3_uncentred_noisy": 2.0, "nc4_noisy": 0.1}


@pytest.fixture(scope="module")
def evidence():
    specs = {
        "exp1": exp1_specs([2, 4], ["resnet1d", "cnn1d"], ["sgd", "adam"], 2, [0, 1], 0.2, 0),
        "exp2": exp2_specs([12, 64], 200, [0], 0.2, 0),
        "exp3": exp3_specs([2, 9], 12, 2, [0], 0.2, 0),
        "exp4": exp4_specs(4, 64, 32, 2, 5, [0], [0, 1, 2], 0.2, 0),
    }
    return {name: Evidence([fake(spec, **METRICS) for spec in those]) for name, those in specs.items()}


def heights(ax) -> set[float]:
    """The levels of the lines without hollow markers, the measured ones."""
    return {round(float(y), 6) for line in ax.lines if line.get_markerfacecolor() != "none" for y in line.get_ydata()}


def test_eleven_panels_show_the_runs_and_the_report(evidence):
    axes = composite.figure(evidence, "report").axes
    titles = [ax.get_title(loc="left") for ax in axes]
    assert [title.split(".")[0] for title in titles[:11]] == [str(number) for number in range(1, 12)] and len(axes) == 12
    for place, metric in zip((0, 1, 2, 3, 4, 5, 6, 7), [*METRICS, "test_error", "nc1_trace_ratio_noisy", "nc2_gram_noisy"]):
        assert METRICS[metric] in heights(axes[place])
        assert any(line.get_markerfacecolor() == "none" and len(line.get_ydata()) for line in axes[place].lines)
    values = composite.cross_width(evidence["exp4"])
    assert [text.get_text() for text in axes[8].texts][0] == f"{values[0, 0]:.2f}\n(0.94)".replace(".", ",")
    drift = composite.drift(evidence["exp4"])
    assert set(drift["epoch"]) == {1, 2, 5} and set(drift[drift["epoch"] == 5]["n"]) == {1} and drift["mean"].max() <= 1 + 1e-9
    assert [bar.get_height() for bar in axes[10].patches] == composite.cross_seed(evidence["exp4"])["mean"].tolist()


def test_a_missing_experiment_leaves_its_panels_empty(evidence):
    axes = composite.figure({"exp3": evidence["exp3"]}, "report").axes
    assert [bool(ax.lines) for ax in axes[:11]] == [False] * 6 + [True] * 2 + [False] * 3


def test_the_scale_is_said(evidence):
    texts = composite.scale_texts(evidence)
    assert "esperimento 1, 16 reti (2 epoche)" in texts["composite_scale"] and "1–3 semi" in texts["composite_seeds"]


def test_the_table_has_what_every_panel_shows(evidence):
    table = composite.shown(evidence)
    assert {*zip(table["panel"], table["source"])} == {(panel, source) for panel in range(1, 12) for source in ("ncbook", "report")}
    ours = table[table["source"] == "ncbook"].groupby("panel")["mean"]
    for panel, metric in enumerate([*METRICS, "test_error", "nc1_trace_ratio_noisy", "nc2_gram_noisy"], 1):
        assert ours.get_group(panel).unique() == pytest.approx([METRICS[metric]])
    assert ours.get_group(9).tolist() == composite.cross_width(evidence["exp4"]).ravel().tolist()
    assert ours.get_group(11).tolist() == composite.cross_seed(evidence["exp4"])["mean"].tolist()
    assert set(composite.shown({"exp3": evidence["exp3"]})["panel"]) == {7, 8}
