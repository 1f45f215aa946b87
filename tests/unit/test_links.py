"""Links of the documentation lead somewhere. Offline: what lies outside is only looked at, never fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
FILES = sorted(file for name in ("config", "docker") for file in (ROOT / name).rglob("*") if file.is_file())
MARKDOWN = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=6)


def inside(tokens: list[Token]) -> Iterator[Token]:
    """All tokens, those within lines of text too."""
    for token in tokens:
        yield token
        yield from inside(token.children or [])


@cache
def tokens_of(page: Path) -> list[Token]:
    return list(inside(MARKDOWN.parse(page.read_text())))


@cache
def anchors(page: Path) -> set[str]:
    return {str(token.attrs["id"]) for token in tokens_of(page) if token.type == "heading_open"}


def links(page: Path) -> list[str]:
    """Where the page's links and pictures lead."""
    found = [token.attrs.get("href", token.attrs.get("src")) for token in tokens_of(page)]
    return [str(each) for each in found if each is not None]


def wrong(page: Path, link: str) -> str | None:
    """What is wrong with a link, if anything."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None if outside(link) else "no sound https URL"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(ROOT):
        return "outside the project"
    if not target.exists():
        return "no such file"
    if parts.fragment and (target.suffix != ".md" or parts.fragment not in anchors(target)):
        return "no such heading"
    return None


def outside(link: str) -> bool:
    """Whether it is a URL that anybody may follow: https, or this very host."""
    parts = urlsplit(link)
    host = parts.hostname or ""
    if parts.username is not None or not re.fullmatch(r"[!-~]+", link):
        return False
    if parts.scheme == "http":
        return host == "127.0.0.1"
    name = re.fullmatch(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}", host)
    return parts.scheme == "https" and name is not None and parts.port is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page(page: Path) -> None:
    assert {link: why for link in links(page) if (why := wrong(page, link)) is not None} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_pages_that_other_files_name(file: Path) -> None:
    for name in re.findall(r"\b((?:docs|docker|config|benchmarks)/[\w./-]*\w\.\w+)", file.read_text()):
        assert (ROOT / name).exists(), name
    for url in re.findall(r"https://[^\s\"'<>)\\|…]+", file.read_text()):
        assert outside(url.rstrip(".,;")), url


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        seen.add(page)
        relative = [urlsplit(link) for link in links(page) if not urlsplit(link).scheme]
        targets = [(page.parent / unquote(each.path)).resolve() for each in relative if each.path]
        pages = {
            each for target in targets for each in (target.glob("*.md") if target.is_dir() else [target])
        }
        ahead += [each for each in pages if each in PAGES and each not in seen]
    assert sorted(seen) == PAGES


def test_what_is_wrong_is_found() -> None:
    page = ROOT / "README.md"
    assert wrong(page, "docs/install.md#systemd") is None
    assert wrong(page, "#reading-on") is None
    assert wrong(page, "docs/nothing.md") == "no such file"
    assert wrong(page, "docs/install.md#nothing") == "no such heading"
    assert wrong(page, "Makefile#help") == "no such heading"
    assert wrong(page, "../etc") == "outside the project"
    assert wrong(page, "http://127.0.0.1:3000") is None
    for link in (
        "http://example.com",
        "https://a b.example",
        "https://u@example.com",
        "https://x",
        "ftp://a.example",
    ):
        assert wrong(page, link) == "no sound https URL"
