"""The geometry of a network's class means: how near their angles are to those of a simplex, and a plane to look at the features in."""

import base64
import functools
import io
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from PIL import Image

from ncbook.data import load
from ncbook.explore.svg import Plot, Scale, dots, path, svg, text
from ncbook.explore.widgets import beside
from ncbook.pages import number, percent, with_article
from ncbook.representations import activations
from ncbook.store import Run

POINTS = 300
"""How many training points a projection shows."""
_COLORS = (("#0072B2", "#fff"), ("#E69F00", "#000"), ("#009E73", "#fff"), ("#D55E00", "#000"), ("#56B4E9", "#000"))
"""Of Okabe and Ito, each with that of the digits on it."""


class Geometry(NamedTuple):
    """Class means of the labels trained on, K classes, and the plane in which they spread most."""

    cosines: np.ndarray
    """`[K, K]`, of the class means minus their mean."""
    centres: np.ndarray
    """`[K, 2]`: the class means in the plane, in units of the root mean square of their lengths in the whole space."""
    points: np.ndarray
    """`[POINTS, 2]`: training points drawn at random, in the same plane and units."""
    labels: np.ndarray
    """`[POINTS]`: the labels trained on."""
    flipped: np.ndarray
    """`[POINTS]`, bool: whose label is not the true one."""
    share: float
    """How much of the class means' spread, in squares, the plane holds."""

    @property
    def simplex(self) -> float:
        """The cosine that a simplex ETF has between any two, −1/(K−1)."""
        return -1 / (len(self.cosines) - 1)

    @property
    def apart(self) -> np.ndarray:
        """`[K (K−1) / 2]`: the cosines of each two classes."""
        return self.cosines[np.triu_indices(len(self.cosines), 1)]

    @property
    def distance(self) -> float:
        """NC2 of the report, ‖C − simplex‖_F, as `metrics.nc2_gram_distance`."""
        return float(np.sqrt(2) * np.linalg.norm(self.apart - self.simplex))


@functools.lru_cache(maxsize=64)
def geometry(run: Run) -> Geometry | None:
    """That of the last weights that the run keeps, on all training points; None where it diverged.

    Raises `ValueError` for a run that keeps no weights.
    """
    if not run.states:
        raise ValueError(f"The run {run.spec.key} keeps no weights (snapshots=()): choose one that keeps its last.")
    data = load(run.spec.data)
    features = activations(run, max(run.states), data.x_train)["features"].double().numpy()
    return arrangement(features, data.y_noisy.numpy(), data.flipped.numpy()) if np.isfinite(features).all() else None


def arrangement(features: np.ndarray, labels: np.ndarray, flipped: np.ndarray) -> Geometry:
    """The geometry of features `[N, d]` with these labels `[N]`, of which some are `flipped` `[N]`.

    The plane is that of the first two principal components of the centred class means, turned so that class 0 lies to the right and
    class 1 not below.
    """
    means = np.stack([features[labels == k].mean(0) for k in range(labels.max() + 1)])
    centre = means.mean(0)
    means -= centre
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        unit = means / lengths
    _, spreads, directions = np.linalg.svd(means, full_matrices=False)
    plane = np.zeros((means.shape[1], 2))
    plane[:, : len(directions[:2])] = directions[:2].T / np.sqrt(np.square(lengths).mean())
    plane = plane @ _turned(means[:2] @ plane)
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:POINTS])
    return Geometry(
        cosines=unit @ unit.T,
        centres=means @ plane,
        points=(features[chosen] - centre) @ plane,
        labels=labels[chosen],
        flipped=flipped[chosen],
        share=float(np.square(spreads[:2]).sum() / np.square(spreads).sum()),
    )


def _turned(first: np.ndarray) -> np.ndarray:
    """The rotation or reflection `[2, 2]` that lays the first of two points `[2, 2]` on the positive x axis, the second not below it."""
    (x, y), second = first
    turn = np.array([[x, -y], [y, x]]) / (np.hypot(x, y) or 1)
    return turn if second @ turn[:, 1] >= 0 else turn * (1, -1)


def geometry_pictures(shape: Geometry | None, title: str, seed: int) -> str:
    """`gram` and `projection` side by side under a line that says what they hold, as HTML."""
    if shape is None:
        return "<p>L’addestramento è divergente: non c’è una geometria da mostrare.</p>"
    words = f"Le medie di classe (etichette rumorose, seme {seed}): {cosines_text(shape)}."
    return f"<p>{words}</p>{beside(gram(shape, title), projection(shape, title))}"


def cosines_text(shape: Geometry) -> str:
    """The cosines in words."""
    least, most = (number(value, 2) for value in (shape.apart.min(), shape.apart.max()))
    return f"coseni fra due classi da {least} a {most}; quello dell’ETF è {number(shape.simplex, 2)}"


def gram(shape: Geometry, title: str) -> str:
    """The cosines as a map, white where they are those of the simplex; below it, on the scale of colours, one line for each two classes."""
    classes = len(shape.cosines)
    side, left, top = 270, 32, 26
    cell = side / classes
    middles = [(index + 0.5) * cell for index in range(classes)]
    bar = Plot(left, 352, side, 14, Scale(-1, 1), Scale(0, 1))
    rug = "".join(f"M{x:.1f} 334v16" for x in bar.place(shape.apart, 0)[0] if np.isfinite(x))
    etf = float(bar.place(shape.simplex, 0)[0])
    ticks = {-1: "−1", -0.5: "−0,5", shape.simplex: f"ETF {number(shape.simplex, 2)}", 0.5: "0,5", 1: "1"}
    parts = [
        text(left + side / 2, 16, "coseni fra le medie centrate", "middle", font_weight="bold"),
        _image(shape.cosines, shape.simplex, left, top, side, side),
        *(text(left - 6, top + middle + 4, str(k), "end") for k, middle in enumerate(middles)),
        *(text(left + middle, top + side + 14, str(k), "middle") for k, middle in enumerate(middles)),
        text(left + side / 2, top + side + 30, "classe", "middle"),
        path(rug, stroke="#333", stroke_opacity="0.7"),
        _image(np.linspace(-1, 1, 81)[None], shape.simplex, left, 352, side, 14),
        path(f"M{etf:.1f} 332v38", stroke="#D55E00", stroke_width="2.4"),
        *(text(float(bar.place(value, 0)[0]), 382, words, "middle") for value, words in ticks.items()),
    ]
    return svg(316, 390, f"{title}: mappa dei coseni fra le medie di classe; {cosines_text(shape)}.", *parts)


def _image(values: np.ndarray, middle: float, left: float, top: float, width: float, height: float) -> str:
    """Cosines as coloured cells, white at `middle`; grey where there is none."""
    colors = matplotlib.colormaps["PuOr_r"].with_extremes(bad="0.7")(TwoSlopeNorm(middle, -1, 1)(np.ma.masked_invalid(values)), bytes=True)
    file = io.BytesIO()
    Image.fromarray(colors[..., :3]).save(file, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    place = f'x="{left}" y="{top}" width="{width}" height="{height}"'
    return f'<image {place} preserveAspectRatio="none" style="image-rendering:pixelated" href="{address}"/>'


def projection(shape: Geometry, title: str) -> str:
    """The points and the class means in their plane: dots in the colour of the label trained on, crosses where it is not the true one."""
    reach = 1.05 * max(np.abs(shape.points).max(), np.abs(shape.centres).max())
    ends = Scale(-reach, reach)
    plot = Plot(38, 26, 270, 270, ends, ends)
    plot.axes("piano delle due componenti principali")
    points, centres = (np.column_stack(plot.place(*place.T)) for place in (shape.points, shape.centres))
    for k in range(len(centres)):
        color, _, cap = _look(k)
        mine = shape.labels == k
        plot.parts.append(path(dots(points[mine & ~shape.flipped]), stroke=color, stroke_width="3.5", stroke_linecap=cap))
        crosses = "".join(f"M{x - 2:.1f} {y - 2:.1f}l4 4m0-4l-4 4" for x, y in points[mine & shape.flipped])
        plot.parts.append(path(crosses, stroke=color, stroke_width="1.3"))
    for k, (x, y) in enumerate(centres):
        color, ink, cap = _look(k)
        plot.parts.append(path(dots(centres[k : k + 1]), stroke="#fff", stroke_width="18", stroke_linecap=cap))
        plot.parts.append(path(dots(centres[k : k + 1]), stroke=color, stroke_width="15", stroke_linecap=cap))
        plot.parts.append(text(x, y + 4, str(k), "middle", fill=ink, font_weight="bold"))
    held = with_article(percent(round(shape.share, 2)))
    words = [
        f"tiene {held} della varianza fra le medie",
        f"numeri: medie di classe; segni: {len(points)} punti;",
        "croci: punti con l’etichetta cambiata",
    ]
    plot.parts += [text(38, 334 + 16 * line, one) for line, one in enumerate(words)]
    alt = f"{title}: {len(points)} punti e le medie di classe in un piano che tiene {held} della varianza fra le medie."
    return svg(316, 390, alt, *plot.parts)


def _look(k: int) -> tuple[str, str, str]:
    """Colour, colour of digits on it, and shape of a class's marks: five colours, round ones first, then square ones."""
    return *_COLORS[k % len(_COLORS)], "round" if k // len(_COLORS) % 2 == 0 else "square"
