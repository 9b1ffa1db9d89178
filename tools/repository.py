"""Import this to make `benchmarks` and `demo`, which the wheel leaves out, importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
