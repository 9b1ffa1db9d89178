import sys
from pathlib import Path

# For `recording`, which tests/peers imports too.
sys.path.insert(0, str(Path(__file__).parent))
