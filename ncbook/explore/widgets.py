"""What explorers are made of: choices, and pictures that follow them.

Every picture is drawn beforehand, and choosing is done in the browser alone: an explorer works the same with a live kernel and in a page
that has neither kernel nor network.
"""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets
import matplotlib as mpl
from ipywidgets import HTML, Dropdown, HBox, Layout, Play, SelectionSlider, Stack, VBox, Widget
from matplotlib.figure import Figure

from ncbook.explore.svg import svg

_TEXT = {"svg.fonttype": "none", "svg.hashsalt": "ncbook"}
"""Letters stay letters: drawn as outlines they would be half of a page's size."""
_LEFT_OUT = re.compile(
    r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>| transform=\"rotate\(-0 [^)]*\)\"|;? *font-family: 'DejaVu Sans'[^;\"]*",
    re.DOTALL,
)
"""Of matplotlib's SVG. Its style sheet would speak for the whole page."""
_PLACES = re.compile(r' (?:d|x|y|width|height|transform)="(?!matrix)[^"]*"')
_MILLISECONDS = 1200


@dataclass(frozen=True)
class Choice:
    """A control, and what its options stand for."""

    widget: Widget
    """What the reader turns; it has an `index`."""
    values: tuple[Any, ...]
    """By index, what the options stand for."""
    player: Play | None = None
    """A button that goes through all options."""


def dropdown(label: str, options: Mapping[str, Any], start: str | None = None) -> Choice:
    """A labelled list to choose from; options: text -> what it stands for; start: the text chosen at first (None: the first).

    Raises `ValueError` for no option.
    """
    return _choice(Dropdown, label, options, start)


def slider(label: str, options: Mapping[str, Any], start: str | None = None, *, play: bool = False) -> Choice:
    """The same as a slider, with a button that plays through it if wanted. A single option is no range: it is given as `dropdown` does."""
    if len(options) < 2:
        return dropdown(label, options, start)
    choice = _choice(SelectionSlider, label, options, start)
    if not play:
        return choice
    player = Play(value=choice.widget.index, max=len(options) - 1, interval=_MILLISECONDS)
    ipywidgets.jslink((player, "value"), (choice.widget, "index"))
    return Choice(choice.widget, choice.values, player)


def _choice(kind: type[Widget], label: str, options: Mapping[str, Any], start: str | None) -> Choice:
    if not options:
        raise ValueError(f"{label!r} has no options: there is nothing to choose from.")
    texts = list(options)
    widget = kind(options=texts, value=texts[0] if start is None else start, description=label, style={"description_width": "initial"})
    return Choice(widget, tuple(options.values()))


def follow(picture: Callable[..., str], *choices: Choice) -> Widget:
    """What `picture(value, ...)` gives as HTML for the values chosen, each drawn once, now; at most one at a time is in the page."""
    layout = Layout(width="auto", flex="1 1 auto")  # one for all: each widget's own would add 2 kB to the page

    def level(chosen: tuple[Any, ...], rest: tuple[Choice, ...]) -> Widget:
        if not rest:
            return HTML(picture(*chosen), layout=layout)
        first, *others = rest
        children = [level((*chosen, value), tuple(others)) for value in first.values]
        stack = Stack(children, selected_index=first.widget.index, layout=layout)
        ipywidgets.jsdlink((first.widget, "index"), (stack, "selected_index"))
        return stack

    return level((), choices)


def explorer(choices: list[Choice], *views: Widget) -> VBox:
    """The controls of the choices, and below them the views, one below the other."""
    widgets = [widget for choice in choices for widget in (choice.player, choice.widget) if widget]
    controls = HBox(widgets, layout=Layout(flex_flow="row wrap")).add_class("explorer-controls")
    return VBox([controls, *views]).add_class("explorer")


def beside(*pictures: str) -> str:
    """Pictures side by side where there is room, else one below the other."""
    cells = "".join(f'<div style="flex:1 1 20rem">{picture}</div>' for picture in pictures)
    return f'<div style="display:flex;flex-wrap:wrap;gap:0.5rem 1rem">{cells}</div>'


def drawing(figure: Figure, alt: str) -> str:
    """A figure as HTML, as wide as the page lets it be, up to its own size; alt: what it shows in words, main numbers included."""
    file = io.StringIO()
    with mpl.rc_context(_TEXT):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = _LEFT_OUT.sub("", file.getvalue().partition("<svg")[2].partition(">")[2].removesuffix("</svg>\n"))
    named = set(re.findall(r"#([\w.-]+)", drawn))
    drawn = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in named else "", drawn)
    drawn = _PLACES.sub(lambda places: re.sub(r"-?\d+\.\d+", _rounded, places[0]), re.sub(r"\s*\n\s*", " ", drawn))
    drawn = re.sub(r'(?<= style=")[^"]*', lambda style: style[0].replace(" ", ""), drawn).replace("> <", "><").strip()
    return svg(*(72 * figure.get_size_inches()), alt, drawn)


def _rounded(number: re.Match) -> str:
    """To a tenth of a point, as fine as a screen."""
    return f"{float(number[0]):.1f}".removesuffix(".0")
