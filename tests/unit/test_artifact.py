"""The key of a file of a version."""

from __future__ import annotations

import pytest

from goproxy_vm.errors import MalformedPath
from goproxy_vm.protocol.artifact import KINDS, Artifact, Kind, kind_of

PATH = "github.com/!azure/x/@v/v2.0.0-!r!c.1+incompatible.zip"


def test_names_are_escaped_in_the_path() -> None:
    zip_ = Artifact.of("github.com/Azure/x", "v2.0.0-RC.1+incompatible", Kind.ZIP)
    assert zip_.path == PATH
    assert Artifact.at(zip_.path) == zip_


def test_siblings() -> None:
    zip_ = Artifact.of("example.com/zip", "v1.0.0-zip", Kind.ZIP)
    for kind in Kind:
        assert zip_.sibling(kind) == Artifact.of("example.com/zip", "v1.0.0-zip", kind)
        assert kind_of(zip_.sibling(kind).path) is kind
    assert KINDS == ("info", "mod", "zip")


@pytest.mark.parametrize(
    "path",
    [
        "example.com/m/v3/@v/v2.0.0.zip",  # a major version that disagrees with the path
        "example.com/m/@v/v1.zip",
        "example.com/m/@v/master.info",
        "example.com/m/@v/list",
        "example.com/m/@latest",
        "example.com/@v/m/@v/v1.0.0.mod",
        "example.com/M/@v/v1.0.0.mod",
        "example.com/é/@v/v1.0.0.mod",
        "example.com/m\n/@v/v1.0.0.mod",
        "nodot/m/@v/v1.0.0.mod",
        f"example.com/{'m' * 201}/@v/v1.0.0.mod",
        f"example.com/m/@v/v1.0.0-{'a' * 250}.mod",
        "../../etc/@v/v1.0.0.mod",
    ],
)
def test_the_path_of_none(path: str) -> None:
    with pytest.raises(MalformedPath):
        Artifact.at(path)
