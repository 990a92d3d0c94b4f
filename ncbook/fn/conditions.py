"""What training conditions move, the onset or the norm at the onset: labels, table rows and sentences of the chapter on conditions."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ncbook.analysis import Estimate
from ncbook.fn.experiments import BASELINE
from ncbook.fn.onset import groups, where_all_collapse
from ncbook.fn.pages import column_estimate, counted, listing, name, number, percent, percent_with_interval, power, with_interval
from ncbook.fn.statistics import coefficient_of_variation, shifts, spread_over_conditions, variation_over_conditions

FACTORS = ("rule", "batch_size")
"""The columns of `labelled` that say what a condition is."""
_BASE = {"rule": f"{name(BASELINE.optimizer.name)} {power(BASELINE.optimizer.lr)}", "batch_size": BASELINE.batch_size}


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """With the columns rule (`Adam 10⁻³`, optimiser and rate as one) and condition (`Adam 10⁻³ 128`, with the batch size)."""
    rule = [f"{name(optimizer)} {power(lr)}" for optimizer, lr in zip(table["optimizer"], table["lr"])]
    return table.assign(rule=rule, condition=[f"{rule} {size}" for rule, size in zip(rule, table["batch_size"])])


def shift_rows(onsets: pd.DataFrame) -> list[list[str]]:
    """Rows for a numbered table: what changed, and by how much T_NC (counted from the switch) and fn* differ from the baseline's."""
    found = shifts(onsets, _BASE)
    rows = []
    for (factor, level), pair in found.groupby(["factor", "level"], sort=False):
        effects = [percent_with_interval(column_estimate(row, ""), sign=True) for row in pair.to_dict("records")]
        crossed = pair["runs"].iloc[0] - pair["censored"].iloc[0]
        rows.append([_level(factor, level), f"{crossed} of {pair['runs'].iloc[0]}", *effects])
    return rows


def _level(factor: str, level: Any) -> str:
    return f"batches of {level}" if factor == "batch_size" else str(level)


def texts(onsets: pd.DataFrame) -> dict[str, str]:
    """The chapter's sentences, to glue: spread, moved, variation, variation_within, baseline."""
    whole = where_all_collapse(onsets, FACTORS)
    overall = variation_over_conditions(whole, FACTORS)
    within = [coefficient_of_variation(cell["fn_star"]).mean for _, cell in whole.groupby("condition")]
    known = [value for value in within if value == value]
    none = "n/a (under no condition did all of several runs collapse)"
    return {
        "baseline": f"{_BASE['rule']} with batches of {_BASE['batch_size']}",
        "spread": _spread(whole),
        "moved": _moved(onsets),
        "variation": f"{percent_with_interval(overall)} over {counted(overall.n, 'run')}" if overall.n > 1 else none,
        "variation_within": (f"{percent(min(known))} to {percent(max(known))} over {counted(len(known), 'condition')}" if known else none),
    }


def _spread(whole: pd.DataFrame) -> str:
    if (conditions := groups(whole, FACTORS).nunique()) < 2:
        which = "only one condition" if conditions else "no condition"
        return f"Under {which} did every run collapse: there is no spread between conditions."
    found = spread_over_conditions(whole, FACTORS)
    text = (
        f"Between the {found.onset.n} conditions under which every run collapsed the logarithm of the time from switch to onset has the "
        f"standard deviation {with_interval(found.onset)}, that of fn* {with_interval(found.norm)}; "
        + (f"ratio of the variances {with_interval(found.ratio, 2)}." if found.onset.mean else "the former is no more than seeds explain.")
    )
    if found.norm_within != found.norm_within:
        return text + " With one seed a condition, what the seeds themselves scatter is unknown."
    more = "more" if found.norm.mean > found.norm_within else "no more"
    return text + (
        f" Seeds of one condition scatter by {number(found.onset_within)} and {number(found.norm_within)}: in these runs fn* varies {more} "
        "between conditions than between seeds."
    )


def _moved(onsets: pd.DataFrame) -> str:
    if not (found := shifts(onsets, _BASE, ["fn_star"]).to_dict("records")):
        return "Only the baseline was trained: nothing can be compared."
    rows = [(_level(row["factor"], row["level"]), column_estimate(row, "")) for row in found]
    moves = [pair for pair in rows if pair[1].low > 0 or pair[1].high < 0]
    stays = [pair for pair in rows if pair[1].low <= 0 <= pair[1].high]
    points = [pair for pair in rows if pair[1].n and pair[1].low != pair[1].low]
    unknown = [label for label, effect in rows if not effect.n]
    parts = [
        f"differs, by an interval that leaves out 0, with {_effects(moves)}" if moves else "",
        f"is not told apart from it with {_effects(stays)}" if stays else "",
        f"differs, without an interval, with {_effects(points)}" if points else "",
        f"is unknown with {listing(unknown)}, no run of which can be compared" if unknown else "",
    ]
    return f"Against the baseline, fn* {'; '.join(filter(None, parts))}."


def _effects(pairs: Sequence[tuple[str, Estimate]]) -> str:
    return listing(f"{label} ({percent_with_interval(effect, sign=True)})" for label, effect in pairs)
