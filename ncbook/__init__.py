"""ncbook: a living book on double descent, neural collapse and the feature norm. Notebooks import from its modules."""

__version__ = "0.1.0"
