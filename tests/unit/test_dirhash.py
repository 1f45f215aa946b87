"""h1 against Go's own hashes."""

from __future__ import annotations

import hashlib

import pytest

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.dirhash import h1_lines, h1_mod
from tests.vectors import vectors


@pytest.mark.parametrize("case", vectors()["h1_gomod"], ids=lambda c: f"{c['module']}@{c['version']}")
def test_h1_mod(case: dict[str, str]) -> None:
    assert h1_mod(case["text"].encode()) == case["h1"]


def test_order_of_files_does_not_matter() -> None:
    files = [(name, hashlib.sha256(name).digest()) for name in (b"b", b"a", b"a/b")]
    assert h1_lines(files) == h1_lines(reversed(files))


def test_line_feed_in_a_name_is_refused() -> None:
    with pytest.raises(ContentError):
        h1_lines([(b"a\nb", bytes(32))])
