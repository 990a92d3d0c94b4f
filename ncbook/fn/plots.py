"""The figures that chapters of part two share, in the style of `ncbook.plots`, with English labels.

Runs end at different epochs, so that trajectories are drawn run by run, never as a mean whose members change along the way; a median
is drawn only as long as all its runs last.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from ncbook.analysis import estimate
from ncbook.fn.onset import METRIC
from ncbook.plots import CYCLE, FIGURE_WIDTH, FRAME_HEIGHT, PANEL_HEIGHT, SOLID_FIRST, STYLE, Panel, legend_below, rows_with, y_axis

NORM = Panel("feature norm fn", {"feature_norm": ""}, log=True)
NC1 = Panel("NC1", {METRIC: ""}, log=True)
"""The two panels that nearly every chapter has."""
MEASURES = {"T_NC": "$T_{NC}$ (epoch)", "since_switch": "epochs from switch to $T_{NC}$", "fn_star": "fn*"}
"""Columns of `onset.onsets`, as axes call them."""
_MARKERS = "osD^vP*"
_SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "0.2")
_MARK = {"color": "0.4", "lw": 1.2}
_SWITCH, _THRESHOLD, _PAPER = (0, (4, 2)), ":", "-."
_FEW = 6  # lines of one colour that the eye can follow
_LINE, _FAINT, _MEDIAN = {"lw": 1.3, "alpha": 0.85}, {"lw": 0.6, "alpha": 0.35}, {"lw": 2.4}


def point_tick(value: float, _: int | None = None) -> str:
    """A number as an English axis shows it; for `FuncFormatter`."""
    if 0 < value < 1e-3 and math.isclose(value, 10.0 ** (power := round(math.log10(value)))):
        return f"$10^{{{power}}}$"
    return f"{value:,g}".replace("-", "−")


def english_axis(ax: Axes, log: bool) -> None:
    """`plots.y_axis` with decimal points."""
    y_axis(ax, log)
    ax.yaxis.set_major_formatter(FuncFormatter(point_tick))


def levels_of(table: pd.DataFrame, column: str | None) -> list[Any]:
    """The values of a column, sorted where they are numbers, else in the table's order; one None without a column."""
    if column is None:
        return [None]
    values = list(table[column].dropna().unique())
    return sorted(values) if pd.api.types.is_numeric_dtype(table[column]) else values


def level_colors(levels: Sequence[Any]) -> dict[Any, Any]:
    """A colour for each level: more numbers than the cycle tells apart run from dark to light in their order, and stay visible on white
    and, inverted by the style sheet, on black."""
    if len(levels) > len(CYCLE):
        return dict(zip(levels, mpl.colormaps["plasma"](np.linspace(0, 0.75, len(levels)))))
    return dict(zip(levels, CYCLE))


def level_lines(levels: Sequence[Any]) -> dict[Any, Any]:
    """A line style for each level: neighbours differ where their colours are alike."""
    return dict(zip(levels, itertools.cycle(SOLID_FIRST[:3] if len(levels) > len(CYCLE) else SOLID_FIRST[:1])))


def trajectories(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    *,
    onsets: pd.DataFrame | None = None,
    threshold: float | None = None,
    by: str | None = None,
    label: Callable[[Any], str] = str,
    since_switch: bool = False,
    reported: float | Mapping[Any, float] | None = None,
) -> Figure:
    """Each run's metrics over its epochs: a row for each panel, a line for each run, a colour for each value of the column `by`, or
    for each series of a panel without one. Where a value has many runs, lines are faint and a thick one is the median of its runs.

    table: of `sweep`; its switches are dashed vertical lines. onsets: of `onset.onsets` at `threshold`; marks each run's T_NC where the
    panel shows NC1 or the feature norm. threshold: a dotted line across NC1. since_switch: epochs count from the switch, those before it
    are left out. reported: the paper's fn*, a line across the feature norm; or value of `by` -> fn*, a line in its colour for each.
    """
    start = table["switch"].fillna(0).astype(int)
    table = table.assign(x=table["epoch"] - start)[table["epoch"] > start] if since_switch else table.assign(x=table["epoch"])
    levels = levels_of(table, by)
    colors, lines = level_colors(levels) if by else {None: CYCLE[1]}, level_lines(levels)
    switches = [] if since_switch else sorted(set(table["switch"].dropna()))
    crowded = table.groupby(by)["key"].nunique().max() > _FEW if by else table["key"].nunique() > _FEW
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, FRAME_HEIGHT + PANEL_HEIGHT * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for ax, panel in zip(axes, panels):
            several = len(panel.series) > 1
            styles = {metric: (SOLID_FIRST[i], _SERIES[i] if several and not by else None) for i, metric in enumerate(panel.series)}
            for level in levels:
                here = table[rows_with(table, panel.where | ({by: level} if by else {}))]
                for metric, (style, color) in styles.items():
                    look = {"color": color or colors[level], "ls": style if several else lines[level]}
                    for _, run in here.groupby("key", sort=False):
                        ax.plot(run["x"], run[metric], **look, **(_FAINT if crowded else _LINE))
                    if crowded:
                        ax.plot(here.pivot(index="x", columns="key", values=metric).dropna().median(axis=1), **look, **_MEDIAN)
            if onsets is not None:
                _mark_onsets(ax, panel, onsets, threshold, since_switch, {key: colors[level] for key, level in _keys(table, by)})
            for switch in switches:
                ax.axvline(switch, ls=_SWITCH, **_MARK)
            if threshold and METRIC in panel.series:
                ax.axhline(threshold, ls=_THRESHOLD, **_MARK)
            if reported and "feature_norm" in panel.series:
                for level, value in reported.items() if isinstance(reported, Mapping) else [(None, reported)]:
                    if level is None or level in colors:
                        ax.axhline(value, ls=_PAPER, **_MARK | ({} if level is None else {"color": colors[level]}))
            if several:
                texts = zip(styles.values(), panel.series.values())
                ax.legend(handles=[Line2D([], [], color=color or "0.3", ls=style, label=text) for (style, color), text in texts])
            ax.set_ylabel(panel.label)
            english_axis(ax, panel.log and bool((table[list(panel.series)].min() > 0).all()))
        axes[-1].set_xlabel("epochs after the switch" if since_switch else "epoch")
        shown = {metric for panel in panels for metric in panel.series}
        handles = [Line2D([], [], color=colors[level], ls=lines[level], label=label(level)) for level in levels if by]
        if crowded:
            handles.append(Line2D([], [], color="0.3", label="median while all runs last", **_MEDIAN))
        if switches:
            handles.append(Line2D([], [], ls=_SWITCH, label="change of loss", **_MARK))
        if threshold and METRIC in shown:
            handles.append(Line2D([], [], ls=_THRESHOLD, label=f"NC1 = {threshold:g}", **_MARK))
        if reported and "feature_norm" in shown:
            handles.append(Line2D([], [], ls=_PAPER, label="the paper's fn*", **_MARK))
        if onsets is not None and not onsets["censored"].all() and shown & {METRIC, "feature_norm"}:
            handles.append(Line2D([], [], ls="", marker="o", mfc="none", mec="0.2", ms=8, label="$T_{NC}$"))
        legend_below(figure, handles)
    return figure


def _keys(table: pd.DataFrame, by: str | None) -> list[tuple[str, Any]]:
    """Each run's key with its value of `by`."""
    runs = table.drop_duplicates("key")
    return list(zip(runs["key"], runs[by] if by else [None] * len(runs)))


def _mark_onsets(
    ax: Axes, panel: Panel, onsets: pd.DataFrame, threshold: float | None, since_switch: bool, colors: Mapping[str, str]
) -> None:
    """A circle at each run's T_NC, for the runs that `colors` knows by their key."""
    for run in onsets[onsets["key"].isin(colors) & ~onsets["censored"]].to_dict("records"):
        x = run["since_switch" if since_switch else "T_NC"]
        for metric, y in ((METRIC, threshold), ("feature_norm", run["fn_star"])):
            if metric in panel.series and y:
                ax.plot(x, y, "o", mfc="none", mec=colors[run["key"]], ms=8, mew=1.6)


def onset_over(
    onsets: pd.DataFrame,
    by: str,
    x_label: str,
    *,
    values: Sequence[str] = ("since_switch", "fn_star"),
    label: Callable[[Any], str] = str,
    hue: str | None = None,
    hue_label: Callable[[Any], str] = str,
    connected: bool = True,
    log: bool = False,
    reported: Mapping[str, Mapping[Any, float]] | None = None,
    band: tuple[float, float, float] | None = None,
) -> Figure:
    """T_NC and fn* over the levels of the column `by`, evenly spaced: a row for each of `values`, a colour for each value of `hue`.

    onsets: of `onset.onsets`. Small dots are runs, large ones means over the runs that crossed, bars their 95 % intervals; hollow triangles
    stand where a run that did not cross was last observed. reported: value -> level (with `hue`: a pair of level and hue) -> the paper's,
    drawn hollow. band: value and interval that the paper gives for fn* at large. connected: lines between the means; not for levels
    without an order.
    """
    levels, hues = levels_of(onsets, by), levels_of(onsets, hue)
    rows = onsets.assign(at=onsets[by].map({level: place for place, level in enumerate(levels)}).astype(float))
    handles, paper = [], False
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, FRAME_HEIGHT + 1.2 * PANEL_HEIGHT * len(values)), layout="constrained")
        axes = figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
        for ax, value in zip(axes, values):
            if band and value == "fn_star":
                ax.axhspan(band[1], band[2], color="0.5", alpha=0.2, lw=0)
                ax.axhline(band[0], ls=_PAPER, **_MARK)
            for i, shade in enumerate(hues):
                color, shift = CYCLE[(i + 1) % len(CYCLE)], 0.14 * (i - (len(hues) - 1) / 2)
                _means(ax, rows if hue is None else rows[rows[hue] == shade], value, color, _MARKERS[i % len(_MARKERS)], shift, connected)
                for place, level in enumerate(levels):
                    theirs = (reported or {}).get(value, {}).get(level if hue is None else (level, shade))
                    if theirs is not None:
                        paper = True
                        ax.plot(place + shift + 0.1, theirs, _MARKERS[i % len(_MARKERS)], mfc="none", mec=color if hue else "0.2", ms=9)
            ax.set_ylabel(MEASURES[value])
            ax.set_xlim(-0.5, len(levels) - 0.5)
            ax.grid(axis="x", visible=False)
            drawn = rows[value].notna().any() or value in (reported or {})
            english_axis(ax, log and bool((rows[value].dropna() > 0).all()) and drawn)
            if drawn:  # a wide interval does not press all else flat
                ax.set_ylim(top=min(ax.get_ylim()[1], 1.5 * max(np.nanmax(line.get_ydata(), initial=0) for line in ax.lines)))
            if rows[value].isna().all() and value == "fn_star":
                ax.text(0.5, 0.5, "no run crossed", transform=ax.transAxes, ha="center", va="center", color="0.35")
        axes[-1].set_xticks(range(len(levels)), [label(level) for level in levels])
        axes[-1].set_xlabel(x_label)
        if hue:
            handles += [
                Line2D([], [], color=CYCLE[(i + 1) % len(CYCLE)], marker=_MARKERS[i % len(_MARKERS)], label=hue_label(shade))
                for i, shade in enumerate(hues)
            ]
        if onsets["censored"].any() and {"T_NC", "since_switch"} & {*values}:
            handles.append(Line2D([], [], ls="", marker="^", mfc="none", mec="0.3", ms=8, label="not collapsed until here"))
        if paper:
            handles.append(Line2D([], [], ls="", marker="o", mfc="none", mec="0.2", ms=9, label="the paper (hollow)"))
        if band and "fn_star" in values:
            handles.append(Line2D([], [], ls=_PAPER, label="the paper's mean and interval", **_MARK))
        legend_below(figure, handles)
    return figure


def _means(ax: Axes, rows: pd.DataFrame, value: str, color: str, marker: str, shift: float, connected: bool) -> None:
    """One colour of `onset_over`: runs, means with their intervals, and runs that did not cross."""
    rng = np.random.default_rng(0)
    crossed, censored = rows[~rows["censored"]], rows[rows["censored"]]
    jitter = rng.uniform(-0.04, 0.04, len(crossed))
    ax.plot(crossed["at"] + shift + jitter, crossed[value], ".", color=color, ms=5, alpha=0.6)
    means = [(at + shift, estimate(cell[value]).within(0)) for at, cell in crossed.groupby("at")]
    ax.plot([at for at, _ in means], [mean.mean for _, mean in means], marker, color=color, ms=7, ls="-" if connected else "")
    for at, mean in means:
        ax.vlines(at, mean.low, mean.high, color=color, lw=1.8)
    if value != "fn_star" and len(censored):
        observed = censored["last_epoch"] - (censored["switch"].fillna(0).astype(int) if value == "since_switch" else 0)
        ax.plot(censored["at"] + shift, observed.astype(float), "^", mfc="none", mec=color, ms=8)


def shown(table: pd.DataFrame, panels: Sequence[Panel], by: str | None = None) -> pd.DataFrame:
    """What `trajectories` shows, for the CSV below the figure: key, `by`, seed, epoch and the panels' metrics."""
    metrics = list(dict.fromkeys(metric for panel in panels for metric in panel.series))
    return table[list(dict.fromkeys(["key", *([by] if by else []), "seed", "epoch", *metrics]))]


def shown_onsets(onsets: pd.DataFrame, *by: str) -> pd.DataFrame:
    """What `onset_over` shows, for the CSV below the figure."""
    return onsets[[*dict.fromkeys([*by, "seed"]), "T_NC", "since_switch", "fn_star", "censored", "last_epoch"]]
