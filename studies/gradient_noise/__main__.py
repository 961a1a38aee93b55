"""Runs the study from its folder: ``python studies/gradient_noise``."""

import sys
from pathlib import Path

from hiddenkey.cli.main import main

sys.path[0] = str(Path(__file__).parents[1])
sys.exit(main(["analyze", "gradient-noise", *sys.argv[1:]]))
