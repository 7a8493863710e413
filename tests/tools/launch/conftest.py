import sys
from pathlib import Path

# As for `python tools/launch/NAME.py`, whose folder Python searches first.
sys.path.insert(0, str(Path(__file__).parents[3] / "tools" / "launch"))
