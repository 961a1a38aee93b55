"""``python -m hiddenkey``: the command line, where no script ``hiddenkey`` is on the path."""

from __future__ import annotations

import sys

from hiddenkey.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
