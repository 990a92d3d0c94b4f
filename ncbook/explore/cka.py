"""The CKA explorers: any layer with any other, pair of networks by pair, epoch by epoch."""

import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from ipywidgets import Widget
from torch import Tensor

from ncbook.analysis import Estimate, bounds
from ncbook.explore.widgets import beside, dropdown, explorer, follow, slider
from ncbook.pages import number
from ncbook.report.layer_pages import order_text, pairs_text
from ncbook.representations import STEPS, WHOLE, cka_among, pair_estimate, representation
from ncbook.store import Run

LAYERS = (*STEPS["resnet1d"], WHOLE)  # in alphabetical order, as tables have them
KINDS = {"biased": "CKA", "debiased": "CKA senza distorsione"}
ALL = "tutti: media"


class Moment(NamedTuple):
    """A network as it was after an epoch."""

    width: int
    seed: int
    epoch: int


Pair = tuple[Moment, Moment]
Tables = Mapping[str, pd.DataFrame]
"""What `similarities` gives."""


def similarities(runs: Sequence[Run], x: Tensor) -> dict[str, pd.DataFrame]:
    """CKA, of each of `KINDS`, of every layer at every moment with every other, on points x `[N, positions]`.

    runs: of ResNet1D; their moments are the epochs whose weights they keep. Rows and columns of a table: width, seed, epoch, layer.
    Raises `ValueError` where no weights are kept.
    """
    seen = {
        (run.spec.model.width, run.spec.seed, epoch, layer): points
        for run in runs
        for epoch in run.states
        for layer, points in representation(run, epoch, x).items()
    }
    if not seen:
        raise ValueError(f"None of these {len(runs)} runs keeps its weights: train them with snapshots.")
    index = pd.MultiIndex.from_tuples(seen, names=[*Moment._fields, "layer"])
    tables = {kind: pd.DataFrame(cka_among(list(seen.values()), kind == "debiased"), index, index) for kind in KINDS}
    return {kind: table.sort_index().sort_index(axis=1) for kind, table in tables.items()}


def pairs(found: Tables, widths: tuple[int, int], epoch: int) -> list[Pair]:
    """All pairs of networks of these two widths after the epoch; of one width, each two seeds once."""
    moments = [Moment(*names) for names in found["biased"].index.droplevel("layer").unique()]
    first, second = ([moment for moment in moments if (moment.width, moment.epoch) == (width, epoch)] for width in widths)
    return list(itertools.combinations(first, 2) if widths[0] == widths[1] else itertools.product(first, second))


def layers_by_layers(table: pd.DataFrame, chosen: Sequence[Pair], kind: str) -> list[list[Estimate]]:
    """`pair_estimate` over the pairs, of each layer of the first network (a row) with each of the second; a single pair has no interval.

    Which of two networks of one width comes first means nothing: the mean of several such pairs takes each in both orders.
    """
    seeds = sorted({moment.seed for pair in chosen for moment in pair})
    values = np.full((len(LAYERS), len(LAYERS), len(seeds), len(seeds)), np.nan)
    for first, second in chosen:
        block = table.loc[tuple(first), tuple(second)].to_numpy()
        values[:, :, seeds.index(first.seed), seeds.index(second.seed)] = block
        if first.width == second.width and len(chosen) > 1:
            values[:, :, seeds.index(second.seed), seeds.index(first.seed)] = block.T
    return [[pair_estimate(cell).within(*bounds(kind)) for cell in row] for row in values]


def pair_rows(found: Tables, chosen: Iterable[Pair]) -> pd.DataFrame:
    """For the CSV: each pair's moments, and the CKA of each layer of the first with each of the second."""
    rows = []
    for first, second in chosen:
        blocks = [table.loc[tuple(first), tuple(second)].stack(future_stack=True) for table in found.values()]
        values = pd.concat(blocks, axis=1, keys=found).rename_axis(["first", "second"]).reset_index()
        for side, moment in (("first", first), ("second", second)):
            values = values.assign(**{f"{name}_{side}": value for name, value in moment._asdict().items()})
        rows.append(values)
    return pd.concat(rows) if rows else pd.DataFrame()


def past_rows(found: Tables, width: int) -> pd.DataFrame:
    """For the CSV: seed, layer, epoch, an earlier epoch, and the CKA of the layer of that network at these two."""
    rows = []
    for seed in _seeds(found, width):
        for layer in LAYERS:
            both = {kind: _epochs_by_epochs(table, width, seed, layer) for kind, table in found.items()}
            for later, earlier in itertools.combinations(reversed(both["biased"].index), 2):
                where = {"seed": seed, "layer": layer, "epoch": later, "earlier": earlier}
                rows.append(where | {kind: values.loc[later, earlier] for kind, values in both.items()})
    return pd.DataFrame(rows)


def falling_text(found: Tables, chosen: Sequence[Pair]) -> str:
    """In how many of the pairs CKA falls from L0 to L1 to L2, one by one: a clause."""
    counts = []
    for table in found.values():
        courses = [[table.loc[(*first, layer), (*second, layer)] for layer in STEPS["resnet1d"]] for first, second in chosen]
        counts.append(sum(all(later < earlier for earlier, later in itertools.pairwise(course)) for course in courses))
    if not chosen:
        return "non c’è nessuna coppia"
    biased, debiased = counts
    return f"la CKA scende a ogni strato in {biased} coppie su {len(chosen)}, quella senza distorsione in {debiased}"


# Explorers


def across_widths(found: Tables, widths: Sequence[int], epoch: int) -> Widget:
    """For each two of the widths, after the epoch: layers by layers, of each pair of seeds and as the mean over all pairs."""
    compared = dropdown("Larghezze", {f"{a} e {b}": pairs(found, (a, b), epoch) for a, b in itertools.combinations(widths, 2)})
    seeds = dropdown("Semi", _seed_options(compared.values))
    return explorer([compared, seeds], follow(lambda chosen, names: _compared(found, chosen, names), compared, seeds))


def across_seeds(found: Tables, width: int, epochs: Sequence[int]) -> Widget:
    """Of networks of this width with different seeds, after each of the epochs: layers by layers, pair by pair and as the mean."""
    at = slider("Epoca", {_epoch(epoch): pairs(found, (width, width), epoch) for epoch in epochs}, _epoch(epochs[-1]), play=True)
    seeds = dropdown("Semi", _seed_options(at.values))
    return explorer([seeds, at], follow(lambda names, chosen: _compared(found, chosen, names), seeds, at))


def over_time(found: Tables, width: int) -> Widget:
    """Each network of this width and its own past: of one layer, each epoch whose weights it keeps with each earlier one."""
    seeds = dropdown("Seme", {str(seed): seed for seed in _seeds(found, width)})
    layer = slider("Strato", {layer: layer for layer in LAYERS}, LAYERS[2])
    return explorer([seeds, layer], follow(lambda seed, layer: _past(found, width, seed, layer), seeds, layer))


def _seeds(found: Tables, width: int) -> list[int]:
    moments = found["biased"].index
    return sorted(moments[moments.get_level_values("width") == width].unique("seed"))


def _seed_options(several: Iterable[Sequence[Pair]]) -> dict[str, tuple[int, int] | None]:
    """All pairs of seeds that occur; before them, unless there is but one, None for all together."""
    seeds = dict.fromkeys((first.seed, second.seed) for chosen in several for first, second in chosen)
    return ({ALL: None} if len(seeds) != 1 else {}) | {f"{a} e {b}": (a, b) for a, b in seeds}


def _compared(found: Tables, chosen: Sequence[Pair], seeds: tuple[int, int] | None) -> str:
    """Layers by layers, of the pair with these seeds, or as the mean over all pairs."""
    chosen = [pair for pair in chosen if seeds in (None, (pair[0].seed, pair[1].seed))]
    if not chosen:
        return "<p>Fra queste reti non c’è nessuna coppia.</p>"
    single = len(chosen) == 1
    rows, columns = (f"W = {one.width}, seme {one.seed}" if single else f"W = {one.width}" for one in chosen[0])
    cells = {kind: layers_by_layers(table, chosen, kind) for kind, table in found.items()}
    where = f"{rows} (righe) e {columns} (colonne), epoca {_epoch(chosen[0][0].epoch)}"
    maps = [_heat_map(f"{KINDS[kind]}: {where}", "strato", LAYERS, LAYERS, cells[kind]) for kind in KINDS]
    biased, debiased = (order_text([cells[kind][i][i].mean for i in range(len(STEPS["resnet1d"]))]) for kind in KINDS)
    words = f"Da L0 a L2, ogni strato con il suo omologo, la CKA {biased}; quella senza distorsione {debiased}."
    if not single:
        estimates = [cell for row in cells["biased"] for cell in row]
        resting = pairs_text(len({moment.seed for pair in chosen for moment in pair}), estimates)
        words += f" Ogni numero: {resting}{' (±: metà della sua ampiezza)' if math.isfinite(estimates[0].low) else ''}."
    return f"{beside(*maps)}<p>{words}</p>"


def _epochs_by_epochs(table: pd.DataFrame, width: int, seed: int, layer: str) -> pd.DataFrame:
    where = {"level": ["width", "seed", "layer"], "key": (width, seed, layer)}
    return table.xs(**where).xs(**where, axis=1)


def _past(found: Tables, width: int, seed: int, layer: str) -> str:
    """Epochs by earlier epochs."""
    maps, first, last = [], [], []
    for kind, title in KINDS.items():
        table = _epochs_by_epochs(found[kind], width, seed, layer)
        epochs, values = list(table.index), table.to_numpy()
        if len(epochs) == 1:
            return f"<p>Di questa rete c’è una sola fotografia, all’epoca {_epoch(epochs[0])}.</p>"
        cells = [[Estimate(value, math.nan, math.nan, 1) for value in values[i, :i]] for i in range(1, len(epochs))]
        names = [_epoch(epoch) for epoch in epochs]
        caption = f"{title}: {layer}, W = {width}, seme {seed}"
        heat = _heat_map(caption, "epoca", names[1:], names[:-1], cells)
        maps.append(f'<div class="scrolled" role="group" aria-label="{html.escape(caption)}" tabindex="0">{heat}</div>')
        first.append(number(values[-1, 0], 2))
        last.append(number(values[-1, -2], 2))
    words = (
        f"Fra l’epoca {names[0]} e la {names[-1]}: {first[0]}, senza distorsione {first[1]}. "
        f"Fra le ultime due fotografie, alle epoche {names[-2]} e {names[-1]}: {last[0]}, senza distorsione {last[1]}."
    )
    return f"{''.join(maps)}<p>{words}</p>"


def _epoch(epoch: int) -> str:
    return number(epoch, 0)


def _heat_map(caption: str, corner: str, rows: Sequence, columns: Sequence, cells: Sequence[Sequence[Estimate]]) -> str:
    """A table whose cells are as dark as their CKA is high, half an interval below the mean; rows may be shorter than the columns."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = [f'<tr><th scope="row">{row}</th>{"".join(map(_cell, values))}</tr>' for row, values in zip(rows, cells)]
    return (
        f'<table class="heat"><caption>{html.escape(caption)}</caption><thead><tr><th>{corner}</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _cell(value: Estimate) -> str:
    red, green, blue, _ = mpl.colormaps["Blues"](float(np.nan_to_num(np.clip(value.mean, 0, 1))))
    light = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in (red, green, blue)]
    ink = "#fff" if np.dot(light, (0.2126, 0.7152, 0.0722)) < 0.179 else "#000"  # whichever stands out more (WCAG 2.2, contrast ratio)
    half = f"<br><small>±{number((value.high - value.low) / 2, 2)}</small>" if math.isfinite(value.low) else ""
    return f'<td style="background:{mpl.colors.to_hex((red, green, blue))};color:{ink}">{number(value.mean, 2)}{half}</td>'
