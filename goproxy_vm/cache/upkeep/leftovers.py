"""Files that should be gone and could not be removed: they take room until they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.cache import tree

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.cache.admission import Admission
    from goproxy_vm.cache.health import Health


class Leftovers:
    """Counted as held, and tried again: an I/O error may pass, and a budget that forgets them is passed."""

    def __init__(self, admission: Admission, health: Health) -> None:
        self._admission = admission
        self._health = health
        self._files: dict[Path, tuple[Path, int]] = {}

    def keep(self, file: Path, top: Path, size: int, error: OSError) -> None:
        """A file below ``top`` of ``size`` bytes, which nobody else counts now, could not be removed."""
        self.replaced(file)
        self._files[file] = top, size
        self._admission.set_aside(size)
        self._health.failed(error)

    def replaced(self, file: Path) -> None:
        """In its place lies something else now, or nothing."""
        _, size = self._files.pop(file, (None, 0))
        if size:
            self._admission.clear(size)

    def files(self) -> list[tuple[Path, Path]]:
        """What is left, each with its top."""
        return [(file, top) for file, (top, _) in self._files.items()]


def remove(file: Path, top: Path) -> None:
    """Remove one of them (blocking). OSError: it is still there."""
    if file.parent == top:
        tree.remove_all(file.name, top)
    else:
        tree.remove(file, top)
