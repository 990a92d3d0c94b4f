"""Two architectures on two data sets: fn* of each cell, the effects of one factor at each level of the other, and whether they add up."""

import math

import pandas as pd

from ncbook.analysis import Estimate
from ncbook.fn import paper
from ncbook.fn.pages import (
    MISSING,
    column_estimate,
    counted,
    listing,
    name,
    number,
    onset_rows,
    p_value,
    percent,
    percent_with_interval,
    with_interval,
)
from ncbook.fn.statistics import interaction, relative_effect

BASE = {"model": "mlp", "data": "mnist"}
"""The cell that effects start from."""


def cell_name(model: str, data: str) -> str:
    return f"{name(model)} on {name(data)}"


def cell_rows(onsets: pd.DataFrame) -> list[list[str]]:
    """Rows for a `pages.numbered_table`: cell, runs that crossed, T_NC, fn*, the paper's fn*."""
    reported = {cell_name(*cell): f"{number(theirs.value)} ({theirs.place})" for cell, theirs in paper.grid().items()}
    named = onsets.assign(cell=list(map(cell_name, onsets["model"], onsets["data"])))
    rows = onset_rows(named, "cell")
    return [[cell, crossed, time, norm, reported.get(cell, "–")] for cell, crossed, time, _, norm in rows]


def effects(onsets: pd.DataFrame) -> dict[str, Estimate]:
    """On each data set: fn* of ResNet-20 over fn* of the MLP, less 1."""
    found = {}
    for data in dict.fromkeys(onsets["data"]):
        here = onsets[onsets["data"] == data]
        found[data] = relative_effect(*(here.loc[here["model"] == model, "fn_star"] for model in ("resnet20", "mlp")))
    return found


def effects_text(onsets: pd.DataFrame) -> str:
    """The architecture's effect on each data set, and the paper's: clauses."""
    parts = []
    for data, effect in effects(onsets).items():
        theirs = paper.GRID_EFFECTS.get(data)
        ours = percent_with_interval(_rounded(effect), sign=True) if effect.n else "unknown, since a cell has no run that collapsed"
        cells = {name(model): runs["censored"] for model, runs in onsets[onsets["data"] == data].groupby("model")}
        if effect.n and any(censored.any() for censored in cells.values()):
            ours += " from " + listing(
                f"{(~censored).sum()} of {counted(len(censored), 'run')} of {model}" for model, censored in cells.items()
            )
        parts.append(f"on {name(data)} {ours}" + (f" (the paper: {percent(theirs.value, sign=True)})" if theirs else ""))
    return "; ".join(parts)


def _rounded(effect: Estimate) -> Estimate:
    return Estimate(*(round(part, 3) for part in effect[:3]), effect.n)


def interaction_rows(onsets: pd.DataFrame) -> list[list[str]]:
    """Rows for a `pages.numbered_table`: scale, fn* of the fourth cell without interaction, as measured, the interaction, its p value."""
    scales = {"linear": "fn\\*: effects add", "log": "log fn\\*: effects multiply"}
    try:
        table = interaction(onsets, BASE)
    except ValueError:
        return [[label, MISSING, MISSING, MISSING, MISSING] for label in scales.values()]
    rows = []
    for row in table.to_dict("records"):
        estimate = column_estimate(row, "")
        cells = [number(row["additive"]), number(row["observed"])]
        rows.append([scales[row["scale"]], *cells, with_interval(estimate, sign=True), p_value(row["p"])])
    return rows


def interaction_text(onsets: pd.DataFrame) -> str:
    """Whether the two factors act independently on fn*: a sentence for each scale, or why it cannot be said."""
    try:
        table = interaction(onsets, BASE)
    except ValueError:
        others = f"{name(BASE['data'])} and one other data set"
        return f"Independence cannot be tested: that takes {others}, and here there is {listing(map(name, onsets['data'].unique()))}."
    cells = onsets.groupby(["model", "data"], sort=False)
    empty = [cell_name(model, data) for (model, data), cell in cells if cell["fn_star"].isna().all()]
    if empty:
        return f"Independence cannot be tested: no run collapsed in {', nor in '.join(empty)}."
    words = {"linear": "If effects added", "log": "If effects multiplied"}
    parts = []
    for row in table.to_dict("records"):
        if math.isnan(row["low"]):
            told = "one run in a cell gives no interval to judge the difference by"
        else:
            verb = "leaves out" if row["low"] > 0 or row["high"] < 0 else "holds"
            told = f"the interaction's interval {verb} 0 ({p_value(row['p'])})"
        without, measured = number(row["additive"]), number(row["observed"])
        parts.append(f"{words[row['scale']]}, the fourth cell would have fn* = {without}; it has {measured}, and {told}.")
    return " ".join(parts)


def arithmetic_text() -> str:
    """What the paper's three relative effects say of one another: two sentences of pure arithmetic."""
    base, cells, resnet = paper.BASELINE["fn_star"].value, paper.grid(), paper.RESNET
    implied, above = cells["mlp", "mnist"].value, base * (1 + resnet["above_baseline"].value)
    on_mnist, on_cifar = (percent(paper.GRID_EFFECTS[data].value, sign=True) for data in ("mnist", "cifar10"))
    inside = resnet["fn_star_low"].value <= above <= resnet["fn_star_high"].value
    return (
        f"ResNet-20's {number(cells['resnet20', 'mnist'].value)} on MNIST, an effect of {on_mnist}, "
        f"implies {number(implied)} for the MLP, {percent(round(implied / base - 1, 3), sign=True)} from the {number(base)} of Figure 1. "
        f"On CIFAR-10, {percent(resnet['above_baseline'].value)} above {number(base)} is {number(above)}, "
        f"{'inside' if inside else 'outside'} the range of {resnet['fn_star_low'].value:g} to {resnet['fn_star_high'].value:g}, and "
        f"{on_cifar} implies an MLP on CIFAR-10 at {number(cells['mlp', 'cifar10'].value)}."
    )
