"""Checks zips off the event loop: cheap ones in a thread, others in a niced worker process."""

from goproxy_vm.prover.pool import ZipProver
from goproxy_vm.prover.turns import Turns

__all__ = ["Turns", "ZipProver"]
