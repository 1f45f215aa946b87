"""A Go module proxy for every VM on a host."""

__version__ = "0.1.0"
