"""The explorer of feature dimensions: how class means arrange themselves where a simplex fits, and where it does not."""

from collections.abc import Sequence

import pandas as pd
from ipywidgets import VBox

from ncbook import analysis
from ncbook.data import load
from ncbook.explore.courses import METRICS, NC2, drawn, multiples, network_rows, numbers_table
from ncbook.explore.geometry import geometry, geometry_pictures
from ncbook.explore.widgets import beside, explorer, follow, slider
from ncbook.metrics import gram_floor
from ncbook.pages import listing, number, percent, with_article
from ncbook.store import Run

_BY = ["feature_dim"]


def dimension_explorer(runs: Sequence[Run]) -> VBox:
    """Choose a feature dimension: cosines and projection, errors and collapse over the dimensions and the epochs, the least possible NC2.

    runs: those of one experiment, equal but for feature dimension and seed, with their last weights. Lines are means over seeds; the
    geometry is that of the network of the least seed.
    """
    rows = network_rows(runs)
    last = analysis.last_epoch(rows)
    classes = load(runs[0].spec.data).classes
    over_dims = _with_floor(analysis.seed_means(last, METRICS, _BY), classes)
    over_epochs = _with_floor(analysis.seed_means(rows, METRICS, [*_BY, "epoch"]), classes)
    first = {run.spec.model.feature_dim: run for run in drawn(runs)}

    def picture(dim: int) -> str:
        run = first[dim]
        title = f"d = {dim}"
        at = over_dims[over_dims["feature_dim"] == dim].set_index("metric")["mean"]
        return (
            f"<p><strong>{title}</strong>: {_possible(dim, classes)} {_reached(at[NC2], at['floor'])}</p>"
            + geometry_pictures(geometry(run), title, run.spec.seed)
            + beside(
                multiples(over_dims, "feature_dim", "dimensione d", f"{title}: errori e collasso lungo le dimensioni.", mark=(dim, title)),
                multiples(
                    over_epochs[over_epochs["feature_dim"] == dim],
                    "epoch",
                    "epoca",
                    f"{title}: errori e collasso lungo le epoche.",
                    log=True,
                ),
            )
            + numbers_table(last[last["key"] == run.spec.key].iloc[0])
        )

    dims = sorted(first)
    start = min((dim for dim in dims if dim >= classes - 1), default=dims[-1])
    dimension = slider("Dimensione d", {str(dim): dim for dim in dims}, str(start), play=True)
    return explorer([dimension], follow(picture, dimension))


def _with_floor(means: pd.DataFrame, classes: int) -> pd.DataFrame:
    """The means, and the least NC2 that each dimension allows as one more metric, without interval."""
    floors = means[means["metric"] == NC2].copy()
    floors["mean"] = [gram_floor(classes, dim) for dim in floors["feature_dim"]]
    return pd.concat([means, floors.assign(metric="floor", low=float("nan"), high=float("nan"))], ignore_index=True)


def _possible(dim: int, classes: int) -> str:
    if dim < classes - 1:
        return f"un ETF di {classes} classi non è possibile, ci vuole d ≥ {classes - 1}."
    return f"un ETF di {classes} classi è possibile, poiché d ≥ {classes - 1}."


def _reached(nc2: float, floor: float) -> str:
    """How near NC2 has come to its least value."""
    if not floor:
        return f"NC2 (del report, etichette rumorose) è {number(nc2)} e può scendere fino a zero."
    share = with_article(percent(round(floor / nc2, 2)))
    return f"NC2 (del report, etichette rumorose) è {number(nc2)}; il minimo geometrico, {number(floor)}, ne è {share}."


def dimension_texts(runs: Sequence[Run]) -> dict[str, str]:
    """The sentences of the explorer's page."""
    classes = load(runs[0].spec.data).classes
    last = analysis.last_epoch(network_rows(runs))
    means = analysis.seed_means(last, [NC2], _BY).dropna(subset="mean").sort_values("mean")
    dims = sorted(set(last["feature_dim"]))
    return {
        "classes": str(classes),
        "threshold": str(classes - 1),
        "etf_cosine": number(-1 / (classes - 1), 2),
        "etf_share": percent(round(2 / (classes - 1), 2)),
        "possible": listing(f"d = {dim}" for dim in dims if dim >= classes - 1) or "nessuna",
        "nearest": f"{number(means['mean'].iloc[0])} a d = {means['feature_dim'].iloc[0]}" if len(means) else "non misurato",
    }
