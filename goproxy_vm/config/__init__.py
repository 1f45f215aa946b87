"""One frozen tree of settings, and how it is loaded."""

from goproxy_vm.config.load import Check, Loaded, Origin, did_you_mean, environment_name, flag_name, load
from goproxy_vm.config.settings import Key, Settings, keys
from goproxy_vm.config.sumdb import SumdbSpec
from goproxy_vm.config.values import Address, Network

__all__ = [
    "Address",
    "Check",
    "Key",
    "Loaded",
    "Network",
    "Origin",
    "Settings",
    "SumdbSpec",
    "did_you_mean",
    "environment_name",
    "flag_name",
    "keys",
    "load",
]
