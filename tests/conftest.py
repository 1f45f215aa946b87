"""Shared by all tests."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure(config: pytest.Config) -> None:
    """No test reads the settings of a server that is installed on the machine it runs on."""
    del config
    os.environ["GOPROXY_VM_CONFIG"] = os.devnull


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """The level that a server sets when it is reloaded is the process's: no test leaves it to the next."""
    loggers = logging.getLogger(), logging.getLogger("goproxy_vm")
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
