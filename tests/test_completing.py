"""What a shell is told when Tab is pressed: argcomplete's protocol, without a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("argcomplete", reason="requirements-dev.txt has it")
ROOT = Path(__file__).parent.parent


def asked(line, tmp_path, *python):
    """What may come at the end of a command line, and how the answer ended."""
    answer = tmp_path / "answer"
    answer.unlink(missing_ok=True)
    environment = os.environ | {
        "_ARGCOMPLETE": "2", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "COMP_LINE": line,
        "COMP_POINT": str(len(line)), "COMP_TYPE": "9",
    }  # fmt: skip
    words = [sys.executable, *(python or [str(ROOT / "main.py")])]
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    return (answer.read_text() if answer.exists() else "").split(), ended


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("", {"train", "record", "split", "score", "plot", "-h", "--help"}),
        ("tra", {"train"}),
        ("train ru", {"runs/"}),
        ("train runs/x --mo", {"--model", "--momentum"}),
        ("train runs/x --model ", {"mlp", "conv", "lenet", "alexnet"}),
        ("train runs/x --datasets MNIST Fa", {"FashionMNIST", "FashionMNIST@permuted"}),
        ("train runs/x --seeds ", set()),
        ("split runs/x --method b", {"balanced"}),
        ("plot runs/x --method cl", {"clusters"}),
        ("score runs/x --against runs/", {"runs/mine/"}),
    ],
)
def test_tab_completes(tmp_path, line, answers):
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/file").touch()
    found, ended = asked(f"python main.py {line}", tmp_path)
    assert set(found) == answers and (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_without_argcomplete_nothing_is_run(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['argcomplete'] = None; "
        "import main; sys.exit(main.main(['train', 'run']))"
    )
    found, ended = asked("python main.py tra", tmp_path, "-c", code)
    assert found == [] and ended.returncode == 1 and not (tmp_path / "run").exists()
    assert ended.stderr == "completion needs a package that is not installed: python -m pip install argcomplete\n"


def test_the_program_bears_the_mark_by_which_a_shell_asks():
    assert b"PYTHON_ARGCOMPLETE_OK" in (ROOT / "main.py").read_bytes()[:1024]
