"""Part one of the book, the Italian report on 1-D models: the statistics, figures and words that only one of its chapters needs."""
