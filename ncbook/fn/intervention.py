"""Scaled features and what becomes of them: labels, table rows and sentences of the chapter on interventions."""

import itertools
from typing import Any

import numpy as np
import pandas as pd

from ncbook.analysis import Estimate, estimate
from ncbook.fn.onset import trajectories
from ncbook.fn.pages import MISSING, column_estimate, counted, listing, number, p_value, percent_with_interval, with_interval
from ncbook.fn.statistics import intervention_effects, relative_effect

UNTOUCHED = "untouched"


def norm_shifts(onsets: pd.DataFrame) -> dict[str, Estimate]:
    """By how much fn* of scaled runs differs, relatively: from that of the untouched ones, and from that under another factor.

    The keys: `features × 0.5 at epoch 80`, `features × 2 v × 0.5 at epoch 80`. A run that collapsed before the scaling does not count, be
    it scaled later or untouched.
    """
    found, both = {}, {}
    for (target, epoch), runs in onsets[onsets["factor"].notna()].groupby(["target", "factor_epoch"]):
        untouched, scaled = (part.loc[~(part["T_NC"] <= float(epoch))] for part in (onsets[onsets["factor"].isna()], runs))
        norms = {factor: own["fn_star"] for factor, own in scaled.groupby("factor")}
        found |= {f"{target} × {factor:g} at epoch {epoch}": relative_effect(own, untouched["fn_star"]) for factor, own in norms.items()}
        for (less, lower), (more, upper) in itertools.combinations(norms.items(), 2):
            both[f"{target} × {more:g} v × {less:g} at epoch {epoch}"] = relative_effect(upper, lower)
    return found | both


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """With the column scaling: `untouched`, or `features × 0.5 at epoch 80`."""
    return table.assign(scaling=[_scaling(row) for row in table[["factor", "factor_epoch", "target"]].to_dict("records")])


def _scaling(row: dict[str, Any]) -> str:
    return UNTOUCHED if pd.isna(row["factor"]) else f"{row['target']} × {row['factor']:g} at epoch {row['factor_epoch']}"


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """The norm of each run over the geometric mean of that of the untouched runs, from the scaling on, while all of these were observed.

    Columns: key, scaling, seed, switch, factor, epoch, ratio; after: epochs from the scaling; least, greatest: the untouched runs' own
    ratios then. A record at the epoch of the scaling is from before it. Norms between records are interpolated, linearly in their
    logarithm. Untouched runs stand there from the first scaling on; without any there is no row.
    """
    runs = list(trajectories(labelled(table)))
    untouched = [path for labels, path in runs if labels["scaling"] == UNTOUCHED and len(path.epochs)]
    first = min((labels["factor_epoch"] for labels, _ in runs if labels["scaling"] != UNTOUCHED), default=0)
    frames = []
    for labels, path in runs if untouched else ():
        since = first if labels["scaling"] == UNTOUCHED else labels["factor_epoch"]
        inside = (path.epochs >= int(since)) & (path.epochs <= min(other.epochs[-1] for other in untouched))
        logs = np.array([np.interp(path.epochs[inside], other.epochs, np.log(other.norm)) for other in untouched])
        shared = {name: labels[name] for name in ("key", "scaling", "seed", "switch", "factor")}
        ratios = {"ratio": np.log(path.norm[inside]), "least": logs.min(0), "greatest": logs.max(0)}
        times = {"epoch": path.epochs[inside], "after": path.epochs[inside] - int(since)}
        frames.append(pd.DataFrame({**shared, **times, **{name: np.exp(log - logs.mean(0)) for name, log in ratios.items()}}))
    columns = ["key", "scaling", "seed", "switch", "factor", "epoch", "after", "ratio", "least", "greatest"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def returns(recovered: pd.DataFrame) -> pd.DataFrame:
    """A row for each scaled run: key, scaling, back, last, inside.

    back: epochs until its norm first lay among those of the untouched runs again, or on their other side; NaN if it never did. last: its
    ratio at the last common record; inside: whether that lies among those of the untouched runs.
    """
    rows = []
    for key, run in recovered[recovered["factor"].notna()].groupby("key", sort=False):
        later = run[run["after"] > 0]
        among = later["after"][later["ratio"] <= later["greatest"] if run["factor"].iloc[0] > 1 else later["ratio"] >= later["least"]]
        least, last, greatest = run[["least", "ratio", "greatest"]].iloc[-1]
        ends = {"last": last, "inside": least <= last <= greatest}
        rows.append({"key": key, "scaling": run["scaling"].iloc[0], "back": among.min(), **ends})
    return pd.DataFrame(rows, columns=["key", "scaling", "back", "last", "inside"])


def first_changes(recovered: pd.DataFrame) -> pd.DataFrame:
    """A row for each scaled run with a record at the epoch of the scaling and a later one: scaling, after, change.

    after: from the scaling to the first later record; change: by what the ratio was multiplied, the factor if training did nothing.
    """
    rows = []
    for _, run in recovered[recovered["factor"].notna()].groupby("key", sort=False):
        before, later = run[run["after"] == 0], run[run["after"] > 0]
        if len(before) and len(later):
            change = later["ratio"].iloc[0] / before["ratio"].iloc[0]
            rows.append({"scaling": run["scaling"].iloc[0], "after": later["after"].iloc[0], "change": change})
    return pd.DataFrame(rows, columns=["scaling", "after", "change"])


def effect_rows(onsets: pd.DataFrame, margin: float) -> list[list[str]]:
    """Rows for a numbered table, one for each scaling: runs, shift of fn* and of T_NC against the untouched runs, tests, verdict."""
    if onsets.loc[onsets["factor"].isna(), "fn_star"].isna().all():
        scaled = labelled(onsets[onsets["factor"].notna()]).groupby("scaling")
        return [[label, f"0 of {len(runs)}", *[MISSING] * 5] for label, runs in scaled]
    moments = intervention_effects(onsets, margin, "since_switch").to_dict("records")
    rows = []
    for norm, moment in zip(intervention_effects(onsets, margin).to_dict("records"), moments):
        used = norm["runs"] - norm["censored"] - norm["too_late"]
        shift = [with_interval(column_estimate(row, "difference"), digits, sign=True) for row, digits in ((norm, 3), (moment, 1))]
        tests = [p_value(norm["p_difference"]), p_value(norm["p_equivalence"]), norm["verdict"]]
        rows.append([_scaling(norm), f"{used} of {norm['runs']}", *shift, *tests])
    return rows


def texts(onsets: pd.DataFrame, recovered: pd.DataFrame, margin: float) -> dict[str, str]:
    """The chapter's sentences, to glue: verdicts, returns, first."""
    return {"verdicts": _verdicts(onsets, margin), "returns": _returns(returns(recovered)), "first": _first(first_changes(recovered))}


def _verdicts(onsets: pd.DataFrame, margin: float) -> str:
    untouched = onsets.loc[onsets["factor"].isna(), "fn_star"]
    if untouched.isna().all():
        return "No untouched run collapsed, so that there is no fn* to return to: nothing can be tested."
    found = intervention_effects(onsets, margin)
    text = f"The untouched runs have fn* {with_interval(estimate(untouched).within(0))}; the margin is {number(found['margin'].iloc[0])}."
    for verdict, scalings in found.groupby("verdict", sort=False):
        text += f" {str(verdict).capitalize()}: {listing(map(_scaling, scalings.to_dict('records')))}."
    between = [f"{case}, {percent_with_interval(shift, sign=True)}" for case, shift in norm_shifts(onsets).items() if " v " in case]
    if between:
        text += f" One scaling against the other, relatively: {'; '.join(between)}."
    if late := int(found["too_late"].sum()):
        text += f" {counted(late, 'run')} had collapsed before the scaling and {'says' if late == 1 else 'say'} nothing about it."
    return text


def _first(changes: pd.DataFrame) -> str:
    if changes.empty:
        return "No run has a record at the epoch of its scaling and a later one."
    parts = []
    for scaling, runs in changes.groupby("scaling", sort=False):
        logs = estimate(np.log(runs["change"]))
        mean = Estimate(*np.exp(logs[:3]), logs.n)
        parts.append(f"{scaling}: × {with_interval(mean, 2)} after {_epochs(runs['after'])}")
    return (
        "From the last record before the scaling to the first one after it the ratio would change by just the factor if training did nothing. "
        f"In the geometric mean over the runs it changes thus: {'; '.join(parts)}."
    )


def _returns(returned: pd.DataFrame) -> str:
    if returned.empty:
        return "There is no untouched run to return to."
    parts = []
    for scaling, runs in returned.groupby("scaling", sort=False):
        known = runs["back"].dropna()
        time = f"after {_epochs(known)}" if len(known) else "in no run"
        missing = f" ({counted(len(runs) - len(known), 'run')} never)" if 0 < len(known) < len(runs) else ""
        parts.append(f"{scaling}: {time}{missing}, the last ratio {_span(runs['last'], 2)}")
    return (
        f"When the norm first lay in the range of the untouched runs, or beyond it: {'; '.join(parts)}. "
        f"At the last common record it lies in that range in {returned['inside'].sum()} of {counted(len(returned), 'scaled run')}."
    )


def _epochs(times: pd.Series) -> str:
    """`1 epoch`, `3 to 5 epochs`."""
    text = _span(times)
    return f"{text} {'epoch' if text == '1' else 'epochs'}"


def _span(values: pd.Series, digits: int = 0) -> str:
    """`3`, or `3 to 5`."""
    ends = dict.fromkeys(number(value, digits) for value in (values.min(), values.max()))
    return " to ".join(ends)
