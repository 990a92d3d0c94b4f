"""Small drawings written straight as SVG, in the style of `ncbook.plots`: an explorer has hundreds, each small and quickly made.

Sizes are in points of the drawing, which is shown as wide as the page lets it be. Data coordinates become points through a `Plot`.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from ncbook.plots import comma_tick

FONT = "DejaVu Sans,Verdana,sans-serif"
"""matplotlib's own font, or one as wide."""
_GRID, _INK, _TICK = "#e0e0e0", "#000", 4


def svg(width: float, height: float, alt: str, *parts: str, ground: str = "#fff") -> str:
    """A drawing as HTML, at most `width` wide; alt: what it shows in words, main numbers included; ground: its colour, or none."""
    style = f"width:{width:g}pt;max-width:100%;height:auto;font:11px {FONT};stroke-linejoin:round"
    ground = f'<rect width="{width:g}" height="{height:g}" fill="{ground}"/>'
    return (
        f'<svg class="drawing" role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width:g} {height:g}" style="{style}">'
        f"{ground}{''.join(parts)}</svg>"
    )


def text(x: float, y: float, words: str, anchor: str = "start", **attributes: str) -> str:
    """Words whose baseline is at y; anchor: start, middle or end."""
    return f'<text x="{_short(x)}" y="{_short(y)}" text-anchor="{anchor}"{_attributes(attributes)}>{html.escape(words)}</text>'


def path(d: str, **attributes: str) -> str:
    """A path that is not filled unless told."""
    return f'<path d="{d}"{_attributes({"fill": "none"} | attributes)}/>' if d else ""


def through(xs: Iterable[float], ys: Iterable[float]) -> str:
    """The path through points, interrupted where one is not finite."""
    found, pen = [], "M"
    for x, y in zip(xs, ys):
        if not np.isfinite(x + y):
            pen = "M"
            continue
        found.append(f"{pen}{_short(x)} {_short(y)}")
        pen = "L"
    return "".join(found)


def dots(points: np.ndarray) -> str:
    """The path whose round or square ends are dots at points `[N, 2]`."""
    return "".join(f"M{_short(x)} {_short(y)}h0" for x, y in points)


def _short(value: float) -> str:
    """A tenth of a point is as fine as a screen."""
    return f"{value:.1f}".removesuffix(".0")


def _attributes(attributes: dict[str, str]) -> str:
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())


@dataclass(frozen=True)
class Scale:
    """An axis: its ends and whether it is logarithmic."""

    low: float
    high: float
    log: bool = False

    def share(self, values: np.ndarray | float) -> np.ndarray:
        """Where values lie between the ends: 0 to 1."""
        low, high, values = (np.asarray(part, dtype=float) for part in (self.low, self.high, values))
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high, values = map(np.log, (low, high, values)) if self.log else (low, high, values)
        return (values - low) / (high - low)

    def ticks(self, most: int = 4) -> list[float]:
        """Round values between the ends."""
        locator = MaxNLocator(most, steps=[1, 2, 5, 10])
        if self.log:
            locator = LogLocator(subs=(1, 2, 5) if self.high < 100 * self.low else (1,), numticks=99)
        found = [tick for tick in locator.tick_values(self.low, self.high) if self.low <= tick <= self.high]
        return found[:: -(-len(found) // (most + 1)) or 1]


def scale(values: Iterable[float], log: bool = False) -> Scale:
    """The axis for these values with some room at both ends; logarithmic if asked and all are positive, else no lower than just below 0."""
    finite = [value for value in values if np.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if log and low > 0:
        room = (high / low) ** 0.06 if high > low else 2
        return Scale(low / room, high * room, True)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1
    return Scale(max(low - room, -0.04 * high) if low >= 0 else low - room, high + room)


@dataclass
class Plot:
    """A rectangle of a drawing, with axes."""

    left: float
    top: float
    width: float
    height: float
    x: Scale
    y: Scale
    parts: list[str] = field(default_factory=list)

    def place(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Data to points of the drawing."""
        return self.left + self.width * self.x.share(x), self.top + self.height * (1 - self.y.share(y))

    def axes(self, title: str, labels: bool = True) -> None:
        """Frame, grid and numbers; `labels` says whether those of x are written. To be drawn first."""
        bottom, right = self.top + self.height, self.left + self.width
        xs, ys = self.x.ticks(), self.y.ticks()
        across, up = (self.place(xs, self.y.low)[0], self.place(self.x.low, ys)[1])
        grid = "".join(f"M{_short(x)} {_short(self.top)}V{_short(bottom)}" for x in across)
        grid += "".join(f"M{_short(self.left)} {_short(y)}H{_short(right)}" for y in up)
        marks = "".join(f"M{_short(x)} {_short(bottom)}v{_TICK}" for x in across)
        marks += "".join(f"M{_short(self.left)} {_short(y)}h-{_TICK}" for y in up)
        frame = f"M{_short(self.left)} {_short(self.top)}V{_short(bottom)}H{_short(right)}"
        self.parts += [path(grid, stroke=_GRID, stroke_width="0.8"), path(frame + marks, stroke=_INK, stroke_width="0.8")]
        self.parts += [text(self.left - 6, y + 4, _tick_text(tick), "end") for tick, y in zip(ys, up)]
        if labels:
            self.parts += [text(x, bottom + 16, _tick_text(tick), "middle") for tick, x in zip(xs, across)]
        self.parts.append(text(self.left, self.top - 6, title, font_weight="bold"))

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str, dash: str = "", width: float = 1.8) -> None:
        """A line through data points."""
        self.parts.append(path(through(*self.place(xs, ys)), stroke=color, stroke_width=f"{width:g}", **_dashed(dash)))

    def dots(self, xs: Sequence[float], ys: Sequence[float], color: str, size: float) -> None:
        """Round dots at data points."""
        points = np.column_stack(self.place(xs, ys))
        self.parts.append(
            path(dots(points[np.isfinite(points).all(axis=1)]), stroke=color, stroke_width=f"{size:g}", stroke_linecap="round")
        )

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], color: str) -> None:
        """The area between two lines of data points, where both are finite, cut off at the ends of the axis."""
        known = np.isfinite(np.asarray(low, dtype=float) + np.asarray(high, dtype=float))
        xs, low, high = (np.asarray(part, dtype=float)[known] for part in (xs, low, high))
        around = through(*self.place(np.append(xs, xs[::-1]), np.clip(np.append(low, high[::-1]), self.y.low, self.y.high)))
        self.parts.append(path(around, fill=color, fill_opacity="0.18"))

    def upright(self, x: float, color: str, dash: str = "") -> None:
        """A line over the whole height."""
        at = _short(self.place(x, self.y.low)[0])
        self.parts.append(path(f"M{at} {_short(self.top)}v{_short(self.height)}", stroke=color, stroke_width="1.2", **_dashed(dash)))


def legend(left: float, top: float, width: float, entries: Sequence[tuple[str, str, str]]) -> str:
    """Two columns of lines and their names; entries: (name, colour, dash)."""
    parts = []
    for number, (name, color, dash) in enumerate(entries):
        x, y = left + number % 2 * width / 2, top + number // 2 * 16
        parts += [path(f"M{_short(x)} {_short(y)}h26", stroke=color, stroke_width="1.8", **_dashed(dash)), text(x + 32, y + 4, name)]
    return "".join(parts)


def _dashed(dash: str) -> dict[str, str]:
    return {"stroke_dasharray": dash} if dash else {}


def _tick_text(value: float) -> str:
    """`0,05`; `10.000` rather than an exponent."""
    return f"{value:,.0f}".replace(",", ".") if abs(value) >= 1000 else comma_tick(round(value, 12))
