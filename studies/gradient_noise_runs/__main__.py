"""Runs the study from its folder: ``python studies/gradient_noise_runs``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

if __name__ == "__main__":
    from study_main import main

    sys.exit(main(["gradient_noise_runs", *sys.argv[1:]]))
