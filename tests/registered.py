"""``main.py`` beside generated data sets: ``python tests/registered.py DATA WORDS...``, their files in DATA."""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import generated  # noqa: E402
from processes import SIZES  # noqa: E402

from spatial import sources  # noqa: E402

if __name__ == "__main__":
    data = Path(sys.argv.pop(1))
    for seed, (name, sizes) in enumerate(SIZES.items()):
        sources.DATASETS[name], files = generated.make(seed=seed, **sizes)
        for file, content in files.items():
            path = data / name / "raw" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file():
                path.write_bytes(content)
    os.environ["OMP_NUM_THREADS"] = "1"
    runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
