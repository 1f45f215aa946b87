"""Where a module comes from: the upstream list, or version control alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from goproxy_vm.proxy.fetching import Fetching
    from goproxy_vm.proxy.gate import Gate


class Routing:
    """Chooses by the module: nobody but version control ever hears of a private one."""

    def __init__(self, gate: Gate, public: Fetching, private: Fetching | None) -> None:
        """``private`` may be None where the setting of that name is empty."""
        self._gate = gate
        self._public = public
        self._private = private

    def of(self, module: str) -> Fetching:
        """Those that are asked for a module."""
        if not self._gate.private(module):
            return self._public
        if self._private is None:
            raise ValueError("private modules, and nowhere to fetch them from")
        return self._private
