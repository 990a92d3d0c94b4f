"""The width explorer: where a network stands on the curve of double descent, how it came there, and the geometry it has learned."""

from collections.abc import Sequence

import pandas as pd
from ipywidgets import VBox

from ncbook import analysis
from ncbook.analysis import CURVE, POINT
from ncbook.data import load
from ncbook.explore.courses import METRICS, NC2, drawn, multiples, network_rows, numbers_table
from ncbook.explore.geometry import geometry, geometry_pictures
from ncbook.explore.widgets import beside, dropdown, explorer, follow, slider
from ncbook.pages import curve_name, listing, number, percent, with_article
from ncbook.store import Run


def width_explorer(runs: Sequence[Run]) -> VBox:
    """Choose a model with its optimiser, and a width: errors and collapse over the widths and over the epochs, cosines and projection.

    runs: those of one experiment, equal but for model, optimiser, width and seed, with their last weights. Lines are means over seeds; the
    geometry is that of the network of the least seed.
    """
    rows = network_rows(runs)
    last = analysis.last_epoch(rows)
    over_widths = analysis.seed_means(last, METRICS)
    over_epochs = analysis.seed_means(rows, METRICS, [*POINT, "epoch"])
    peaks = analysis.peaks(last).set_index(CURVE)["width"].to_dict()
    first = {(*_curve(run), run.spec.model.width): run for run in drawn(runs)}

    def picture(curve: tuple[str, str], width: int) -> str:
        run = first.get((*curve, width))
        if run is None:
            return f"<p>Con W = {width} non c’è nessuna rete {curve_name(*curve)}.</p>"
        title = f"{curve_name(*curve)}, W = {width}"
        along, mine = (means[(means[CURVE] == curve).all(axis=1)] for means in (over_widths, over_epochs))
        mine = mine[mine["width"] == width]
        at = along[along["width"] == width].set_index("metric")
        errors = f"errore di test {number(at['mean']['test_error'])}, di addestramento {number(at['mean']['train_error'])}"
        parameters = int(at["parameters"].iloc[0])
        mark = (parameters, f"W = {width}")
        return (
            f"<p><strong>{title}</strong>, {number(parameters, 0)} parametri: {errors}. {_place(width, peaks.get(curve))}</p>"
            + beside(
                multiples(
                    along, "parameters", "parametri", f"{title}: errori e collasso lungo le larghezze; {errors}.", mark=mark, log=True
                ),
                multiples(mine, "epoch", "epoca", f"{title}: errori e collasso lungo le epoche; alla fine {errors}.", log=True),
            )
            + geometry_pictures(geometry(run), title, run.spec.seed)
            + numbers_table(last[last["key"] == run.spec.key].iloc[0])
        )

    curves = {curve_name(*curve): curve for curve in dict.fromkeys(map(_curve, runs))}
    widths = sorted({run.spec.model.width for run in runs})
    network = dropdown("Rete", curves)
    width = slider("Larghezza W", {str(width): width for width in widths}, str(peaks.get(network.values[0], widths[-1])))
    return explorer([network, width], follow(picture, network, width))


def _curve(run: Run) -> tuple[str, str]:
    return run.spec.model.name, run.spec.optimizer.name


def _place(width: int, peak: int | None) -> str:
    """Where a width stands on its curve."""
    if peak is None:
        return "La curva dell’errore di test non ha un picco interno."
    if width == peak:
        return "È il picco interno della curva dell’errore di test."
    return f"Il picco interno della curva dell’errore di test è a W = {peak}: questa rete sta {'prima' if width < peak else 'oltre'}."


def width_texts(runs: Sequence[Run]) -> dict[str, str]:
    """The sentences of the explorer's page."""
    last = analysis.last_epoch(network_rows(runs))
    peaks = analysis.peaks(last)
    shapes = [shape for run in drawn(runs) if run.spec.model.width > 2 and (shape := geometry(run))]
    classes = load(runs[0].spec.data).classes
    nearest = analysis.seed_means(last, [NC2]).dropna(subset="mean").sort_values("mean")
    named = [
        f"{curve_name(model, optimizer)} a W = {width}" for model, optimizer, width in zip(*(peaks[column] for column in (*CURVE, "width")))
    ]
    ends = [with_article(percent(round(end([shape.share for shape in shapes]), 2))) for end in (min, max)] if shapes else []
    return {
        "peaks": listing(named) or "nessuna curva ne ha uno",
        "etf_cosine": number(-1 / (classes - 1), 2),
        "etf_share": percent(round(2 / (classes - 1), 2)),
        "shares": f"fra {ends[0]} e {ends[1]}" if shapes else "non misurata",
        "nearest": "nessuna, perché NC2 non è misurato" if nearest.empty else _nearest(nearest.iloc[0]),
    }


def _nearest(row: pd.Series) -> str:
    return f"{curve_name(row['model'], row['optimizer'])} e W = {row['width']} (NC2 = {number(row['mean'])})"
