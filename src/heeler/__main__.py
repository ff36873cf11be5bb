"""``python -m heeler`` is the ``heeler`` command."""

import sys

from heeler.cli import run

if __name__ == "__main__":
    sys.exit(run())
