"""What maintenance/ knows of building and installing."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "maintenance"))
