"""`python -m ncbook`, the same as `ncbook`."""

from ncbook.cli import main

main(prog_name="ncbook")
