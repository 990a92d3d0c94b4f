"""Explorers: what the book's runs show, to be turned by the reader, with a kernel or in the bare HTML."""
