"""The whole server of the integration tests is at hand here too."""

from tests.integration.conftest import serve, upstream

__all__ = ["serve", "upstream"]
