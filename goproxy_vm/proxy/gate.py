"""What may pass: asked at the door, by whatever is given, and once more before something is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.errors import Absent, Denied
from goproxy_vm.protocol.names import match_prefix_patterns

if TYPE_CHECKING:
    from goproxy_vm.config import Settings
    from goproxy_vm.proxy.asker import Asker


class Gate:
    """This server's rules; ``deny`` may change while it serves, and counts from then on."""

    def __init__(self, settings: Settings) -> None:
        self.deny = settings.deny
        """Patterns of modules that are refused."""
        self.offline = settings.offline
        """Whether nothing is fetched for anybody."""

    @property
    def open(self) -> bool:
        """Whether every module passes: nothing need be known of what is asked for then."""
        return not self.deny

    def passes(self, module: str) -> bool:
        """Whether anything of a module may be given."""
        return not match_prefix_patterns(self.deny, module)

    def check(self, module: str) -> None:
        """Denied: nothing of that module may be given."""
        if not self.passes(module):
            raise Denied(f"module {module} is denied by this server's policy (setting deny)")

    def may_fetch(self, asker: Asker) -> bool:
        """Whether what is not stored may be fetched for somebody."""
        return asker.fetch and not self.offline

    def not_here(self) -> Absent:
        """What to say of that which is not stored and may not be fetched."""
        if self.offline:
            return Absent(
                "not stored here, and this server asks no upstream (setting offline): "
                "have it fetched once by a server that may"
            )
        return Absent("not stored here, and this request may not fetch it")
