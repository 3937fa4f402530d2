"""Known holes of the packages that are installed and of the oldest that requirements allow, as pip-audit finds them.

Exit status 0: none is known; 1: some are; 2: the database does not answer, so nothing is known.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LISTS = ("requirements.txt", "requirements-dev.txt")


def lowest() -> str:
    """Every requirement, pinned to its lower bound."""
    lines = [line for name in LISTS for line in (ROOT / name).read_text().splitlines()]
    bounds = [re.fullmatch(r"([\w-]+)>=([\w.]+)", line.strip()) for line in lines]
    return "".join(f"{bound[1]}=={bound[2]}\n" for bound in bounds if bound)


def audit(what: str, *words: str) -> int:
    """Ask of some packages, and say in a line each what came of it."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"{what}: the database of known holes does not answer ({reason})")
        return 2
    known = [package for package in packages if "vulns" in package]
    if not known:
        print(f"{what}: the database of known holes knows none of {len(packages)} packages, so it was not reached")
        return 2
    holes = [(package, hole) for package in known for hole in package["vulns"]]
    for package, hole in holes:
        print(f"{what}: {package['name']} {package['version']}: {hole['id']}, mended in {hole['fix_versions']}")
    print(f"{what}: {len(holes)} known holes in {len(known)} packages, {len(packages) - len(known)} unknown")
    return 1 if holes else 0


def main() -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as bounds:
        bounds.write(lowest())
        bounds.flush()
        oldest = audit("lower bounds", "--no-deps", "--disable-pip", "--requirement", bounds.name)
    return max(audit("installed", "--local", "--skip-editable"), oldest)


if __name__ == "__main__":
    sys.exit(main())
