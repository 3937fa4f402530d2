"""``main.py`` beside generated data sets: ``python tests/registered.py DATA WORDS...``, their files in DATA."""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from processes import register_all  # noqa: E402

from spatial import process  # noqa: E402

if __name__ == "__main__":
    process.on_signals(process.at_once)  # as main.py's first lines do
    register_all(Path(sys.argv.pop(1)))
    os.environ["OMP_NUM_THREADS"] = "1"
    runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
