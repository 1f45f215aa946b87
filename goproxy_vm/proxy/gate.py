"""What may pass, and to whom: asked at the door, by whatever is given, and once more before something is
fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.config.networks import allowed
from goproxy_vm.errors import Absent, Denied
from goproxy_vm.protocol.names import match_prefix_patterns

if TYPE_CHECKING:
    from goproxy_vm.config import Settings
    from goproxy_vm.config.token import Tokens
    from goproxy_vm.proxy.asker import Asker


class Gate:
    """This server's rules; :meth:`change` puts others into force while it serves."""

    def __init__(self, settings: Settings, tokens: Tokens | None = None) -> None:
        self._private = settings.private
        self.offline = settings.offline
        """Whether nothing is fetched for anybody."""
        self.change(settings, tokens)

    def change(self, settings: Settings, tokens: Tokens | None) -> None:
        """From now on ``deny`` and ``private_clients`` count as they are in ``settings``; ``tokens`` are
        those of ``private_tokens_file``."""
        self._deny = settings.deny
        self._clients = settings.private_clients
        self._tokens = tokens

    @property
    def open(self) -> bool:
        """Whether every module passes, to everyone: nothing need be known of what is asked for then."""
        return not self._deny and not self._restricted

    @property
    def _restricted(self) -> bool:
        return bool(self._private) and bool(self._clients or self._tokens)

    def private(self, module: str) -> bool:
        """Whether a module comes from version control alone (setting private)."""
        return match_prefix_patterns(self._private, module)

    def passes(self, module: str) -> bool:
        """Whether anything of a module may be given to everyone who may ask."""
        return not match_prefix_patterns(self._deny, module) and not self.reserved(module)

    def reserved(self, module: str) -> bool:
        """Whether some may have a module, and others who may ask may not."""
        return self._restricted and self.private(module)

    def check(self, module: str) -> None:
        """Denied: nothing of that module may be given to anybody."""
        if match_prefix_patterns(self._deny, module):
            raise Denied(f"module {module} is denied by this server's policy (setting deny)")

    def admit(self, module: str, asker: Asker) -> None:
        """Denied: nothing of that module may be given, or not to that one. Whether there is such a module
        does not show."""
        self.check(module)
        if not self.reserved(module):
            return
        if self._clients and allowed(self._clients, asker.client):
            return
        if self._tokens is None:
            raise Denied(f"module {module} is not for clients at {asker.client} (setting private_clients)")
        if not self._tokens.admit(asker.authorization):
            raise Denied(
                f"module {module} is for those who bring a token: put it into the VM's .netrc, as the "
                "password for this host, and ask by https (setting private_tokens_file)"
            )

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
