"""The collapse explorer: NC1 and the feature norm over the epochs, and T_NC and fn* read off at any threshold of NC1."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from ipywidgets import GridBox, Layout, Widget
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ncbook.explore.svg import path, svg, through
from ncbook.explore.widgets import drawing, dropdown, explorer, follow, slider
from ncbook.fn import plots, sweeps
from ncbook.fn.experiments import MARGIN, SHALLOW_THRESHOLD, THRESHOLD
from ncbook.fn.onset import METRIC, onsets
from ncbook.fn.pages import counted, crossed_text, number, onset_rows, percent
from ncbook.fn.sweeps import variation_text

THRESHOLDS = (0.5, 0.3, 0.2, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.007, 0.005)
"""Of NC1; the paper's own, 0.01 and for shallow networks 0.05, are among them."""
FACTORS = {
    "fn_weight_decay": ("Weight decay", sweeps.WEIGHT_DECAY),
    "fn_depth": ("Depth", sweeps.DEPTH),
    "fn_activation": ("Activation", sweeps.ACTIVATION),
    "fn_width": ("Width", sweeps.WIDTH),
}
"""Chapter -> what it varies, as the control calls it and as its tables have it."""
PANELS = (plots.NC1, plots.NORM)
_HEADER = ("Crossed", "T<sub>NC</sub>", "After the switch", "fn*")


@dataclass(frozen=True)
class Shown:
    """Runs that are looked at together."""

    table: pd.DataFrame
    """Of `sweep`."""
    by: str
    """The column of `table` that tells the runs apart: by colours, and by rows of the numbers."""
    heading: str
    label: Callable[[Any], str] = str


def selections(tables: Mapping[str, pd.DataFrame]) -> dict[str, Shown]:
    """What the page lets one choose from: of each chapter all levels together, then each level alone, its seeds side by side.

    tables: chapter -> its table of `sweep`. Raises `ValueError` for a chapter that does not vary one of `FACTORS`.
    """
    if strangers := [name for name in tables if name not in FACTORS]:
        known = ", ".join(FACTORS)
        raise ValueError(f"experiments={list(tables)} has {strangers[0]!r}, which is no sweep of one setting: choose from {known}.")
    shown = {}
    for name, table in tables.items():
        title, factor = FACTORS[name]
        levels = plots.levels_of(table, factor.column)
        if len(levels) > 1:
            shown[f"{title}: all"] = Shown(table, factor.column, title, factor.label)
        for level in levels:
            shown[f"{title}: {factor.label(level)}"] = Shown(table[table[factor.column] == level], "seed", "Seed")
    return shown


def texts(table: pd.DataFrame) -> dict[str, str]:
    """For the page, to glue: strict and loose, the paper's thresholds; margin; moved, what lies between them in runs that cross both."""
    strict, loose = (onsets(table, threshold).set_index("key") for threshold in (THRESHOLD, SHALLOW_THRESHOLD))
    both = strict.index[~strict["censored"]]
    moved = f"No run here gets below {THRESHOLD:g}"
    if len(both):
        later = strict.loc[both, "T_NC"] - loose.loc[both, "T_NC"]
        change = strict.loc[both, "fn_star"] / loose.loc[both, "fn_star"] - 1
        epochs = _range(number(value, 1) for value in (min(later), max(later)))
        share = _range(percent(value, sign=True) for value in (min(change), max(change)))
        moved = (
            f"Of {counted(len(strict), 'run')}, {len(both)} get below {THRESHOLD:g}. "
            f"From {SHALLOW_THRESHOLD:g} to there they take {epochs} epochs more, over which fn* changes by {share}"
        )
    return {"strict": f"{THRESHOLD:g}", "loose": f"{SHALLOW_THRESHOLD:g}", "margin": f"{MARGIN}", "moved": moved}


def _range(ends: Iterable[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """What the explorer shows, for the CSV below it."""
    settings = ["key", *(factor.column for _, factor in FACTORS.values()), "seed", "switch", "epoch"]
    return table[[*settings, *(metric for panel in PANELS for metric in panel.series)]]


@dataclass(frozen=True)
class _Picture:
    """The trajectories of some runs, drawn: what the marks of every threshold are laid on."""

    text: str
    shown: Shown
    figure: Figure
    svg: str

    def place(self, axes: Axes, x: float, y: float) -> tuple[float, float]:
        """Where a value lies in the drawing, in points from its upper left corner."""
        right, up = axes.transData.transform((x, y))
        return right, 72 * self.figure.get_figheight() - up

    @property
    def colors(self) -> dict[Any, str]:
        return {level: to_hex(color) for level, color in plots.level_colors(plots.levels_of(self.shown.table, self.shown.by)).items()}


def collapse(shown: Mapping[str, Shown], thresholds: Sequence[float] = THRESHOLDS, start: float = THRESHOLD) -> Widget:
    """NC1 and the feature norm of the runs chosen, and what `onset.onsets` reads off at the threshold chosen, marked and in a table.

    shown: what can be chosen -> its runs. start: the threshold at first, one of `thresholds`.
    """
    every = pd.concat([one.table for one in shown.values()]).drop_duplicates(["key", "epoch"])
    found = {threshold: onsets(every, threshold) for threshold in thresholds}
    runs = dropdown("Runs", {text: _drawn(text, one, min(thresholds)) for text, one in shown.items()})
    threshold = slider("NC1 below", {f"{level:g}": level for level in thresholds}, f"{start:g}")

    def read_off(picture: _Picture, level: float) -> str:
        here = found[level]
        return _read_off(picture, level, here[here["key"].isin(picture.shown.table["key"])])

    views = [follow(lambda picture: picture.svg, runs), follow(read_off, runs, threshold)]
    for view in views:
        view.layout = Layout(grid_area="1 / 1", width="100%")
    return explorer([runs, threshold], GridBox(views, layout=Layout(grid_template_columns="100%")))


def _drawn(text: str, shown: Shown, lowest: float) -> _Picture:
    """The axis of NC1 goes down to the lowest threshold."""
    label = "seed {}".format if shown.by == "seed" else shown.label
    figure = plots.trajectories(shown.table, PANELS, by=shown.by, label=label)
    figure.set_dpi(72)  # a pixel is a point, as in SVG
    nc1 = figure.axes[0]
    nc1.set_ylim(bottom=min(nc1.get_ylim()[0], 0.8 * lowest))
    ends = [
        f"{label(run[shown.by])}: NC1 {number(run[METRIC])}, fn {number(run['feature_norm'])} at epoch {run['epoch']}"
        for run in shown.table.drop_duplicates("key", keep="last").to_dict("records")
    ]
    return _Picture(text, shown, figure, drawing(figure, f"{text}. NC1 and feature norm over the epochs; last, {'; '.join(ends)}."))


def _read_off(picture: _Picture, threshold: float, found: pd.DataFrame) -> str:
    """What lies on the drawing of the trajectories, the threshold and each run's T_NC on both curves, and below it the numbers."""
    shown = picture.shown
    rows = _rows(found, shown.by, shown.label)
    words = "; ".join(f"{shown.heading} {level}: {crossed} crossed, T_NC {moment}, fn* {norm}" for level, crossed, moment, _, norm in rows)
    marks = _marks(picture, threshold, found, f"{picture.text}, NC1 below {threshold:g}. {words}.")
    if shown.by == "seed" and len(rows) > 1:
        rows += _rows(found.assign(seed="all"), "seed")
    head = "".join(f'<th scope="col">{text}</th>' for text in (shown.heading, *_HEADER))
    body = "".join(f'<tr><th scope="row">{level}</th>' + "".join(f"<td>{text}</td>" for text in texts) + "</tr>" for level, *texts in rows)
    sentences = [crossed_text(found, threshold)]
    if len(found) > 1:
        sentences.append(f"There is {variation_text(found, shown.by)}")
    below = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    return f'{marks}<table class="table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{below}</p>'


def _rows(found: pd.DataFrame, by: str, label: Callable[[Any], str] = str) -> list[list[str]]:
    """`onset_rows`, whose signs stay with their numbers."""
    return [[text.replace("> ", ">\u00a0").replace("≥ ", "≥\u00a0") for text in row] for row in onset_rows(found, by, label)]


def _marks(picture: _Picture, threshold: float, found: pd.DataFrame, alt: str) -> str:
    nc1, norm = picture.figure.axes
    dotted = {"stroke_width": "1.3", "stroke_dasharray": "1.3 3"}
    across = [picture.place(nc1, x, threshold) for x in nc1.get_xlim()]
    parts = [path(through(*zip(*across)), stroke="#333", **dotted)]
    for run in found[~found["censored"]].to_dict("records"):
        color = picture.colors[run[picture.shown.by]]
        ends = [picture.place(nc1, run["T_NC"], threshold), picture.place(norm, run["T_NC"], run["fn_star"])]
        parts.append(path(through(*zip(*ends)), stroke=color, **dotted))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="none" stroke="{color}" stroke-width="2"/>' for x, y in ends]
    return svg(*(72 * picture.figure.get_size_inches()), alt, *parts, ground="none")
