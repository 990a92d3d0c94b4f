"""Shared by all tests: nothing touches the user's own store, and every library computes with one thread."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """Each test has an empty store of its own."""
    folder = tmp_path / "own-runs"
    monkeypatch.setenv("NCBOOK_RUNS", str(folder))
    return folder
