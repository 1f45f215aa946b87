"""Error texts as ``go`` can show them (PROTOCOL §2, case 80)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.errors import Absent, NoRoom, UpstreamError
from goproxy_vm.web.problem import error_response, error_text


def test_text_names_what_why_and_which_request() -> None:
    text = error_text("example.com/m@v1.0.0 zip", "up.example: 503 Service Unavailable", "abc123")
    assert text == (
        b"goproxy-vm: example.com/m@v1.0.0 zip: up.example: 503 Service Unavailable [request abc123]\n"
    )


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_text_is_one_printable_bounded_line(about: str, sentence: str) -> None:
    text = error_text(about, sentence, "0123456789ab")
    assert len(text) <= 648
    line = text.decode()
    assert line.endswith("[request 0123456789ab]\n")
    assert line.removesuffix("\n").isprintable()


def test_only_absence_may_be_cached() -> None:
    absent = error_response(Absent("no"), "", "id", 60, forwarded=True)
    assert (absent.status, absent.headers["Cache-Control"]) == (404, "public, max-age=60")
    failed = error_response(UpstreamError("no"), "", "id", 60, forwarded=True)
    assert (failed.status, failed.headers["Cache-Control"]) == (502, "no-store")
    full = error_response(NoRoom("no"), "", "id", 60, forwarded=True)
    assert (full.status, full.headers["Retry-After"]) == (503, "30")
