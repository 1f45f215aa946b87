"""What was logged, with its fields, as text to search."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """One line a record: the event, then its fields, then its traceback."""
    return "\n".join(
        f"{record.getMessage()} {getattr(record, 'goproxy_vm_fields', {})} {record.exc_info or ''}"
        for record in caplog.records
    )
