"""``python -m goproxy_vm``: the same as ``goproxy-vm``."""

import sys

from goproxy_vm.cli import main

sys.exit(main())
