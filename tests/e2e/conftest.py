"""Shared by the tests that run the real ``go`` command."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def gocache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One build cache for all: what ``go`` compiled once it need not compile again."""
    return tmp_path_factory.mktemp("gocache")
