"""Reads zips off the event loop: cheap ones in a thread, others in niced processes."""

from goproxy_vm.prover.pool import ZipProver
from goproxy_vm.prover.repacker import Repacker
from goproxy_vm.prover.turns import TurnClaim, Turns

__all__ = ["Repacker", "TurnClaim", "Turns", "ZipProver"]
