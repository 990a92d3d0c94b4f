"""The runs that a claim or a figure reads, and what several measures make of them, each made once."""

from collections.abc import Sequence
from functools import cached_property

import pandas as pd
import torch

from ncbook import analysis, data, representations
from ncbook.store import Run
from ncbook.sweep import table

PROBE_POINTS = 500
"""How many training points representations are compared on, as in the report."""


class Evidence:
    """Some runs, in any number; what is said of their data presumes that there is one."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self._seen: dict[tuple[str, int], dict[str, torch.Tensor]] = {}

    @cached_property
    def table(self) -> pd.DataFrame:
        return table(self.runs)

    @cached_property
    def last(self) -> pd.DataFrame:
        return analysis.last_epoch(self.table)

    @cached_property
    def data(self) -> data.Data:
        return data.load(self.runs[0].spec.data)

    @cached_property
    def points(self) -> torch.Tensor:
        """Indices of the training points that representations are compared on."""
        return representations.probe(self.data, PROBE_POINTS, seed=0)

    @property
    def epoch(self) -> int:
        """The last epoch that all runs have."""
        return min(run.spec.epochs for run in self.runs)

    def of_width(self, width: int) -> list[Run]:
        return sorted((run for run in self.runs if run.spec.model.width == width), key=lambda run: run.spec.seed)

    def seen(self, run: Run, epoch: int) -> dict[str, torch.Tensor]:
        """The run's representation of `points` after `epoch`."""
        if (key := (run.spec.key, epoch)) not in self._seen:
            self._seen[key] = representations.representation(run, epoch, self.data.x_train[self.points])
        return self._seen[key]

    @cached_property
    def collapse_shares(self) -> pd.DataFrame:
        """`representations.collapse_shares` of every run after its last epoch."""
        rows = [representations.layer_collapse(run, run.spec.epochs, self.data) for run in self.runs]
        return representations.collapse_shares(pd.concat(rows))

    def labels(self, which: str) -> torch.Tensor:
        """The labels of `points`, "noisy" or "clean"."""
        return (self.data.y_noisy if which == "noisy" else self.data.y_clean)[self.points]
