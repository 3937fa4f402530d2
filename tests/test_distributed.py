"""Several processes share a run: what they tell each other, and that together they are one."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from generated import write_tree
from helpers import command

from spatial import commands, distributed, process
from spatial.distributed import SOLO, World
from spatial.errors import UserError

ROOT = Path(__file__).parent.parent


def start(*words, folder, count=2, each=((), ()), **environment):
    """The processes that torchrun would start, on this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    known = {
        **os.environ, "XDG_CACHE_HOME": str(folder), "MASTER_ADDR": "localhost", "MASTER_PORT": port,
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        **environment,
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *words, *each[rank]], env={**known, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]  # fmt: skip


def ended(started):
    """Exit status, stdout and stderr of each."""
    texts = [each.communicate(timeout=120) for each in started]
    return [(each.returncode, *text) for each, text in zip(started, texts, strict=True)]


TALK = """
import json, sys, torch
from spatial.distributed import device, joined
from spatial.errors import UserError
with joined(device("cpu")) as world:
    own = world.number
    said = {"number": own, "count": world.count, "mark": list(world.mark)}
    said["sum"] = world.sum(torch.tensor([1, own])).tolist()
    said["float"] = world.sum(torch.tensor([0.1])).dtype == torch.float64
    said["minimum"] = world.minimum(5 - own)
    values = torch.full((3,), float(own))
    world.copy([values])
    said["copy"] = values.tolist()
    told = world.told({"a": torch.arange(3), "b": None} if own == 0 else "nothing")
    said["told"] = [told["a"].tolist(), told["b"]]
    said["gathered"] = [each["x"].tolist() for each in world.gathered({"x": torch.ones(own + 1)})]
    said["leading"] = world.leading(lambda: f"by {own}")
    def refuse():
        raise UserError("no such folder")
    try:
        world.leading(refuse)
    except UserError as error:
        said["error"] = str(error)
    said["split"] = [world.split(torch.arange(n)[:, None], 4)[0][:, 0].tolist() for n in (11, 3)]
    said["part"] = world.part(torch.arange(5)[:, None])[:, 0].tolist()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    results = ended(start("-c", TALK, folder=tmp_path_factory.mktemp("cache")))
    assert [status for status, *_ in results] == [0, 0], results
    return [json.loads(out) for _, out, _ in results]


@pytest.mark.parametrize(
    ("what", "first", "second"),
    [
        ("count", 2, 2),
        ("mark", [], ["process 1"]),
        ("sum", [2, 1], [2, 1]),
        ("float", True, True),
        ("minimum", 4, 4),
        ("copy", [0, 0, 0], [0, 0, 0]),
        ("told", [[0, 1, 2], None], [[0, 1, 2], None]),
        ("gathered", [[1], [1, 1]], [[1], [1, 1]]),
        ("leading", "by 0", "by 0"),
        ("error", "no such folder", "no such folder"),
        ("split", [[0, 1, 4, 5], [0]], [[2, 3, 6, 7], [1]]),
        ("part", [0, 1, 2], [3, 4]),
    ],
)
def test_what_processes_tell_each_other(said, what, first, second):
    assert [each[what] for each in said] == [first, second]


def test_alone_everything_stays_as_it_is():
    index, values = torch.arange(11)[:, None], torch.rand(3)
    assert SOLO.first and SOLO.mark == ()
    assert SOLO.split(index, 4) == (index, 4)
    assert torch.equal(SOLO.part(index), index)
    assert SOLO.sum(values) is values and SOLO.minimum(3) == 3 and SOLO.told(values) is values
    assert SOLO.gathered("own") == ["own"] and SOLO.leading(lambda: 7) == 7


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("n", [2, 7, 12, 25])
def test_a_step_is_dealt_out_once(n, count):
    """Process by process the shares of a step are its rows, in order; none is seen twice."""
    if n < count:
        return
    shares = [World(number, count).split(torch.arange(n)[:, None], 12) for number in range(count)]
    sizes = {size for _, size in shares}
    assert len(sizes) == 1
    size = sizes.pop()
    steps = [torch.cat([rows.split(size)[step] for rows, _ in shares]) for step in range(len(shares[0][0]) // size)]
    kept = torch.cat(steps)[:, 0].tolist()
    assert kept == list(range(len(kept)))
    assert len(kept) == (n // 12 * 12 if n >= 12 else n // count * count)


@pytest.mark.parametrize("count", [2, 3])
def test_every_scored_row_belongs_to_one_process(count):
    rows = torch.arange(10)[:, None]
    assert torch.equal(torch.cat([World(number, count).part(rows) for number in range(count)]), rows)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(process, "COUNT", 3)
    monkeypatch.setattr(process, "COUNT_HERE", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(UserError, match="3 processes on a machine with 2 cuda devices: use torchrun "):
        distributed.device("cuda")
    monkeypatch.setattr(process, "COUNT_HERE", 2)
    monkeypatch.setattr(process, "NUMBER_HERE", 1)
    assert distributed.device("cuda") == torch.device("cuda", 1)
    assert distributed.device("cpu") == torch.device("cpu")


# Whole runs.

COMMON = "--datasets ImageNet --resize 16 --batch-size 8 --workers 0 --device cpu"
MLP = (
    "--model mlp --layers 12 9 --optimizer SGD --lr 0.05 --norm l1 --transport 3 --transport-per neuron --proximity 3 "
    "--weight-penalty 0.1 --outputs task"
)
CASES = {
    "mlp": MLP,
    "parts": f"{MLP} --accumulate 2",
    "lenet": "--model lenet --lr 0.05",
    "alexnet": "--model alexnet --resize 63 --locality plane",
    "adam": "--model mlp --layers 9 9 --locality plane --weight-decay 0.01 --warmup 1 --schedule cosine --epochs 2",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Images for 6 steps, and 13 to score: an odd number."""
    root = write_tree(tmp_path_factory.mktemp("tree"), classes=3, train=16, val=4, size=70)
    (root / "val/class-2/extra.jpg").write_bytes((root / "val/class-2/2-0.jpg").read_bytes())
    return root


def train(tree, folder, words, count=2, **environment):
    words = ["main.py", "train", str(folder), "--root", str(tree), *COMMON.split(), *words.split()]
    return start(*words, folder=folder.parent, count=count, **environment)


def state(folder):
    return torch.load(folder / "weights/seed-0.pt", weights_only=True)["state"]


def history(folder):
    with (folder / "history.csv").open() as file:
        return [row | {"seconds": ""} for row in csv.DictReader(file)]


RARER = ("parts", "adam", "alexnet", "lenet")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) if name in RARER else name for name in CASES]
)
def both(request, tree, tmp_path_factory):
    """The run of one process and that of two, and what they said."""
    folder = tmp_path_factory.mktemp("runs")
    words = f"--epochs 1 {CASES[request.param]}"
    results = {count: ended(train(tree, folder / str(count), words, count)) for count in (1, 2)}
    assert all(status == 0 for each in results.values() for status, *_ in each), results
    return request.param, folder, results


def test_two_processes_come_to_the_weights_of_one(both):
    name, folder, _ = both
    if name in ("lenet", "alexnet"):
        pytest.skip("dropout and batch norms of their own")
    one, two = state(folder / "1"), state(folder / "2")
    assert list(one) == list(two)
    # Adam divides by the size of a gradient, and so magnifies its rounding
    bound = 1e-4 if name == "adam" else 1e-6
    assert max((one[key] - two[key]).abs().max().item() for key in one) < bound
    for alone, shared in zip(history(folder / "1"), history(folder / "2"), strict=True):
        for column in ("accuracy", "top5", "transport", "proximity", "weight_penalty", "loss"):
            assert float(alone[column]) == pytest.approx(float(shared[column]), rel=1e-3)


def test_every_image_is_counted_once(both):
    _, folder, _ = both
    for row in history(folder / "2"):
        images = 48 if row["subset"] == "train" else 13
        for column in ("accuracy", "top5"):
            count = float(row[column]) * images
            assert count == pytest.approx(round(count), abs=1e-3)
    assert float(history(folder / "2")[0]["top5"]) == 1  # of 3 classes


def test_one_process_speaks_and_writes(both):
    name, folder, results = both
    (_, first, said), (_, second, error) = results[2]
    assert first.startswith("seed 0  epoch 1/") and second == "" and error == ""
    assert ("each of the 2 processes has statistics of its own images" in said) == (name in ("lenet", "alexnet"))
    assert json.loads((folder / "2/environment.json").read_text())["processes"] == 2
    configs = [json.loads((folder / count / "config.json").read_text()) for count in "12"]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch-size 9", "--batch-size 9 is that of all 2 processes: give a multiple of 2, such as 8 or 10"),
        pytest.param(
            "--batch-size 8 --accumulate 8",
            "--accumulate 8: each of 2 processes has 4 images of a step",
            marks=pytest.mark.slow,
        ),
        pytest.param("--seeds 2 --replicas together", "--replicas together", marks=pytest.mark.slow),
        ("--model lenets", "unknown value 'lenets': did you mean lenet?"),
        ("--root /nowhere", "/nowhere: no such folder"),
    ],
)
def test_a_mistake_is_said_once(tree, tmp_path, words, message):
    results = ended(train(tree, tmp_path / "run", f"--model mlp --layers 9 {words}"))
    assert [status for status, *_ in results] == [2, 2]
    (_, _, first), (_, _, second) = results
    assert message in first
    assert first.count("\n") == 1 and second == ""
    assert not (tmp_path / "run").exists()


def test_other_commands_are_not_shared(tmp_path):
    results = ended(start("main.py", "score", str(tmp_path / "run"), folder=tmp_path))
    assert [status for status, *_ in results] == [2, 2]
    assert "call it without torchrun" in results[0][2] and results[1][2] == ""


@pytest.mark.parametrize(
    ("break_it", "words", "statuses", "said"),
    [
        ("a folder that cannot be made", "", (2, 2), ("No such file or directory", "")),
        pytest.param(
            "another folder of images",
            "--trust-images",
            (1, 2),
            ("another process has ended", "images are not those"),
            marks=pytest.mark.slow,
        ),
        ("an image that breaks", "--trust-images", (1, 2), ("another process has ended", "can no longer be decoded")),
    ],
)
def test_what_one_process_meets_ends_them_all_in_a_line_each(tree, tmp_path, break_it, words, statuses, said):
    """Whatever one of them meets by itself, none goes on, hangs, or shows a traceback."""
    folder, roots = tmp_path / "run", [tree, tree]
    if break_it == "a folder that cannot be made":
        folder = Path("/proc/run")
    elif break_it == "another folder of images":
        roots[1] = write_tree(tmp_path / "other", classes=3, train=2, val=2, size=20)
    else:
        roots[1] = shutil.copytree(tree, tmp_path / "copy")
        for path in (roots[1] / "train").rglob("*.jpg"):  # of the size that it was
            path.write_bytes(b"\0" * path.stat().st_size)
    started = start(
        *["main.py", "train", str(folder), *COMMON.split(), *MLP.split(), "--epochs", "2", *words.split()],
        folder=tmp_path,
        each=[["--root", str(root)] for root in roots],
    )
    results = ended(started)
    assert tuple(status for status, *_ in results) == statuses, results
    for (_, _, error), expected in zip(results, said, strict=True):
        assert expected in error and error.count("\n") == (1 if expected else 0), error


@pytest.mark.parametrize(
    "words",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:15257: Connection reset by peer.",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:15257",
    ],
)
def test_torchs_words_for_a_process_that_has_ended(tmp_path, monkeypatch, capsys, words):
    """Which of them comes, where the other ended in the middle of a step, depends on the moment."""

    def reset(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(process, "COUNT", 2)
    monkeypatch.setattr(commands.train, "run", reset)
    assert command("train", tmp_path / "run") == 1
    assert capsys.readouterr().err == (
        "main.py train: error: process 0: another process has ended, and so does this one\n"
    )


@pytest.mark.slow
def test_killed_processes_resume_in_the_midst_of_an_epoch(tree, tmp_path):
    """To the same end as uninterrupted ones; another number of processes is refused."""
    words = "--model lenet --lr 0.05 --epochs 12 --save-every 1"
    whole = ended(train(tree, tmp_path / "whole", words))
    assert [status for status, *_ in whole] == [0, 0], whole
    started = train(tree, tmp_path / "cut", words)
    checkpoint = tmp_path / "cut/resume/seed-0.pt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    for each in started:
        each.send_signal(signal.SIGKILL)
    ended(started)
    at = torch.load(checkpoint, weights_only=True)
    assert at["count"] == 2 and at["epoch"] < 12 and len(at["processes"]) == (2 if at["step"] else 0)
    (refused,) = ended(train(tree, tmp_path / "cut", f"{words} --resume", count=1))
    assert refused[0] == 2 and "2 processes trained it and now there are 1" in refused[2]
    resumed = ended(train(tree, tmp_path / "cut", f"{words} --resume"))
    assert [status for status, *_ in resumed] == [0, 0], resumed
    assert all(torch.equal(value, state(tmp_path / "cut")[key]) for key, value in state(tmp_path / "whole").items())
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
