"""tests/floor.py: the lowest versions that pyproject.toml allows."""

from __future__ import annotations

import tomllib

import pytest

from tests.floor import PROJECT, constraints


def test_each_package_of_the_server_in_its_lowest_version() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    found = list(constraints(project))
    lowest = [each.replace(">=", "==") for each in project["dependencies"]]
    assert len(lowest) > 5
    assert found == lowest + project["optional-dependencies"]["test"]


@pytest.mark.parametrize("dependency", ["aiohttp", "aiohttp<4", "aiohttp>=3.14,<4", "aiohttp[speedups]>=3"])
def test_a_package_without_a_lowest_version_is_an_error(dependency: str) -> None:
    with pytest.raises(ValueError, match="expected NAME>=VERSION"):
        list(constraints({"dependencies": [dependency], "optional-dependencies": {"test": []}}))
