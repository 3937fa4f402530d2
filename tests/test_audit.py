"""``make audit`` says what is known of the packages, and when nothing is."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

SOUND = {"name": "torch", "version": "2.11", "vulns": []}
HOLED = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.0"]}]}
UNKNOWN = {"name": "dvc", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([SOUND, UNKNOWN], 0, "0 known holes in 1 packages, 1 unknown"),
        ([SOUND, HOLED], 1, "pillow 1.0: CVE-1, mended in ['2.0']"),
        ([UNKNOWN], 2, "knows none of 1 packages, so it was not reached"),
        (None, 2, "does not answer (no route to host)"),
    ],
)
def test_what_is_found_is_said_and_so_is_that_nothing_was_asked(monkeypatch, capsys, packages, status, words):
    said = "" if packages is None else json.dumps({"dependencies": packages})

    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, said, "traceback\nno route to host\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main() == status
    assert words in capsys.readouterr().out


def test_every_requirement_of_the_program_has_a_lower_bound():
    names = {line.split(">=")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert names <= {line.split("==")[0] for line in audit.lowest().splitlines()}
    assert "torch==2.11\n" in audit.lowest()
