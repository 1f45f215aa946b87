"""What a path asks for: the numbered cases of the protocol that the path alone decides."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.errors import MalformedPath, MalformedSumdb
from goproxy_vm.protocol.artifact import Artifact
from goproxy_vm.protocol.request import Endpoint, ModuleResource, SumdbResource, parse
from tests.malformed import MALFORMED

NAME = "sum.golang.org"
M = "/example.com/m"


def module(path: str) -> ModuleResource:
    resource = parse(path, NAME).resource
    assert isinstance(resource, ModuleResource)
    return resource


@pytest.mark.parametrize(
    ("path", "endpoint", "version", "immutable"),
    [
        (f"{M}/@v/list", Endpoint.LIST, "", False),
        (f"{M}/@latest", Endpoint.LATEST, "", False),
        (f"{M}/@v/v1.0.0.info", Endpoint.INFO, "v1.0.0", True),
        (f"{M}/@v/v1.0.0.mod", Endpoint.MOD, "v1.0.0", True),
        (f"{M}/@v/v1.0.0.zip", Endpoint.ZIP, "v1.0.0", True),
        (f"{M}/@v/master.info", Endpoint.INFO, "master", False),
        (f"{M}/@v/v1.info", Endpoint.INFO, "v1", False),
        (f"{M}/@v/v1.2.info", Endpoint.INFO, "v1.2", False),
        (f"{M}/@v/v1.0.0+meta.info", Endpoint.INFO, "v1.0.0+meta", False),
    ],
)
def test_the_five_endpoints(path: str, endpoint: Endpoint, version: str, *, immutable: bool) -> None:
    resource = module(path)
    assert (resource.module, resource.endpoint, resource.version) == ("example.com/m", endpoint, version)
    artifact = resource.artifact
    assert (artifact is not None) is immutable
    if artifact is not None:
        assert (artifact.path, artifact.kind.value) == (path[1:], endpoint)
        assert artifact == Artifact.at(path[1:]) == Artifact.of(artifact.module, version, artifact.kind)
    assert f"/{resource.path}" == path
    assert f"/{ModuleResource('example.com/m', endpoint, version).path}" == path


@pytest.mark.parametrize(
    ("case", "name", "immutable"),
    [
        ("16", "master.info", False),
        ("18", "abcdefa.info", False),
        ("19", "v1.info", False),
        ("19", "v1.2.info", False),
        ("21", "v1.0.0.mod", True),
        ("22", "v0.9.0.mod", True),
        ("24", "v1.0.0.zip", True),
        ("46", f"v1.0.0-{'a' * 243}.info", True),
        ("-", "a%25b.info", False),
    ],
)
def test_accepted(case: str, name: str, *, immutable: bool) -> None:
    assert (module(f"{M}/@v/{name}").artifact is not None) is immutable


@pytest.mark.parametrize("escaped", ["%21my%21branch", "!my!branch"])
def test_case_17_both_forms_of_the_bang(escaped: str) -> None:
    resource = module(f"{M}/@v/{escaped}.info")
    assert resource.version == "MyBranch"
    assert resource.path == "example.com/m/@v/!my!branch.info"


@pytest.mark.parametrize("version", ["v2.0.0+incompatible", "v2.0.0%2Bincompatible"])
def test_case_25_plus(version: str) -> None:
    assert module(f"{M}/@v/{version}.zip").version == "v2.0.0+incompatible"


def test_case_26_a_disagreeing_version_is_only_a_query() -> None:
    assert module(f"{M}/@v/v2.0.0.info").artifact is None


def test_case_27_gopkg_v1_pseudo() -> None:
    path = "/gopkg.in/check.v1/@v/v0.0.0-20161208181325-20d25e280405.mod"
    assert module(path).artifact


def test_case_32_escaped_prerelease() -> None:
    assert module(f"{M}/@v/v1.0.0-!r!c1.info").version == "v1.0.0-RC1"


def test_case_77_cached_only() -> None:
    request = parse(f"/cached-only{M}/@v/v1.0.0.zip", NAME)
    assert request.cached_only
    assert request.resource.path == "example.com/m/@v/v1.0.0.zip"


@pytest.mark.parametrize(
    ("case", "path"),
    [
        *MALFORMED,
        ("-", f"/sumdb/{NAME}/supported/x"),
        ("-", f"{M}/@v/a%zz.info"),
        ("-", f"{M}/@v/a%2.info"),
        ("-", f"{M}/@v/a.info%"),
        ("-", ""),
        ("-", "*"),
        ("-", "/cached-only"),
        ("-", f"{M}/%0a/@v/list"),
        ("-", f"{M}/@"),
    ],
)
def test_malformed(case: str, path: str) -> None:
    with pytest.raises(MalformedPath):
        parse(path, NAME)


def test_case_81_supported_and_latest() -> None:
    assert parse(f"/sumdb/{NAME}/supported", NAME).resource == SumdbResource(NAME, "supported")
    assert parse(f"/sumdb/{NAME}/latest", NAME).resource == SumdbResource(NAME, "latest")


def test_case_83_name_with_a_slash() -> None:
    resource = parse("/sumdb/host.example/path/supported", "host.example/path").resource
    assert resource == SumdbResource("host.example/path", "supported")
    assert resource.path == "sumdb/host.example/path/supported"


@pytest.mark.parametrize("path", ["!azure", "%21azure"])
def test_case_85_lookup(path: str) -> None:
    resource = parse(f"/sumdb/{NAME}/lookup/github.com/{path}/x@v1.0.0", NAME).resource
    assert resource.path == f"sumdb/{NAME}/lookup/github.com/!azure/x@v1.0.0"


@pytest.mark.parametrize(
    "rest", ["m@v1", "example.com/m@v1", "example.com/m", "example.com/m@v1.0.0+meta", "example.com/M@v1.0.0"]
)
def test_case_86_malformed_lookup(rest: str) -> None:
    with pytest.raises(MalformedSumdb):
        parse(f"/sumdb/{NAME}/lookup/{rest}", NAME)


@pytest.mark.parametrize(
    "rest", ["8/0/000", "8/0/001.p/44", "8/0/x001/x234/067", "8/data/000", "1/0/000.p/1"]
)
def test_case_88_tiles(rest: str) -> None:
    assert parse(f"/sumdb/{NAME}/tile/{rest}", NAME).resource == SumdbResource(NAME, "tile", rest)


@pytest.mark.parametrize(
    "rest",
    [
        "8/0/0",
        "8/0/x000/001",
        "8/0/000.p/0",
        "8/0/000.p/256",
        "8/0/000.p/01",
        "0/0/000",
        "31/0/000",
        "08/0/000",
        "8/00/000",
        "8/0/000.p/",
        "8/0/",
        "",
    ],
)
def test_case_91_malformed_tiles(rest: str) -> None:
    with pytest.raises(MalformedSumdb):
        parse(f"/sumdb/{NAME}/tile/{rest}", NAME)


def test_without_a_database_there_is_no_mirror() -> None:
    with pytest.raises(MalformedPath):
        parse(f"/sumdb/{NAME}/supported", None)


@given(
    st.text()
    | st.text(alphabet="/@v.!%20aA1xlisttmodzipnf")
    | st.text(alphabet="%25!a.").map("{}.info".format)
)
def test_any_path_is_an_answer_or_malformed(path: str) -> None:
    for candidate in (path, f"/example.com/{path}", f"{M}/@v/{path}", f"/sumdb/{NAME}/{path}"):
        try:
            resource = parse(candidate, NAME).resource
        except (MalformedPath, MalformedSumdb):
            continue
        assert ".." not in resource.path.split("/")
        assert resource.path.isascii()
        assert parse(quote(f"/{resource.path}"), NAME).resource == resource
        if isinstance(resource, ModuleResource):
            assert ModuleResource(resource.module, resource.endpoint, resource.version).path == resource.path
