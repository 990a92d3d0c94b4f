"""Part two of the book: when neural collapse sets in, and whether the feature norm tells."""
