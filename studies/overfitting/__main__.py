"""Runs the study from its folder: ``python studies/overfitting``."""

import sys
from pathlib import Path

from hiddenkey.cli.main import main

sys.path[0] = str(Path(__file__).parents[1])
sys.exit(main(["analyze", "overfitting", *sys.argv[1:]]))
