"""Explorers of collapse and of CKA: the picture behind each option holds the numbers of its own runs, and the marks lie on the curves."""

import html
import itertools
import re

import numpy as np
import pandas as pd
import pytest
import torch
from test_fn_notebooks import made_up

from ncbook import models
from ncbook.experiments import exp4_specs
from ncbook.explore import cka, collapse
from ncbook.fn.experiments import fn_activation_specs, fn_weight_decay_specs
from ncbook.fn.onset import METRIC, onsets
from ncbook.fn.pages import number as english
from ncbook.metrics import linear_cka
from ncbook.pages import number
from ncbook.representations import drift, representation, similarity
from ncbook.store import PROVENANCE, Run
from ncbook.sweep import table

SETTINGS = {"data": "mnist", "subset": 300, "switch": 10, "epochs": 90}


def rows_of(text: str) -> list[list[str]]:
    """The cells of each row of the tables in an HTML text."""
    rows = [re.findall("<t[hd].*?</t[hd]>", row) for row in re.findall("<tr>.*?</tr>", text)]
    return [[html.unescape(re.sub("<.*?>", " ", cell)).strip(" ") for cell in row] for row in rows]


def shapes(pattern: str, text: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, found)) for found in re.findall(pattern, text)]


# Collapse


@pytest.fixture(scope="module")
def tables():
    """Of the weight decays 0 collapses with one of its two seeds, 1e-4 with both, 0.01 with none."""
    collapsing = {(0.0, 0), (1e-4, 0), (1e-4, 1)}
    decays = fn_weight_decay_specs([0.0, 1e-4, 1e-2], **SETTINGS, seeds=[0, 1])
    runs = [made_up(spec, collapses=(spec.optimizer.weight_decay, spec.seed) in collapsing) for spec in decays]
    activations = [made_up(spec) for spec in fn_activation_specs(["tanh"], **SETTINGS, seeds=[0])]
    return {"fn_weight_decay": table(runs), "fn_activation": table(activations)}


@pytest.fixture(scope="module")
def shown(tables):
    return collapse.selections(tables)


def views(widget):
    """The controls' options, the trajectories and what is read off."""
    controls, picture = widget.children
    course, read_off = picture.children
    runs, threshold = controls.children
    return runs.options, threshold.options, course, read_off


def test_one_can_choose_a_whole_sweep_and_each_of_its_levels(shown, tables):
    assert list(shown) == [
        "Weight decay: all", "Weight decay: 0", "Weight decay: 10⁻⁴", "Weight decay: 0.01", "Activation: Tanh"
    ]  # fmt: skip
    assert shown["Weight decay: all"].table is tables["fn_weight_decay"]
    assert set(shown["Weight decay: 10⁻⁴"].table["weight_decay"]) == {1e-4}
    with pytest.raises(ValueError, match="'exp1'.*fn_weight_decay, fn_depth"):
        collapse.selections({"exp1": tables["fn_activation"]})


def test_behind_each_option_and_threshold_are_the_onsets_of_its_runs(shown):
    runs, thresholds, course, read_off = views(collapse.collapse(shown))
    assert runs == tuple(shown) and [float(text) for text in thresholds] == list(collapse.THRESHOLDS)
    assert thresholds[read_off.children[0].selected_index] == "0.01"
    for (text, one), curves, marks in zip(shown.items(), course.children, read_off.children, strict=True):
        assert f'aria-label="{text}. NC1 and feature norm' in curves.value
        for threshold, picture in zip(collapse.THRESHOLDS, marks.children, strict=True):
            found = onsets(one.table, threshold)
            crossed = found[~found["censored"]]
            assert f'aria-label="{text}, NC1 below {threshold:g}. ' in picture.value
            assert picture.value.count("<circle") == 2 * len(crossed)
            rows = rows_of(picture.value)[1:]
            levels = found.groupby(one.by)
            for (_, cell), row in zip(levels, rows):
                assert row[1] == f"{(~cell['censored']).sum()} of {len(cell)}"
                if cell["censored"].all():
                    assert row[2] == f">\u00a0{cell['last_epoch'].min()}" and row[3:] == ["n/a", "n/a"]
                else:
                    assert row[2].removeprefix("≥\u00a0").split(" ")[0] == english(cell["T_NC"].mean(), 1)
                    assert row[2].startswith("≥") == bool(cell["censored"].any())
                    assert row[4].split(" ")[0] == english(cell["fn_star"].mean())
            assert len(rows) == len(levels) + (one.by == "seed" and len(found) > 1)


def test_marks_lie_on_the_recorded_points_of_the_curves(tables):
    """At a threshold just above a recorded NC1, T_NC is that record's epoch, and the circles surround the vertices of the two curves."""
    nc1 = tables["fn_activation"].set_index("epoch")[METRIC].loc[20]
    widget = collapse.collapse(collapse.selections(tables), [0.5, nc1 * (1 + 1e-9)], 0.5)
    *_, course, read_off = views(widget)
    curves, marks = course.children[-1].value, read_off.children[-1].children[1].value
    vertices = {point for path in re.findall(r' d="(M[^"]*)"', curves) for point in shapes(r"[ML] ?([\d.]+) ([\d.]+)", path)}
    circles = shapes(r'cx="([\d.]+)" cy="([\d.]+)"', marks)
    assert len(circles) == 2
    for circle in circles:
        assert min(np.hypot(x - circle[0], y - circle[1]) for x, y in vertices) < 0.15
    ((_, left, _, right),) = shapes(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" fill="none" stroke="#333"', marks)
    assert left == right == pytest.approx(circles[0][1])


def test_a_run_that_diverges_is_shown_as_far_as_it_goes():
    (spec,) = fn_weight_decay_specs([1e-4], **SETTINGS, seeds=[0])
    alone = {"fn_weight_decay": table([made_up(spec, diverges=True)])}
    _, thresholds, course, read_off = views(collapse.collapse(collapse.selections(alone)))
    pictures = [course.children[0].value, *(picture.value for picture in read_off.children[0].children)]
    assert not [text for text in pictures if re.search(r"\b(nan|inf|None)\b", text)]
    assert "in the only run, until it diverged at epoch 13" in pictures[1 + thresholds.index("0.01")]


def test_what_lies_between_the_thresholds_is_said_of_the_runs_that_cross_both(tables):
    whole = tables["fn_weight_decay"]
    strict, loose = (onsets(whole, threshold).set_index("key") for threshold in (0.01, 0.05))
    both = strict.index[~strict["censored"]]
    later = (strict["T_NC"] - loose["T_NC"]).loc[both]
    text, range_ = collapse.texts(whole)["moved"], f"{english(later.min(), 1)} to {english(later.max(), 1)}"
    assert len(both) == 3
    assert text.startswith(f"Of 6 runs, 3 get below 0.01. From 0.05 to there they take {range_} epochs more")
    none = whole[whole["weight_decay"] == 1e-2]
    assert collapse.texts(none)["moved"] == "No run here gets below 0.01"


# CKA


@pytest.fixture(scope="module")
def networks():
    """As experiment 4 has them, but untrained: a network's weights at two epochs have nothing to do with each other."""
    provenance = dict.fromkeys(PROVENANCE, "made up") | {"parameters": 1}
    runs = []
    for place, spec in enumerate(exp4_specs(2, 4, 3, 5, 5, [0], [0, 1, 2], 0.2, 0)):
        states = {}
        for epoch in spec.snapshots:
            model = models.build(spec.model)
            model.reset([100 * place + epoch])
            states[epoch] = {name: values[0].numpy() for name, values in model.state_dict().items()}
        runs.append(Run(spec, provenance, np.array([spec.epochs]), {}, states))
    return runs


@pytest.fixture(scope="module")
def points():
    return torch.randn(30, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found(networks, points):
    return cka.similarities(networks, points)


@pytest.fixture(scope="module")
def seen(networks, points):
    """(width, seed, epoch) -> representation."""
    return {(run.spec.model.width, run.spec.seed, epoch): representation(run, epoch, points) for run in networks for epoch in run.states}


def heat_maps(picture) -> list[np.ndarray]:
    """The numbers of the two maps, half intervals left out."""
    maps = re.findall("<table.*?</table>", picture.value)
    return [[[cell.split(" ")[0] for cell in row[1:]] for row in rows_of(text)[1:]] for text in maps]


def test_each_pair_of_widths_and_seeds_shows_its_own_similarity(found, seen):
    controls, stack = cka.across_widths(found, [2, 4, 3], 5).children
    widths, seeds = (control.options for control in controls.children)
    assert widths == ("2 e 4", "2 e 3", "4 e 3")
    assert seeds == (cka.ALL, *(f"{a} e {b}" for a in range(3) for b in range(3)))
    for (a, b), pictures in zip(((2, 4), (2, 3), (4, 3)), stack.children, strict=True):
        for (i, j), picture in zip(itertools.product(range(3), repeat=2), pictures.children[1:], strict=True):
            assert f"CKA: W = {a}, seme {i} (righe) e W = {b}, seme {j} (colonne), epoca 5" in picture.value
            for debiased, cells in enumerate(heat_maps(picture)):
                left, right = seen[a, i, 5], seen[b, j, 5]
                expected = [[linear_cka(left[one], right[other], bool(debiased)) for other in cka.LAYERS] for one in cka.LAYERS]
                assert cells == [[number(value, 2) for value in row] for row in expected]


def test_the_mean_of_pairs_is_that_of_the_chapter(found, seen):
    widget = cka.across_seeds(found, 3, [1, 2, 5])
    controls, stack = widget.children
    seeds, _, epoch = controls.children
    assert seeds.options == (cka.ALL, "0 e 1", "0 e 2", "1 e 2") and epoch.options == ("1", "2", "5")
    for at, picture in zip((1, 2, 5), stack.children[0].children, strict=True):
        networks = [seen[3, seed, at] for seed in range(3)]
        expected = similarity(networks, None, [(layer, layer) for layer in cka.LAYERS])
        for kind, cells, text in zip(cka.KINDS, heat_maps(picture), re.findall("<table.*?</table>", picture.value)):
            rows = expected[expected["kind"] == kind]
            assert [cells[i][i] for i in range(4)] == [number(value, 2) for value in rows["mean"]]
            halves = [row[1 + i].split("±")[1].strip() for i, row in enumerate(rows_of(text)[1:])]
            assert halves == [number((high - low) / 2, 2) for low, high in zip(rows["low"], rows["high"])]
            assert all(cells[i][j] == cells[j][i] for i, j in itertools.combinations(range(4), 2))
    resting = "media sulle coppie di 3 semi; intervallo al 95 %, jackknife sui semi (±: metà della sua ampiezza)"
    assert resting in stack.children[0].children[0].value


def test_the_past_of_a_network_is_its_drift(found, seen):
    controls, stack = cka.over_time(found, 3).children
    assert [control.options for control in controls.children] == [("0", "1", "2"), cka.LAYERS]
    for seed, pictures in enumerate(stack.children):
        expected = drift({epoch: seen[3, seed, epoch] for epoch in (1, 2, 5)})
        for layer, picture in zip(cka.LAYERS, pictures.children, strict=True):
            rows = expected[expected["layer"] == layer].set_index(["since", "epoch"])
            for kind, cells in zip(cka.KINDS, heat_maps(picture)):
                assert [len(row) for row in cells] == [1, 2]
                assert [row[0] for row in cells] == [number(rows.loc[("first", epoch), kind], 2) for epoch in (2, 5)]
                assert [row[-1] for row in cells] == [number(rows.loc[("previous", epoch), kind], 2) for epoch in (2, 5)]


def test_a_single_seed_has_no_pairs_and_no_interval(networks, points):
    found = cka.similarities([run for run in networks if run.spec.seed == 1], points)
    alone = cka.across_seeds(found, 3, [1, 2, 5]).children[1]
    assert {picture.value for picture in alone.children[0].children} == {"<p>Fra queste reti non c’è nessuna coppia.</p>"}
    controls, stack = cka.across_widths(found, [2, 4], 5).children
    assert controls.children[1].options == ("1 e 1",) and "±" not in stack.children[0].children[0].value
    assert cka.falling_text(found, []) == "non c’è nessuna coppia"
    with pytest.raises(ValueError, match="keeps its weights"):
        cka.similarities([], points)


def test_the_data_below_the_explorers_are_what_they_show(found):
    chosen = [pair for widths in ((2, 4), (3, 3)) for pair in cka.pairs(found, widths, 5)]
    rows = cka.pair_rows(found, chosen)
    assert len(rows) == 16 * (9 + 3)
    row = rows.sample(1, random_state=0).to_dict("records")[0]
    place = [(row[f"width_{side}"], row[f"seed_{side}"], row[f"epoch_{side}"], row[side]) for side in ("first", "second")]
    assert row["debiased"] == found["debiased"].loc[place[0], place[1]]
    past = cka.past_rows(found, 3)
    assert len(past) == 3 * 4 * 3 and (past["epoch"] > past["earlier"]).all()
    row = past.sample(1, random_state=1).to_dict("records")[0]
    moments = [(3, row["seed"], row[column], row["layer"]) for column in ("epoch", "earlier")]
    assert row["biased"] == found["biased"].loc[moments[0], moments[1]]
    assert pd.api.types.is_integer_dtype(past["earlier"])


def test_falling_similarities_are_counted(found):
    chosen = cka.pairs(found, (2, 4), 5)
    counts = []
    for values in found.values():
        courses = [[values.loc[(*a, layer), (*b, layer)] for layer in ("L0", "L1", "L2")] for a, b in chosen]
        counts.append(sum(first > second > third for first, second, third in courses))
    words = f"la CKA scende a ogni strato in {counts[0]} coppie su 9, quella senza distorsione in {counts[1]}"
    assert cka.falling_text(found, chosen) == words


@pytest.mark.parametrize("value", [0, 0.3, 0.5, 0.62, 0.8, 1])
def test_numbers_stand_out_from_their_cells(value):
    cell = cka._cell(cka.Estimate(value, np.nan, np.nan, 1))
    channels = [[int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)] for text in re.findall("background:#([0-9a-f]{6})", cell)]
    channels.append([1.0] * 3 if "color:#fff" in cell else [0.0] * 3)
    linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in one] for one in channels]
    light = [np.dot(one, (0.2126, 0.7152, 0.0722)) for one in linear]
    assert (max(light) + 0.05) / (min(light) + 0.05) >= 4.5
