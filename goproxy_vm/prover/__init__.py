"""Checks zips off the event loop: small ones in a thread, large ones in a niced worker process."""

from goproxy_vm.prover.pool import ZipProver

__all__ = ["ZipProver"]
