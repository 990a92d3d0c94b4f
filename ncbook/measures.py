"""The measures that claims name: the registry in which `report.measures` and `fn.measures` enrol, and what both need.

A measure is a function from the runs that a claim reads to one `Estimate` for each case. It is named in the ledger and takes its arguments
from there. Where a run lacks what is asked for, the case is NaN with n = 0. Values that rest on no run, but on arithmetic or on an
optimisation, are exact: an interval of no width, and n = 0. Cases are named in English.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ncbook.analysis import Estimate

Cases = dict[str, Estimate]
"""Name of a case -> its value."""


@dataclass(frozen=True)
class Measure:
    """A registered function, between which values its cases always lie, and what the n of their estimates counts, one of `UNITS`."""

    function: Callable[..., Cases]
    low: float
    high: float
    unit: str


UNITS = ("seeds", "runs", "conditions", "draws")
MEASURES: dict[str, Measure] = {}


def measure(low: float = -math.inf, high: float = math.inf, unit: str = "seeds") -> Callable[[Callable[..., Cases]], Callable[..., Cases]]:
    """Puts a function into `MEASURES`, with the bounds of its cases and the unit of their n."""

    def register(function: Callable[..., Cases]) -> Callable[..., Cases]:
        MEASURES[function.__name__] = Measure(function, low, high, unit)
        return function

    return register


def exact(value: float) -> Estimate:
    """A value that rests on no run."""
    return Estimate(value, value, value, 0)


_SHORT = {
    "test_error": "test error",
    "nc1": "NC1",
    "nc1_trace_ratio": "NC1 tr",
    "nc2_gram": "NC2 Gram",
    "nc2_equinorm": "NC2 norms",
    "nc2_equiangularity": "NC2 angles",
    "nc3": "NC3",
    "nc3_uncentred": "NC3 uncentred",
    "nc4": "NC4",
}


def short(metric: str) -> str:
    """A metric's column as a case calls it: `NC2 Gram noisy`."""
    stem, _, labels = metric.rpartition("_")
    return f"{_SHORT[stem]} {labels}" if stem in _SHORT else _SHORT[metric]
