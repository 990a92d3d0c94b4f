"""The book's figures, in one style: from the tables of `analysis` to matplotlib figures, with Italian labels.

A figure is at most six inches wide with large type, so that it can be read at the width of a telephone.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib_inline.backend_inline import set_matplotlib_formats

NAMES = {"resnet1d": "ResNet1D", "cnn1d": "CNN1D", "sgd": "SGD", "adam": "Adam"}
"""Display names of models and optimisers."""
COLORS = {"sgd": "#0072B2", "adam": "#D55E00"}
"""Okabe and Ito's blue and vermilion, distinct under every common colour blindness."""
MARKERS = {"sgd": "o", "adam": "s"}
STYLE = {
    "font.size": 12,
    "axes.titlesize": 12,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
FIGURE_WIDTH, PANEL_HEIGHT, FRAME_HEIGHT = 6.0, 2.1, 1.7  # inches
_OTHER = "#009E73"

SOLID_FIRST = ("-", (0, (4, 2)), ":", "-.", (0, (6, 1, 1, 1)))
"""Line styles, in the order in which they are taken."""
CYCLE = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "0.2")
"""Okabe and Ito's colours and a grey, in the order in which they are taken."""


@dataclass(frozen=True)
class Panel:
    """One row of a figure: `series` maps a metric to what distinguishes it in the legend ("" if nothing has to)."""

    label: str
    series: dict[str, str]
    log: bool = False
    """A logarithmic axis, where all means are positive."""
    where: dict[str, object] = field(default_factory=dict)
    """Columns of the table and the values that its rows must have to be drawn here."""


def notebook_figures() -> None:
    """Shows figures in notebooks as SVG, the same bytes for the same data."""
    mpl.rcParams["svg.hashsalt"] = "ncbook"
    set_matplotlib_formats("svg", bbox_inches=None, metadata={"Date": None})


def name(identifier: str) -> str:
    """How a model or an optimiser is called on the page."""
    return NAMES.get(identifier, identifier)


def in_order(identifiers: Iterable[str]) -> list[str]:
    """Each once: the known ones in the order of `NAMES`, then the others."""
    present = set(identifiers)
    return [known for known in NAMES if known in present] + sorted(present - set(NAMES))


def comma_tick(value: float, _: int | None = None) -> str:
    """A number as an Italian axis shows it; for `FuncFormatter`."""
    return f"{value:,g}".translate(str.maketrans(",.-", ".,−"))


def _width_axis(ax: Axes, curve: pd.DataFrame) -> None:
    """A second axis on top that says the width behind each number of parameters."""
    sizes = curve.drop_duplicates("width").sort_values("width")
    if len(sizes) > 6:
        sizes = sizes[sizes["width"].map(lambda width: int(width).bit_count() == 1)]
    top = ax.secondary_xaxis("top")
    top.set_xticks(sizes["parameters"], [str(width) for width in sizes["width"]])
    top.xaxis.set_minor_locator(NullLocator())
    top.set_xlabel("larghezza $W$")


def y_axis(ax: Axes, log: bool, floor: float | None = None) -> None:
    """Ticks with decimal commas. A linear axis stops at 0, below which no metric lies and only a wide band would reach, a logarithmic one
    at `floor`."""
    if log:
        ax.set_yscale("log")
        ax.set_ylim(bottom=floor)
    bottom, top = ax.get_ylim()
    if log:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 300 * bottom else (1,)))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.set_ylim(max(bottom, -0.04 * top), top)
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(comma_tick))


def log_floor(*values: pd.Series) -> float | None:
    """Where a logarithmic axis ends, below all these means and points; None where one is not positive: such an axis has to be linear."""
    drawn = pd.concat(values)
    lowest, highest = drawn.min(), drawn.max()
    return lowest * min(0.9, (lowest / highest) ** 0.06) if lowest > 0 else None


def line(ax: Axes, curve: pd.DataFrame, x: str, floor: float | None, **style) -> None:
    """Means over the column `x` and the band of their intervals, cut at `floor`: on a logarithmic axis one may reach down to 0."""
    curve = curve.sort_values(x).astype({x: float, "low": float, "high": float})
    ax.plot(curve[x], curve["mean"], **style)
    ax.fill_between(curve[x], curve["low"].clip(lower=floor), curve["high"], color=style["color"], alpha=0.18, lw=0)


def _legend(figure: Figure, optimizers: Sequence[str], labels: Sequence[str], report: str | None) -> None:
    handles = [Line2D([], [], color=COLORS.get(o, _OTHER), marker=MARKERS.get(o, "D"), label=name(o)) for o in optimizers]
    if len(labels) > 1:
        handles += [Line2D([], [], color="0.3", ls=style, label=label) for label, style in zip(labels, SOLID_FIRST)]
    if report:
        handles.append(Line2D([], [], color="0.3", marker="o", mfc="white", ls="", label=report))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(handles) > 3 else len(handles), handlelength=2.4)


def over_parameters(means: pd.DataFrame, panels: Sequence[Panel], points: pd.DataFrame | None = None, report: str = "report") -> Figure:
    """Metrics over the number of parameters: a row for each panel, a column for each model, a colour for each optimiser.

    means: from `analysis.seed_means`; lines are means over seeds, bands their 95 % intervals where there is more than one seed.
    points: from `analysis.report_points`; drawn as hollow markers without a line, called `report` in the legend.
    """
    models, optimizers = in_order(means["model"]), in_order(means["optimizer"])
    labels = list(dict.fromkeys(label for panel in panels for label in panel.series.values() if label))
    points = _none_of(means) if points is None else points
    drawn_points = False
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, FRAME_HEIGHT + PANEL_HEIGHT * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), len(models), sharex="col", sharey="row", squeeze=False)
        for row, panel in enumerate(panels):
            ours, theirs = (table[table["metric"].isin(panel.series)] for table in (means, points))
            floor = log_floor(ours["mean"], theirs["value"]) if panel.log else None
            drawn_points |= not theirs.empty
            for column, model in enumerate(models):
                ax = grid[row][column]
                ax.set_xscale("log")
                ax.xaxis.set_minor_locator(NullLocator())
                for (metric, label), optimizer in itertools.product(panel.series.items(), optimizers):
                    here = {"model": model, "metric": metric, "optimizer": optimizer}
                    style = {"color": COLORS.get(optimizer, _OTHER), "marker": MARKERS.get(optimizer, "D")}
                    curve, dots = ours[rows_with(ours, here)], theirs[rows_with(theirs, here)]
                    line(ax, curve, "parameters", floor, ls=SOLID_FIRST[labels.index(label) if label else 0], **style)
                    ax.plot(dots["parameters"], dots["value"], ls="", mfc="none", ms=7, **style)
                if row == 0:
                    ax.set_title(name(model), fontweight="bold")
                    _width_axis(ax, means[means["model"] == model])
                if row == len(panels) - 1:
                    ax.set_xlabel("parametri")
            grid[row][0].set_ylabel(panel.label)
            y_axis(grid[row][0], floor is not None, floor)
        _legend(figure, optimizers, labels, report if drawn_points else None)
    return figure


def curves(
    means: pd.DataFrame,
    panels: Sequence[Panel],
    x: str,
    x_label: str,
    *,
    hue: str | None = None,
    log_x: bool = False,
    mark: tuple[float, str] | None = None,
    points: pd.DataFrame | None = None,
    report: str = "report",
) -> Figure:
    """Metrics over the column `x`: a row for each panel, a colour for each value of the column `hue`, or for each series without one.

    means: from `analysis.seed_means`; lines are means over seeds, bands their 95 % intervals where there is more than one seed.
    mark: a place on the axis of x, drawn as a dashed line, and what it is.
    points: from `analysis.report_points`; drawn as hollow markers without a line, called `report` in the legend.
    """
    labels = list(dict.fromkeys(label for panel in panels for label in panel.series.values()))
    hues = [None] if hue is None else sorted(means[hue].unique())
    points = _none_of(means) if points is None else points
    marker = "o" if means[x].nunique() <= 20 else None
    drawn_points = False
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, FRAME_HEIGHT + PANEL_HEIGHT * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for ax, panel in zip(axes, panels):
            ours, theirs = (table[table["metric"].isin(panel.series) & rows_with(table, panel.where)] for table in (means, points))
            floor = log_floor(ours["mean"], theirs["value"]) if panel.log else None
            drawn_points |= not theirs.empty
            for (metric, label), value in itertools.product(panel.series.items(), hues):
                here = {"metric": metric} | ({} if hue is None else {hue: value})
                color = CYCLE[(labels.index(label) if hue is None else hues.index(value)) % len(CYCLE)]
                line(ax, ours[rows_with(ours, here)], x, floor, color=color, ls=SOLID_FIRST[labels.index(label)], marker=marker)
                dots = theirs[rows_with(theirs, here)]
                ax.plot(dots[x], dots["value"], "o", mfc="none", mec=color if hue or len(labels) > 1 else "0.2", ms=7)
            if mark:
                ax.axvline(mark[0], color="0.4", ls=(0, (4, 2)), lw=1.2)
            ax.set_ylabel(panel.label)
            y_axis(ax, floor is not None, floor)
        if log_x:
            axes[-1].set_xscale("log")
            axes[-1].xaxis.set_minor_formatter(LogFormatter())
        axes[-1].xaxis.set_major_formatter(FuncFormatter(comma_tick))
        axes[-1].set_xlabel(x_label)
        shades = zip(itertools.cycle(CYCLE), hues if hue else [])
        handles = [Line2D([], [], color=color, marker=marker, label=f"$W$ = {value}") for color, value in shades]
        if hue is None or len(labels) > 1:
            colors = ["0.3"] * len(labels) if hue else CYCLE
            handles += [Line2D([], [], color=c, ls=s, label=label) for c, s, label in zip(colors, SOLID_FIRST, labels) if label]
        if mark:
            handles.append(Line2D([], [], color="0.4", ls=(0, (4, 2)), lw=1.2, label=mark[1]))
        if drawn_points:
            handles.append(Line2D([], [], color="0.3", marker="o", mfc="white", ls="", label=report))
        legend_below(figure, handles)
    return figure


def _none_of(means: pd.DataFrame) -> pd.DataFrame:
    """A table of points without one."""
    return means[:0].rename(columns={"mean": "value"})


def legend_below(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend below the panels, in as many columns as fit."""
    columns = 80 // (8 + max((len(handle.get_label()) for handle in handles), default=1))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(columns, len(handles))), handlelength=2.4)


def rows_with(table: pd.DataFrame, values: dict[str, object]) -> pd.Series:
    """Which rows of the table have all these values."""
    return (table[list(values)] == pd.Series(values)).all(axis=1)


def correlation_rows(table: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Correlations with the test error, from `analysis.correlations`: a row for each metric of `labels`, a column for each model.

    Filled markers are Pearson's r with its interval, hollow ones Spearman's.
    """
    models, optimizers = in_order(table["model"]), in_order(table["optimizer"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, FRAME_HEIGHT + 0.42 * len(labels)), layout="constrained")
        grid = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
        for ax, model in zip(grid, models):
            for side, optimizer in enumerate(optimizers):
                color, marker = COLORS.get(optimizer, _OTHER), MARKERS.get(optimizer, "D")
                shift = 0.18 * (2 * side - len(optimizers) + 1)
                for row, metric in enumerate(labels):
                    chosen = (table["model"] == model) & (table["optimizer"] == optimizer) & (table["metric"] == metric)
                    mine = table[chosen].set_index("kind")
                    if mine.empty:
                        continue
                    pearson, spearman = mine.loc["pearson"], mine.loc["spearman"]
                    ax.plot([pearson["low"], pearson["high"]], [row + shift] * 2, color=color)
                    ax.plot(pearson["r"], row + shift, marker, color=color)
                    ax.plot(spearman["r"], row + shift, marker, mfc="white", mec=color, ms=7, zorder=1.5)
            ax.axvline(0, color="0.4", lw=1)
            ax.set_title(name(model), fontweight="bold")
            ax.set_xlim(-1.05, 1.05)
            ax.xaxis.set_major_formatter(FuncFormatter(comma_tick))
            ax.set_xlabel("correlazione")
        grid[0].set_yticks(range(len(labels)), list(labels.values()))
        grid[0].set_ylim(len(labels) - 0.5, -0.5)
        handles = [Line2D([], [], color=COLORS.get(o, _OTHER), marker=MARKERS.get(o, "D"), label=name(o)) for o in optimizers]
        handles += [
            Line2D([], [], color="0.3", marker="o", label="Pearson, intervallo al 95 %"),
            Line2D([], [], color="0.3", marker="o", mfc="white", ls="", label="Spearman"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
