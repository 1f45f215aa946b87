"""One frozen tree of settings, and how it is loaded."""

from goproxy_vm.config.address import Address
from goproxy_vm.config.load import (
    ENVIRONMENT_PREFIX,
    Check,
    File,
    Loaded,
    Shown,
    default_files,
    environment_name,
    file_of_settings,
    flag_name,
    load,
)
from goproxy_vm.config.settings import Key, Settings, keys
from goproxy_vm.config.sumdb import SumdbSpec
from goproxy_vm.config.values import Network

__all__ = [
    "ENVIRONMENT_PREFIX",
    "Address",
    "Check",
    "File",
    "Key",
    "Loaded",
    "Network",
    "Settings",
    "Shown",
    "SumdbSpec",
    "default_files",
    "environment_name",
    "file_of_settings",
    "flag_name",
    "keys",
    "load",
]
