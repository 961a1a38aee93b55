"""Runs a command from its folder: ``python maintenance/model_tables architectures``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

if __name__ == "__main__":
    from model_tables.main import main

    sys.exit(main(sys.argv[1:]))
