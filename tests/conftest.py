"""Shared by all tests."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """No test reads the settings of a server that is installed on the machine it runs on."""
    del config
    os.environ["GOPROXY_VM_CONFIG"] = os.devnull
