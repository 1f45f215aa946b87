"""``/vm/``: scripts and a page for VMs, which know the host that they were asked of (docs/vms.md)."""

from __future__ import annotations

import re
import shlex
from importlib import resources
from typing import TYPE_CHECKING

from goproxy_vm.config.sumdb import GOOGLE_KEY, GOOGLE_NAME
from goproxy_vm.errors import RequestError
from goproxy_vm.proxy.answer import UNCACHEABLE, Answer, Result

if TYPE_CHECKING:
    from goproxy_vm.config import Settings

TOP = "/vm/"
"""What their paths begin with; no module file's path: it has no ``/@``."""
FILES = {
    "setup.sh": "setup.sh",
    "clean.sh": "clean.sh",
    "install.sh": "install.sh",
    "incident": "incident.txt",
}
"""By their names, the files, which lie beside this module."""


class UnknownHost(RequestError):
    """The request does not say, or not well, by which name the VM reaches this host."""

    status = 400


class Misdirected(RequestError):
    """It says a name that may be somebody else's."""

    status = 421


class Scripts:
    """The scripts of one server, with their blanks filled in: a line ``NAME=''`` at their head is one."""

    def __init__(self, settings: Settings) -> None:
        top = resources.files("goproxy_vm.web")
        self._texts = {f"{TOP}{name}": (top / file).read_text("utf-8") for name, file in FILES.items()}
        self._public_url = settings.public_url
        self._values = {
            "proxy": "",
            "sumdb": "",
            "nosumdb": settings.exempt,
            "toolchain": "local",
            "vm_go": settings.vm_go,
        }
        if settings.sumdb is not None and settings.sumdb.vkey == GOOGLE_KEY:
            # The one database that is known to have Go's toolchains: without proof none is served.
            pinned = f"go{settings.vm_go}" if settings.vm_go else "auto"
            self._values |= {"sumdb": GOOGLE_NAME, "toolchain": pinned}
        elif settings.sumdb is not None:
            # Without its URL, which would have the VM go around the mirror.
            self._values["sumdb"] = settings.sumdb.vkey
        self._blank = re.compile(rf"^( *)({'|'.join(self._values)})=''$", re.MULTILINE)

    def __contains__(self, path: str) -> bool:
        return path in self._texts

    def answer(self, path: str, url: str, stranger: str = "") -> Answer:
        """One of them, for whoever used this URL of ours; UnknownHost if that is not known, Misdirected if it
        has the name of a ``stranger``.

        It comes from anywhere, and the script is run: nothing but a host and a port must be in it.
        """
        url = self._public_url or url
        if not url and stranger:
            raise Misdirected(
                f"{stranger} is not known to be a name of this host: ask by its address, or have whoever runs"
                f" it set public_url to http://{stranger}"
            )
        if not url:
            raise UnknownHost("the request's Host is not one HOST[:PORT] (see the setting public_url)")
        values = self._values | {"proxy": url}
        text = self._blank.sub(
            lambda blank: f"{blank[1]}{blank[2]}={shlex.quote(values[blank[2]])}", self._texts[path]
        )
        kind = f"text/{'x-shellscript' if path.endswith('.sh') else 'plain'}; charset=utf-8"
        return Answer(text.encode(), kind, UNCACHEABLE, "detail=page", Result.HIT)
