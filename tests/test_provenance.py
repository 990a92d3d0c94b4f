"""The line below a figure: scale and date, the command that remakes the figure, and its data."""

import io
import math
import re
import shlex
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import ncbook.cli
from ncbook.chapters import CHAPTERS, chapter_specs, command, parameters
from ncbook.plots import Panel
from ncbook.provenance import Provenance, drawn
from ncbook.store import Run

EXP1 = CHAPTERS["exp1"]
DEFAULTS = {name: parameter.default for name, parameter in parameters(EXP1).items()}
TABLE = pd.DataFrame({"metric": ["test_error", "nc1"], "mean": [1 / 3, 2e-9], "n": [2, 1]})


def run(spec, started="2026-11-21T19:58:03+00:00", **provenance):
    provenance = {"hardware": "a <CPU>", "dtype": "float32", "scale": "2 epochs, 4,000 training points", "seconds": 90.0} | provenance
    provenance = {"data": "mnist1d (generated, seed 42)", "started": started, "versions": {"torch": "2.0"}} | provenance
    return Run(spec, provenance, np.array(spec.recorded_epochs), {}, {})


@pytest.fixture
def runs():
    specs = chapter_specs(EXP1, {"widths": [2, 4], "models": ["cnn1d"], "optimizers": ["sgd"], "epochs": 2, "seeds": [0, 3]})
    return [run(spec) for spec in specs[:-1]] + [run(specs[-1], "2026-11-23T01:00:00+00:00")]


def csv(text):
    return pd.read_csv(io.StringIO(unquote(re.search(r'href="data:text/csv;charset=utf-8,([^"]*)"', text)[1])))


def test_the_line_says_scale_seeds_hardware_and_dates(runs):
    page = Provenance("exp1", runs, DEFAULTS, "it")
    assert page.summary(runs) == "4 reti, 2 epoche su 4.000 punti · semi 0, 3 · a <CPU> · 2026-11-21 – 2026-11-23"
    text = page.line("errors", TABLE, runs[:1]).data
    assert "<summary>1 rete, 2 epoche su 4.000 punti · seme 0 · a &lt;CPU&gt; · 2026-11-21</summary>" in text
    english = Provenance("exp1", runs, DEFAULTS, "en").summary(runs[:1])
    assert english == "1 network, 2 epochs on 4,000 points · seed 0 · a <CPU> · 2026-11-21"
    long = run(chapter_specs(EXP1, {"widths": [2], "models": ["cnn1d"], "optimizers": ["sgd"], "epochs": 2000, "seeds": [0]})[0])
    assert page.summary([long]).startswith("1 rete, 2.000 epoche su")


def test_the_line_tells_where_data_came_from(runs):
    copied = [*runs, run(runs[0].spec, data="cifar10 (jpeg q75)")]
    text = Provenance("exp1", copied, DEFAULTS, "en").line("errors", TABLE).data
    assert "precision float32; data: cifar10 (jpeg q75), mnist1d (generated, seed 42); torch 2.0." in text


def test_every_run_is_named_with_what_only_it_has(runs):
    text = Provenance("exp1", runs, DEFAULTS, "en").line("errors", TABLE).data
    common, listed = re.search(r"Common to all: <code>(.*?)</code>.*<pre[^>]*>(.*)</pre>", text, re.DOTALL).groups()
    assert "epochs=2" in common and "model=cnn1d" in common and "None" not in common and "model.width" not in common
    header, *rows = listed.splitlines()
    assert header.split() == ["seed", "model.width"]
    assert [row.split() for row in rows] == [[one.spec.key, str(one.spec.seed), str(one.spec.model.width)] for one in runs]


def test_the_data_are_the_table_with_seven_digits(runs):
    text = Provenance("exp1", runs, DEFAULTS, "it").line("errors", TABLE).data
    assert 'download="errors.csv"' in text and "(CSV, 2 righe)" in text
    assert csv(text).to_dict("list") == {"metric": ["test_error", "nc1"], "mean": [0.3333333, 2e-9], "n": [2, 1]}


def test_a_figure_without_networks_names_no_training():
    text = Provenance("exp1", [], DEFAULTS, "it").line("errors", TABLE).data
    assert "<summary>Nessuna rete addestrata</summary>" in text and "ncbook run exp1" in text and "sweep" not in text and "<pre" not in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "ncbook run exp1"),
        ({"widths": [4, 8], "epochs": 5}, 'ncbook run exp1 -p widths "[4, 8]" -p epochs 5'),
        ({"models": ["cnn1d"], "label_noise": 1e-5}, 'ncbook run exp1 -p models "[cnn1d]" -p label_noise 1.0e-05'),
    ],
)
def test_the_command_names_what_differs_from_the_defaults_and_gives_it_back(runs, monkeypatch, values, expected):
    text = Provenance("exp1", runs, {"other": 1} | DEFAULTS | values, "en").line("errors", TABLE).data
    assert f"<code>{expected}</code>" in text and expected == command("run", EXP1, values)
    seen = []
    monkeypatch.setattr(ncbook.cli, "execute", lambda chapter, given, out: seen.append((chapter, given)))
    CliRunner().invoke(ncbook.cli.main, shlex.split(expected)[1:])
    assert seen == [(EXP1, values)]


def test_drawn_keeps_what_the_panels_show_and_the_points_beside():
    means = pd.DataFrame({"width": [2, 4, 2, 4], "metric": ["a", "a", "b", "c"], "mean": [1.0, 2.0, 3.0, 4.0], "low": math.nan})
    points = pd.DataFrame({"width": [2, 4, 8, 2], "metric": ["a", "a", "a", "z"], "value": [5.0, math.nan, 6.0, 7.0]})
    panels = [Panel("A", {"a": ""}), Panel("B", {"b": "", "c": ""}, where={"width": 4})]
    assert drawn(means, panels)["mean"].tolist() == [1, 2, 4]
    both = drawn(means, panels, points, source="theirs")
    assert both[["source", "mean"]].values.tolist() == [["ncbook", 1], ["ncbook", 2], ["theirs", 5], ["theirs", 6], ["ncbook", 4]]
    assert drawn(means, panels, points, hue="width")["mean"].tolist() == [1, 2, 5, 4]
