"""Errors and collapse as small multiples: over the networks of an experiment, and over the epochs of one of them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ncbook.explore.geometry import geometry
from ncbook.explore.svg import Plot, legend, scale, svg, text
from ncbook.pages import number
from ncbook.plots import Panel
from ncbook.store import Run
from ncbook.sweep import table

NOISY, CLEAN, FLOOR = "etichette rumorose", "etichette pulite", "minimo geometrico"
_LINES = {"": ("#333", ""), NOISY: ("#0072B2", ""), CLEAN: ("#D55E00", "7 3.5"), FLOOR: ("#009E73", "1.8 3")}
"""By what a series is called: colour and dashes."""
_MARK = ("#666", "4 2")
NC2 = "nc2_gram_noisy"
PANELS = (
    Panel("errore di test", {"test_error": ""}),
    Panel("errore di addestramento", {"train_error": NOISY, "train_error_clean": CLEAN}),
    Panel("NC1", {"nc1_trace_ratio_noisy": NOISY, "nc1_trace_ratio_clean": CLEAN}, log=True),
    Panel("NC2", {NC2: NOISY, "nc2_gram_clean": CLEAN, "floor": FLOOR}),
    Panel("NC3", {"nc3_uncentred_noisy": NOISY, "nc3_uncentred_clean": CLEAN}),
    Panel("NC4", {"nc4_noisy": NOISY, "nc4_clean": CLEAN}),
)
"""Errors, and collapse in the report's forms."""
METRICS = [metric for panel in PANELS for metric in panel.series if metric != "floor"]
_FORMS = {"report, et. rumorose": "noisy", "consueta, et. rumorose": "noisy", "consueta, et. pulite": "clean"}
_NUMBERS = {
    "NC1": ("{nc1_trace_ratio}", "{nc1}"),
    "NC2": ("{nc2_gram}", "norme {nc2_equinorm}, angoli {nc2_equiangularity}"),
    "NC3": ("{nc3_uncentred}", "{nc3}"),
    "NC4": ("{nc4}", "{nc4}"),
}
"""The report's form of each measure, and the usual one."""


def network_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """The table of `sweep`; without label noise, where both labelings are the same, the measures under both names."""
    rows = table(runs)
    clean = [column for column in rows if column.startswith("nc") and column.endswith("_clean")]
    return rows.assign(**{noisy: rows[column] for column in clean if (noisy := column.replace("_clean", "_noisy")) not in rows})


def drawn(runs: Sequence[Run]) -> list[Run]:
    """The networks whose geometry is shown: of those equal but for the seed, the one of the least."""
    return list({dataclasses.replace(run.spec, seed=0): run for run in sorted(runs, key=lambda run: -run.spec.seed)}.values())


def multiples(means: pd.DataFrame, x: str, x_label: str, alt: str, *, log: bool = False, mark: tuple[float, str] | None = None) -> str:
    """`PANELS` over the column `x` of `analysis.seed_means`, with 95 % bands where there is more than one seed, as HTML.

    mark: a place on the axis of x, and what it is.
    """
    along, drawn, parts = scale(means[x], log), {}, []
    for position, panel in enumerate(PANELS):
        row, column = divmod(position, 2)
        curves = {label: means[means["metric"] == metric].sort_values(x) for metric, label in panel.series.items()}
        curves = {label: curve for label, curve in curves.items() if len(curve)}
        plot = Plot(44 + 216 * column, 20 + 118 * row, 158, 88, along, scale(pd.concat(curves.values())["mean"], panel.log))
        plot.axes(panel.label, labels=row == 2)
        for label, curve in curves.items():
            color, dash = _LINES[label]
            drawn.setdefault(label, (label, color, dash))
            plot.band(curve[x], curve["low"], curve["high"], color)
            plot.line(curve[x], curve["mean"], color, dash)
            if mark:
                here = curve[curve[x] == mark[0]]
                plot.dots(here[x], here["mean"], color, 8)
        if mark:
            plot.upright(mark[0], *_MARK)
        if row == 2:
            parts.append(text(plot.left + plot.width / 2, plot.top + plot.height + 32, x_label, "middle"))
        parts += plot.parts
    entries = [entry for label, entry in drawn.items() if label] + ([(mark[1], *_MARK)] if mark else [])
    return svg(440, 398 + 16 * -(-len(entries) // 2), alt, *parts, legend(44, 404, 432, entries))


def numbers_table(values: Mapping[str, float]) -> str:
    """The measures of collapse of one network as an HTML table: the report's forms, and the usual ones on both labelings."""
    by_labels = {
        labels: {metric.removesuffix(f"_{labels}"): number(value) for metric, value in values.items() if metric.endswith(f"_{labels}")}
        for labels in ("noisy", "clean")
    }
    rows = [
        f'<th scope="row">{name}</th>'
        + "".join(f"<td>{forms[min(1, place)].format(**by_labels[labels])}</td>" for place, labels in enumerate(_FORMS.values()))
        for name, forms in _NUMBERS.items()
    ]
    header = "".join(f'<th scope="col">{words}</th>' for words in ("misura", *_FORMS))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table class="measures"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>'


def shown(runs: Sequence[Run]) -> pd.DataFrame:
    """What an explorer of networks shows: a row for each network and recorded epoch, with its measures.

    In the last row of those that are `drawn` also plane_share, the share of the spread of class means that the projection holds, and
    cosine_I_J of the centred means of classes I and J.
    """
    rows = network_rows(runs)
    measures = [column for column in rows if column.startswith("nc") and column.endswith(("_noisy", "_clean"))]
    names = ["model", "optimizer", "width", "feature_dim", "parameters", "seed", "epoch"]
    rows = rows[["key", *names, "test_error", "train_error", "train_error_clean", *measures]].dropna(axis=1, how="all")
    shapes = []
    for run in drawn(runs):
        if shape := geometry(run):
            pairs = zip(*np.triu_indices(len(shape.cosines), 1))
            cosines = {f"cosine_{i}_{j}": cosine for (i, j), cosine in zip(pairs, shape.apart)}
            shapes.append({"key": run.spec.key, "epoch": run.spec.epochs, "plane_share": shape.share, **cosines})
    return rows.merge(pd.DataFrame(shapes, columns=None if shapes else ["key", "epoch"]), how="left").drop(columns="key")
