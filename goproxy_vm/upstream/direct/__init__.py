"""Modules straight from version control: what a proxy would answer, made by the go command on this host.

:class:`~goproxy_vm.upstream.direct.direct.Direct` is the face. Why it is done so:
docs/decisions/0014-direct.md.
"""
