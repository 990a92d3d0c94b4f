"""The figures of the chapters on layers, in the style of `plots`."""

import itertools
import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from ncbook import plots
from ncbook.pages import number
from ncbook.plots import COLORS, MARKERS, STYLE, Panel, name
from ncbook.representations import INPUT, STEPS

_KINDS = {"biased": ("#0072B2", "o", "CKA"), "debiased": ("#D55E00", "s", "CKA senza distorsione")}


def heatmaps(matrices: Mapping[str, np.ndarray], labels: Sequence[str], rows: str, columns: str) -> Figure:
    """Matrices of CKA side by side under their titles, each `[len(labels), len(labels)]`, two a row; rows, columns: what the axes show."""
    with mpl.rc_context(STYLE):
        lines = math.ceil(len(matrices) / 2)
        figure = Figure(figsize=(6.0, 0.4 + 3.1 * lines), layout="constrained")
        grid = figure.subplots(lines, 2, squeeze=False).ravel()
        for ax, (title, values) in zip(grid, matrices.items()):
            heatmap(ax, values, labels, rows, columns)
            ax.set_title(title)
        for ax in grid[len(matrices) :]:
            ax.set_axis_off()
    return figure


def heatmap(ax: Axes, values: np.ndarray, labels: Sequence[str], rows: str, columns: str, beside: np.ndarray | None = None) -> None:
    """A matrix of CKA, each value in its cell, with the one of `beside` below it in brackets."""
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        text = number(value, 2) + ("" if beside is None else f"\n({number(beside[i, j], 2)})")
        ax.text(j, i, text, ha="center", va="center", color="white" if value > 0.6 else "black", fontsize="small")
    ax.set_xticks(range(len(labels)), labels)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_xlabel(columns)
    ax.set_ylabel(rows)
    ax.grid(False)


def pair_strips(table: pd.DataFrame, report: Mapping[str, float], label: str) -> Figure:
    """The CKA of every pair, a column for each layer: small marks; beside them mean and interval; table: from `similarity`, first = second.

    report: layer -> the report's value, drawn hollow and called `label` in the legend.
    """
    layers = list(dict.fromkeys(table["first"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.2), layout="constrained")
        ax = figure.subplots()
        for side, (kind, (color, marker, _)) in enumerate(_KINDS.items()):
            for row in table[table["kind"] == kind].to_dict("records"):
                at = layers.index(row["first"]) + 0.3 * side - 0.35
                ax.plot(at + np.linspace(-0.06, 0.06, len(row["values"])), row["values"], ".", color=color, alpha=0.4)
                ax.plot([at + 0.13] * 2, [row["low"], row["high"]], color=color)
                ax.plot(at + 0.13, row["mean"], marker, color=color)
        ax.plot([layers.index(layer) + 0.25 for layer in report], list(report.values()), "D", mfc="none", mec="0.2", ms=7)
        ax.set_xticks(range(len(layers)), layers)
        ax.set_ylim(min(0, ax.get_ylim()[0]), 1.03)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
        ax.set_ylabel("somiglianza")
        ax.grid(axis="x", visible=False)
        handles = [Line2D([], [], color=color, marker=marker, label=words) for color, marker, words in _KINDS.values()]
        handles.append(Line2D([], [], color="0.2", marker="D", mfc="white", ls="", label=label))
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def over_layers(means: pd.DataFrame, panels: Sequence[Panel]) -> Figure:
    """Metrics over the layers: a row for each panel, a column for each model, a colour for each optimiser, a line style for each width.

    means: from `analysis.seed_means` with layer and width among its columns; a panel draws the one metric of its series,
    on an axis that ends near the means: a band may go beyond it.
    """
    models, optimizers = plots.in_order(means["model"]), plots.in_order(means["optimizer"])
    widths = sorted(means["width"].unique())
    styles = dict(zip(reversed(widths), itertools.cycle(plots.SOLID_FIRST)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 1.7 + 2.1 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), len(models), sharex="col", sharey="row", squeeze=False)
        for row, panel in enumerate(panels):
            (metric,) = panel.series
            drawn = means[means["metric"] == metric]
            log = panel.log and bool((drawn["mean"] > 0).all())
            bottom = drawn["mean"].min() / 1.5 if log else 0
            for ax, model in zip(grid[row], models):
                order = [INPUT, *STEPS[model]]
                for (optimizer, width), curve in drawn[drawn["model"] == model].groupby(["optimizer", "width"]):
                    curve = curve.set_index("layer").reindex(order).assign(place=range(len(order)))
                    style = {"color": COLORS.get(optimizer, "0.3"), "marker": MARKERS.get(optimizer, "D"), "ls": styles[width]}
                    plots.line(ax, curve, "place", bottom, **style)
                ax.set_xticks(range(len(order)), order)
                if row == 0:
                    ax.set_title(name(model), fontweight="bold")
            grid[row][0].set_ylabel(panel.label)
            grid[row][0].set_ylim(bottom, drawn["mean"].max() * (1.5 if log else 1.1))
            plots.y_axis(grid[row][0], log)
        handles = [Line2D([], [], color=COLORS.get(o, "0.3"), marker=MARKERS.get(o, "D"), label=name(o)) for o in optimizers]
        handles += [Line2D([], [], color="0.3", ls=styles[width], label=f"$W$ = {width}") for width in widths]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), handlelength=2.6)
    return figure


def share_rows(means: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """The last layer's share of each network's collapse: a row for each width and optimiser, a column for each model.

    means: from `analysis.seed_means` of `collapse_shares`, last layers only; labels: measure -> its name. Filled, grey and hollow marks.
    """
    models = plots.in_order(means["model"])
    rows = list(means[["width", "optimizer"]].drop_duplicates().sort_values(["width", "optimizer"]).itertuples(index=False, name=None))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 1.8 + 0.55 * len(rows)), layout="constrained")
        grid = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
        for ax, model in zip(grid, models):
            for one in means[means["model"] == model].to_dict("records"):
                position = list(labels).index(one["metric"])
                at = rows.index((one["width"], one["optimizer"])) + 0.22 * (position - (len(labels) - 1) / 2)
                color, marker = COLORS.get(one["optimizer"], "0.3"), MARKERS.get(one["optimizer"], "D")
                ax.plot([one["low"], one["high"]], [at] * 2, color=color)
                ax.plot(one["mean"], at, marker, color=color, mfc=(color, "0.8", "white")[position], ms=7)
            ax.axvline(0.5, color="0.4", lw=1, ls=(0, (4, 2)))
            ax.set_title(name(model), fontweight="bold")
            ax.set_xlabel("quota")
            ax.xaxis.set_major_formatter(FuncFormatter(plots.comma_tick))
        low, high = grid[0].get_xlim()
        grid[0].set_xlim(min(low, -0.03), max(high, 1.03))
        grid[0].set_yticks(range(len(rows)), [f"{name(optimizer)}, {width}" for width, optimizer in rows])
        grid[0].invert_yaxis()
        fills = zip(labels.values(), ("0.3", "0.8", "white"))
        handles = [Line2D([], [], color="0.3", marker="o", mfc=fill, ls="", label=words) for words, fill in fills]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
