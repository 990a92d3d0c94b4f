"""The explorers over any runs of the store, and over networks trained for them there and then."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any

import ipywidgets

from ncbook.chapters import chapter_specs, find_chapter
from ncbook.data import load
from ncbook.explore import cka, collapse
from ncbook.explore.dimension import dimension_explorer
from ncbook.explore.lab import WIDE, FormLab
from ncbook.explore.width import width_explorer
from ncbook.fn.experiments import BASELINE
from ncbook.representations import probe
from ncbook.spec import SIGNAL_MODELS, RunSpec
from ncbook.store import Run, Store, StoreError
from ncbook.sweep import table

_POINTS = 500
"""Training points on which representations are compared, as in experiment 4."""

Groups = dict[str, list[Run]]
"""What runs have in common, in words -> those that an explorer can show together."""


@dataclass(frozen=True)
class Explorer:
    """A way to look at runs."""

    groups: Callable[[Iterable[Run]], Groups]
    draw: Callable[[list[Run]], ipywidgets.Widget]
    chapter: str
    """Whose parameters a new training takes."""
    small: Mapping[str, Any]
    """Its parameters at first: a training of a minute."""


def _grouped(runs: Iterable[Run], common: Callable[[RunSpec], str | None]) -> Groups:
    """The runs by what they have in common (None: not to be shown).

    Of runs that differ in nothing but the weights that are kept, the one with the most.
    """
    found: dict[str, list[Run]] = {}
    trainings = {dataclasses.replace(run.spec, snapshots=()).key: run for run in sorted(runs, key=lambda run: len(run.states))}
    for run in trainings.values():
        if words := common(run.spec):
            found.setdefault(words, []).append(run)
    return found


def _named(found: Groups, varied: Callable[[RunSpec], int], name: str) -> Groups:
    """The groups, the largest first, under names that also say how far they range in what is varied, and how many runs they have."""
    groups = {}
    for words, some in sorted(found.items(), key=lambda group: -len(group[1])):
        levels = sorted({varied(run.spec) for run in some})
        extent = f"{levels[0]} to {levels[-1]}" if len(levels) > 1 else f"{levels[0]}"
        groups[f"{words}: {name} = {extent}, {len(some)} {'run' if len(some) == 1 else 'runs'}"] = some
    return groups


def _training(spec: RunSpec) -> str:
    draw = f", draw {spec.data.noise_seed}" if spec.data.noise_seed else ""
    return f"{spec.epochs:,} epochs, label noise {spec.data.label_noise:g}{draw}"


def _plain(spec: RunSpec) -> bool:
    """Whether it is a network of part one without a projector that keeps its last weights."""
    return spec.model.name in SIGNAL_MODELS and spec.model.feature_dim is None and spec.epochs in spec.snapshots


def _widths(runs: Iterable[Run]) -> Groups:
    return _named(_grouped(runs, lambda spec: _training(spec) if _plain(spec) else None), lambda spec: spec.model.width, "W")


def _dimensions(runs: Iterable[Run]) -> Groups:
    def common(spec: RunSpec) -> str | None:
        return f"W = {spec.model.width}, {_training(spec)}" if spec.model.feature_dim and spec.epochs in spec.snapshots else None

    return _named(_grouped(runs, common), lambda spec: spec.model.feature_dim or 0, "d")


def _similar(runs: Iterable[Run]) -> Groups:
    """Those that can be compared after some epoch that is the last for one of them; longer ones may have passed through it."""

    def common(spec: RunSpec) -> str | None:
        return f"{spec.optimizer.name}, {_training(spec)}" if _plain(spec) and spec.model.name == "resnet1d" else None

    groups = _grouped(runs, common)
    followed = {run.spec.key: run for some in groups.values() for run in some}
    for some in groups.values():
        spec = some[0].spec
        for run in followed.values():
            alike = (run.spec.optimizer, run.spec.data) == (spec.optimizer, spec.data)
            if alike and run.spec.epochs > spec.epochs and spec.epochs in run.states:
                some.append(run)
    return _named(groups, lambda spec: spec.model.width, "W")


def _similarity(runs: list[Run]) -> ipywidgets.Widget:
    """Across widths and, of the width with the most seeds, across seeds and epochs."""
    data, last = load(runs[0].spec.data), min(run.spec.epochs for run in runs)
    found = cka.similarities(runs, data.x_train[probe(data, _POINTS, 0)])
    counts = Counter(run.spec.model.width for run in runs)
    width = max(counts, key=lambda width: (counts[width], max(len(run.states) for run in runs if run.spec.model.width == width)))
    epochs = sorted(set.intersection(*({*run.states} for run in runs if run.spec.model.width == width)))
    views = [cka.across_widths(found, sorted(counts), last)] if len(counts) > 1 else []
    views += [cka.across_seeds(found, width, epochs)] if counts[width] > 1 else []
    return ipywidgets.VBox([*views, cka.over_time(found, width)])


def _switched(runs: Iterable[Run]) -> Groups:
    def common(spec: RunSpec) -> str | None:
        if spec.switch is None:
            return None
        images = f"{spec.data.subset:,} images" if spec.data.subset else "all images"
        return f"{spec.data.name}, {images}, switch after {spec.switch.epoch} epochs, {spec.epochs} at most"

    return _named(_grouped(runs, common), lambda spec: spec.model.width, "width")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, its names joined by points."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _departures(spec: RunSpec) -> dict[str, Any]:
    """In what a run differs from the baseline of part two, images, epochs and seed apart; the names are those of the tables' columns."""
    base, own = (_flat(one.to_dict()) for one in (BASELINE, spec))
    shared, columns = ("data.", "epochs", "seed", "switch.epoch"), {"model.name": "model", "optimizer.name": "optimizer"}
    differs = {name: value for name, value in own.items() if name not in base or base[name] != value}
    return {columns.get(name, name.split(".", 1)[-1]): value for name, value in differs.items() if not name.startswith(shared)}


def _onsets(runs: list[Run]) -> ipywidgets.Widget:
    """The sweeps of one setting that are among the runs, and each other run alone."""
    sweeps = {name: [run for run in runs if {*_departures(run.spec)} <= {factor.column}] for name, (_, factor) in collapse.FACTORS.items()}
    sweeps = {name: some for name, some in sweeps.items() if any(_departures(run.spec) for run in some)}
    shown = collapse.selections({name: table(some) for name, some in sweeps.items()})
    keys = {run.spec.key for some in sweeps.values() for run in some}
    for run in runs:
        if run.spec.key not in keys:
            words = ", ".join(f"{name} {value}" for name, value in _departures(run.spec).items()) or "baseline"
            shown[f"{words}, seed {run.spec.seed}"] = collapse.Shown(table([run]), "seed", "Seed")
    return collapse.collapse(shown)


EXPLORERS = {
    "Width: the curve of double descent and the geometry along it": Explorer(
        _widths, width_explorer, "explore_width", {"widths": [10], "models": ["resnet1d"], "optimizers": ["sgd"], "epochs": 20}
    ),
    "Feature dimension: where a simplex fits": Explorer(
        _dimensions, dimension_explorer, "explore_dimension", {"feature_dims": [2, 9], "width": 10, "epochs": 20}
    ),
    "CKA: layer by layer, pair by pair, epoch by epoch": Explorer(
        _similar,
        _similarity,
        "explore_cka",
        {"small_width": 4, "large_width": 10, "width": 6, "epochs": 10, "drift_epochs": 20, "seeds": [0, 1, 2]},
    ),
    "Collapse: T_NC and fn* at any threshold": Explorer(
        _switched, _onsets, "fn_width", {"widths": [16, 32], "data": "digits", "subset": 0, "switch": 10, "epochs": 100}
    ),
}


class ExplorerLab(FormLab):
    """An explorer, the runs that it shows, and a form to train others for it."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[str, Run] = {}
        self.explorer = ipywidgets.Dropdown(options=EXPLORERS, description="Explorer", **WIDE)
        self.runs = ipywidgets.Dropdown(description="Runs", **WIDE)
        self.show = ipywidgets.Button(description="Show", icon="eye", button_style="primary")
        self.train = ipywidgets.Button(description="Train and show", icon="play", button_style="primary")
        self.buttons = [(self.train, lambda: self.form.given is not None), (self.show, lambda: self.runs.value is not None)]
        self.view = ipywidgets.VBox()
        self.explorer.observe(lambda _: self._choose(), "value")
        self.show.on_click(lambda _: self.job.start({}, then=self.draw))
        self.train.on_click(lambda _: self.start())
        new = ipywidgets.Accordion([ipywidgets.VBox([self.place, self.train])], titles=["Or train new networks"])
        self.children = [self.explorer, self.runs, self.show, new, self.job, self.view]
        self._choose()

    def _choose(self) -> None:
        chosen = self.explorer.value
        self.view.children = []
        self.refresh()
        self.offer(find_chapter(chosen.chapter), chosen.small)

    def refresh(self) -> None:
        """Offers what the store has now."""
        store = Store()
        for key in store.keys():
            with suppress(StoreError):  # `ncbook runs verify` names what is damaged
                self._runs[key] = self._runs.get(key) or store.load(key)
        self.runs.options = self.explorer.value.groups(self._runs.values())
        self.runs.index = 0 if self.runs.options else None

    def draw(self) -> None:
        """Shows the runs chosen."""
        self.view.children = []
        self.job.say("Drawing …")
        self.view.children = [self.explorer.value.draw(self.runs.value)]
        self.job.say("")

    def start(self) -> Thread:
        """Trains what the form says and shows it; returns the thread that waits for that."""
        chapter, given = self.form.chapter, dict(self.form.given or {})
        keys = {spec.key for spec in chapter_specs(chapter, given)}
        commands = {"Training": ["sweep", chapter.name, "-y", json.dumps(given)]}
        return self.job.start(commands, then=lambda: self._trained(keys))

    def _trained(self, keys: set[str]) -> None:
        """Chooses, of the groups that hold a run of these keys, the one that holds the most."""
        self.refresh()
        groups: Sequence[tuple[str, list[Run]]] = list(self.explorer.value.groups(self._runs.values()).items())
        counts = [len(keys & {run.spec.key for run in some}) for _, some in groups]
        self.runs.index = counts.index(max(counts))
        self.draw()
