"""``python -m hwnas`` and the console script ``hwnas``."""

from __future__ import annotations

import os
import sys

# Waiting threads that spin make training tens of times slower as soon as anything else wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["main"]


def main() -> int:
    """Run the command line on `sys.argv`; return the exit code.

    0 is success, 2 a mistake of the user (one sentence on stderr), 130 an interruption by Ctrl-C.
    """
    try:
        from hwnas.cli import main as cli

        return cli()
    except KeyboardInterrupt:  # before any command had started
        return 130


if __name__ == "__main__":
    sys.exit(main())
