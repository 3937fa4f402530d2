"""What the pages tell people to type is typed here, beside small generated data sets of the names that it asks for."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import generated
import pytest
from helpers import command

from spatial import commands

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SIZES = {"train": 60, "test": 24}


def blocks(page, language):
    return [text for each, text in BLOCK.findall(page.read_text()) if each == language]


def lines(text):
    """Command lines, continued ones as one."""
    return [line.strip() for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]


def called(text):
    """The words of every call of main.py in a block of shell; variables that are no plain text are 0."""
    known = dict(re.findall(r'^(\w+)="(.*)"$', text, re.M))
    for line in lines(text):
        if found := re.search(r"main\.py ([^&|]*)", line.split(" #")[0]):
            yield shlex.split(re.sub(r"\$(\w+)", lambda variable: known.get(variable[1], "0"), found[1]))


CALLS = [
    (page.name, words) for page in PAGES for each in ("sh", "bash") for text in blocks(page, each)
    for words in called(text)
]  # fmt: skip


@pytest.mark.parametrize(("page", "words"), CALLS, ids=[" ".join(words)[:60] for _, words in CALLS])
def test_every_command_line_parses(page, words):
    if "--like" not in words:  # which reads the run
        commands.parse(words)


def test_there_are_command_lines_and_errors():
    assert {words[0] for _, words in CALLS} == {"train", "record", "split", "score", "plot"}
    assert len(CALLS) > 15 and len(SAID) > 10


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the data sets of the pages, small, and runs/mine as troubleshooting.md has it."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        for seed, name in enumerate(("MNIST", "FashionMNIST")):
            generated.register(patch, folder / "data", name, seed=seed, size=28, classes=10, **SIZES)
        patch.chdir(folder)
        assert command("train", "runs/mine", "--layers", 8, "--epochs", 1) == 0
        yield folder


def sessions(page):
    """Commands and what they say, of a page's ``console`` blocks."""
    for text in blocks(page, "console"):
        for part in text.split("$ ")[1:]:
            line, _, said = part.partition("\n")
            yield line, said


SAID = list(sessions(ROOT / "docs" / "troubleshooting.md"))


@pytest.mark.parametrize(("line", "said"), SAID, ids=[line[:70] for line, _ in SAID])
def test_mistakes_are_answered_as_the_page_says(workplace, capsys, line, said):
    assert command(*shlex.split(line)[2:]) == 2
    expected = ".*".join(map(re.escape, said.split("...")))
    assert re.fullmatch(expected, capsys.readouterr().err), expected


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.name)
def test_blocks_run_from_top_to_bottom(page, tmp_path):
    """As bash runs them, beside generated data (documented.py), make in a dry run, dvc listing stages; then Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    python, documented = sys.executable, ROOT / "tests" / "documented.py"
    shims = {
        "python": f'exec {python} {documented} "$@"',
        "torchrun": f'shift 2; exec {python} -m torch.distributed.run --nproc-per-node 2 {documented} "$@"',
        "make": f"exec {shutil.which('make')} -C {ROOT} -n \"$@\"",
        "dvc": f'cd {ROOT} && exec {python} -m dvc stage list "${{@:2}}"',
    }  # fmt: skip
    for name, script in shims.items():
        (tools / name).write_text(f"#!/bin/bash\n{script}\n")
        (tools / name).chmod(0o755)
    for name in ("main.py", "spatial", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment |= {"CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(tmp_path / "cache"), "MPLBACKEND": "Agg"}
    for text in blocks(page, "sh"):
        done = subprocess.run(["bash", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "error" not in done.stderr, text + done.stdout + done.stderr
    for text in blocks(page, "python"):
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, text + done.stderr
