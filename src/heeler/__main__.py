"""``python -m heeler`` is the ``heeler`` command."""

import sys

from heeler.cli import main

if __name__ == "__main__":
    sys.exit(main())
