"""Which of the settings that the paper leaves open come near its numbers, by how much, and what the near ones disagree on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ncbook.analysis import estimate
from ncbook.fn.experiments import BASELINE
from ncbook.fn.onset import require
from ncbook.fn.pages import MISSING, column_estimate, counted, listing, name, number, percent, percent_with_interval, power, with_interval
from ncbook.fn.paper import Reported
from ncbook.fn.plots import english_axis
from ncbook.fn.statistics import relative_effect
from ncbook.plots import CYCLE, STYLE, legend_below

AXES = ["optimizer", "lr", "width", "batch_size", "reduction", "optimizer_state"]
"""What a setting is: columns of the tidy table."""
NORMS = {"norm_early": "terminal_norm", "fn_star": "fn_star"}
"""Columns of `course.courses` and the paper's values that they are held against."""
FIT = 0.25
"""A setting fits whose norms are this share off the paper's at most, on geometric average."""
_MARKERS = {"mean": "o", "sum": "s"}


def optimizer_name(runs: pd.DataFrame) -> pd.Series:
    """`Adam 10⁻³`, beside the rows of a table."""
    return runs["optimizer"].map(name) + " " + runs["lr"].map(power)


def _size(row: Mapping[str, Any]) -> list[str]:
    """Width and batch size, where they are not the baseline's."""
    width = [f"{row['width']} units"] if row["width"] != BASELINE.model.width else []
    return width + ([f"batches of {row['batch_size']}"] if row["batch_size"] != BASELINE.batch_size else [])


def _setting_name(row: Mapping[str, Any], varied: Sequence[str]) -> str:
    loss = [row[axis] for axis in ("reduction", "optimizer_state") if axis in varied]
    return ", ".join([f"{name(row['optimizer'])} {power(row['lr'])}", *loss, *_size(row)])


def settings(courses: pd.DataFrame, reported: dict[str, Reported]) -> pd.DataFrame:
    """One row a setting, nearest to the paper first.

    Columns: `AXES`, setting (its name), runs, censored, diverged, norm_early, since_switch and fn_star (means over the runs that have
    them; with their intervals as norm_early_mean, _low, _high, _n and so on), distance, and chosen (it is the baseline's). The index is
    the order in `courses`.

    distance: the mean over `NORMS` of |ln(ours / the paper's)|; NaN, and last, where a norm is unknown because no run collapsed. The onset
    is left out of it: an epoch has other numbers of steps where there are fewer images.
    Raises `ValueError` where a column is missing.
    """
    require(courses, [*AXES, *NORMS, "since_switch", "censored", "diverged"])
    varied = [axis for axis in AXES if courses[axis].nunique() > 1]
    base = (
        BASELINE.optimizer.name,
        BASELINE.optimizer.lr,
        BASELINE.model.width,
        BASELINE.batch_size,
        BASELINE.switch.reduction,
        BASELINE.switch.optimizer_state,
    )
    rows = []
    for group, cell in courses.groupby(AXES, sort=False):
        row = dict(zip(AXES, group))
        estimates = {column: estimate(cell[column]).within(0) for column in (*NORMS, "since_switch")}
        means = {column: value.mean for column, value in estimates.items()}
        fields = {f"{column}_{field}": value for column, one in estimates.items() for field, value in one._asdict().items()}
        offs = [abs(math.log(means[ours] / reported[theirs].value)) for ours, theirs in NORMS.items()]
        counts = {"runs": len(cell), "censored": int(cell["censored"].sum()), "diverged": int(cell["diverged"].sum())}
        judged = {"distance": float(np.mean(offs)), "chosen": group == base}
        rows.append({**row, "setting": _setting_name(row, varied), **counts, **means, **fields, **judged})
    return pd.DataFrame(rows).sort_values("distance", kind="stable")


def _off(distance: float) -> str:
    return percent(round(math.expm1(distance), 3)) if math.isfinite(distance) else MISSING


def setting_rows(table: pd.DataFrame) -> list[list[str]]:
    """Rows for a `pages.numbered_table`: setting (the baseline's bold), how many of its runs collapsed, fn at epoch 10, fn* and epochs
    from switch to T_NC over those that did, off by.
    """
    rows = []
    for row in table.to_dict("records"):
        collapsed = f"{row['runs'] - row['censored']} of {row['runs']}" + (f", {row['diverged']} diverged" if row["diverged"] else "")
        label = f"**{row['setting']}**" if row["chosen"] else row["setting"]
        shown = {"norm_early": 1, "fn_star": 3, "since_switch": 0}
        cells = [with_interval(column_estimate(row, column), digits) for column, digits in shown.items()]
        rows.append([label, collapsed, *cells, _off(row["distance"])])
    return rows


def choice_texts(table: pd.DataFrame, courses: pd.DataFrame) -> dict[str, str]:
    """Sentences on a table of `settings`, and on the `courses` that it comes from.

    search: how many collapsed; nearest; choice: where the baseline stands; fitting: which fit, and what these disagree on; by_optimizer:
    fn* under each optimiser and rate, at the baseline's width and batch size.
    """
    known = table[table["distance"].notna()]
    diverged = int((table["diverged"] == table["runs"]).sum())
    some, every = (" with at least one seed", " with every seed") if (table["runs"] > 1).any() else ("", "")
    search = f"Of {counted(len(table), 'setting')}, {len(known) or 'none'} collapsed{some} within the epochs trained"
    texts = {"search": search + (f" and {diverged} diverged{every}." if diverged else ".")}
    texts["nearest"] = (
        f"Nearest to the paper comes {known.iloc[0]['setting']}, {_off(known.iloc[0]['distance'])} off."
        if len(known)
        else "No setting can be ranked, since none has a fn*."
    )
    return texts | {"choice": _choice(table, known, courses), "fitting": _fitting(known), "by_optimizer": _by_optimizer(known)}


def _choice(table: pd.DataFrame, known: pd.DataFrame, courses: pd.DataFrame) -> str:
    chosen = table[table["chosen"]]
    if chosen.empty:
        return "The book's baseline is not among the settings searched here."
    setting = chosen.iloc[0]
    if math.isnan(setting["distance"]):
        return f"The book's baseline, {setting['setting']}, did not collapse here and has no rank."
    rank = known.index.get_loc(setting.name) + 1
    off = _off(setting["distance"])
    place = "the only one that has a rank" if len(known) == 1 else f"number {rank} of the {len(known)} that have a rank"
    told = f"The book's baseline, {setting['setting']}, is {place}, {off} off."
    if rank == 1:
        return told
    base, near = (courses[(courses[AXES] == row[AXES]).all(axis=1)] for row in (setting, known.iloc[0]))
    effects = {label: relative_effect(near[norm], base[norm]) for norm, label in zip(NORMS, ("fn at epoch 10", "fn*"))}
    moves = listing(f"{label} by {percent_with_interval(effect, sign=True)}" for label, effect in effects.items())
    told += f" From it the nearest setting differs in {moves}"
    if moved := [label for label, effect in effects.items() if effect.low > 0 or effect.high < 0]:
        return f"{told}: seeds tell the two apart by {listing(moved)}."
    if not all(math.isfinite(effect.low) for effect in effects.values()):
        return f"{told}: whether seeds tell the two apart is not known."
    return f"{told}: seeds do not tell the two apart, which does not make them equal."


def _fitting(known: pd.DataFrame) -> str:
    fitting = known[known["distance"] <= math.log1p(FIT)]
    if fitting.empty:
        return f"No setting has both norms within {percent(FIT)} of the paper's on average."
    if len(fitting) == 1:
        return f"Only {fitting.iloc[0]['setting']} has both norms within {percent(FIT)} of the paper's on average."
    shown = {
        "since_switch": ("collapse comes {} to {} epochs after the switch", 0),
        "norm_early": ("fn at epoch 10 is {} to {}", 1),
        "fn_star": ("fn* {} to {}", 3),
    }
    spans = [
        label.format(number(fitting[column].min(), digits), number(fitting[column].max(), digits))
        for column, (label, digits) in shown.items()
    ]
    return (
        f"{len(fitting)} settings have both norms within {percent(FIT)} of the paper's on average: {'; '.join(fitting['setting'])}. "
        f"Among them {listing(spans)}."
    )


def _by_optimizer(known: pd.DataFrame) -> str:
    same = known[[not _size(row) for row in known.to_dict("records")]]
    if same.empty:
        return "No setting collapsed, so that nothing can be said of fn* under different optimisers."
    parts = []
    for optimizer, cell in same.assign(by=optimizer_name(same)).groupby("by", sort=False):
        low, high = number(cell["fn_star"].min()), number(cell["fn_star"].max())
        parts.append(f"{optimizer}: {low}" + (f" to {high}" if low != high else ""))
    return f"At the baseline's width and batch size, fn* by optimiser and rate: {'; '.join(parts)}."


def norm_map(table: pd.DataFrame, reported: dict[str, Reported]) -> Figure:
    """Each setting by its fn at epoch 10 and its fn*, with the paper's pair; settings that did not collapse are ticks below the axis.

    Colour: optimiser; marker: reduction of the squared error; hollow: the optimiser starts anew at the switch; words: another width or
    batch size than the baseline's. table: of `settings`.
    """
    optimizers = list(dict.fromkeys(optimizer_name(table.sort_index())))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.6), layout="constrained")
        ax = figure.subplots()
        for label, row in zip(optimizer_name(table), table.to_dict("records")):
            color = CYCLE[optimizers.index(label)]
            if math.isnan(row["fn_star"]):
                ax.plot(row["norm_early"], 0.03, "|", color=color, ms=14, mew=2, transform=ax.get_xaxis_transform())
            else:
                fill = color if row["optimizer_state"] == "kept" else "none"
                ax.plot(row["norm_early"], row["fn_star"], _MARKERS[row["reduction"]], mfc=fill, mec=color, ms=9, mew=1.6, alpha=0.85)
                beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "size": "small"}
                ax.annotate(" ".join(_size(row)), (row["norm_early"], row["fn_star"]), **beside)
        ax.plot(reported["terminal_norm"].value, reported["fn_star"].value, "*", color="0.15", ms=16)
        ax.set_xlabel("fn at epoch 10")
        ax.set_ylabel("fn*")
        english_axis(ax, log=bool(table["fn_star"].notna().any()))
        handles = [Line2D([], [], ls="", marker="D", color=CYCLE[i], label=label) for i, label in enumerate(optimizers)]
        reductions = dict.fromkeys(table["reduction"])
        handles += [Line2D([], [], ls="", marker=_MARKERS[one], color="0.4", label=f"{one} over classes") for one in reductions]
        if (table["optimizer_state"] == "reset").any():
            handles.append(Line2D([], [], ls="", marker="o", mfc="none", mec="0.4", label="optimiser reset"))
        if table["fn_star"].isna().any():
            handles.append(Line2D([], [], ls="", marker="|", mew=2, ms=12, color="0.4", label="no collapse"))
        handles.append(Line2D([], [], ls="", marker="*", color="0.15", ms=13, label="the paper"))
        legend_below(figure, handles)
    return figure
