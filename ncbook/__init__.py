"""ncbook: a living book on double descent, neural collapse and the feature norm. Notebooks import from its modules."""

__version__ = "0.2.0"


def __getattr__(name: str):
    """`ncbook.CollapseMonitor`, imported when it is asked for: torch takes seconds to load, and the command line must answer at once."""
    if name == "CollapseMonitor":
        from ncbook.monitor import CollapseMonitor

        return CollapseMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
