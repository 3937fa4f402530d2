"""``train NEW --like OLD`` repeats a run; the same numbers come twice."""

import pytest
import torch
from helpers import NAMES, command, last, reoptioned, results, small, train_options, tree

from spatial import distributed, experiment, storing
from spatial.runs import Run

CASES = {
    "mlp": "--transport 1 --proximity 0.3 --norm l1 --outputs task --where 1 2 --position-lr 0.07 --seeds 2",
    "sequential": "--input sequential --order blocked --holdout 20 --weight-penalty 1e-05 --warmup 0.5",
    "lenet": "--model lenet --resize 16 --locality plane --metric cityblock --normalize --no-batch-norm",
    "conv": "--model conv --input concatenate --activation Tanh --schedule cosine --accumulate 2 --deterministic",
}


@pytest.mark.parametrize("words", CASES.values(), ids=list(CASES))
def test_a_run_like_another_is_the_same(root, tmp_path, words):
    old, new = Run(tmp_path / "old"), Run(tmp_path / "new")
    assert command("train", old.folder, *small(root, *words.split())) == 0
    assert command("train", new.folder, "--like", old.folder) == 0
    assert results(new) == results(old)


def test_what_is_given_takes_the_place_of_what_the_other_had(root, tmp_path):
    old, new, plain = (Run(tmp_path / name) for name in ("old", "new", "plain"))
    assert command("train", old.folder, *small(root, "--seed", "3", "--layers", "5")) == 0
    own = ["--seed", "4", "--layers", "6", "7", "--no-deterministic", "--norm", "l1"]
    assert command("train", new.folder, *own, "--like", old.folder) == 0
    assert command("train", plain.folder, *small(root, *own)) == 0
    assert results(new) == results(plain)


@pytest.fixture
def old(root, tmp_path):
    assert command("train", tmp_path / "old", *small(root)) == 0
    return Run(tmp_path / "old")


WRONG = {
    "an unknown option": ({"lrr": 1}, "config.json: unknown option 'lrr': did you mean lr?"),
    "not of an option's kind": ({"lr": "abc"}, "old: argument --lr: 'abc' is not a number"),
    "an option that is none": ({"resume": True}, "unknown option 'resume'"),
    "an option in a list": ({"layers": ["12", "--overwrite"]}, "config.json: layers"),
    "a table": ({"layers": {"a": 1}}, "config.json: layers"),
    "code": ({"norm": "__import__('os').system('touch harm')"}, "norm"),
    "an option for another's value": (
        {"activation": "--overwrite"},
        "argument --activation: unknown value '--overwrite'",
    ),
    "a default that has changed": ({"position_lr": 0.0}, "out of range"),
    "an option that nothing reads": ({"order": "random"}, "--order is read only with --input sequential"),
    "a false option that is none": ({"compile": 0.5}, "argument --compile"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_config_is_data_and_its_mistakes_are_named(old, tmp_path, capsys, case):
    options, message = WRONG[case]
    reoptioned(old, **options)
    before = tree(tmp_path)
    assert command("train", tmp_path / "new", "--like", old.folder, "--overwrite") == 2
    said = last(capsys)
    assert message in said and said.startswith("main.py train: error: ")
    assert tree(tmp_path) == before


def test_another_model_is_refused(old, tmp_path, capsys):
    assert command("train", tmp_path / "new", "--like", old.folder, "--model", "conv") == 2
    assert "--model conv" in last(capsys) and not (tmp_path / "new").exists()


def test_other_data_are_refused(old, tmp_path, capsys):
    config = storing.read_json(old.config_file)
    config["data"][NAMES[0]] = {"images": "another"}
    storing.save_json(old.config_file, config)
    assert command("train", tmp_path / "new", "--like", old.folder) == 2
    assert last(capsys) == (
        f"main.py train: error: --like: the files of {NAMES[0]} are not those of the run to be repeated"
    )
    assert not (tmp_path / "new").exists()
    assert command("train", tmp_path / "new", "--like", old.folder, "--datasets", NAMES[1]) == 0


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert command("train", tmp_path / "new", "--like", tmp_path / "nothing") == 2
    assert "nothing: no such folder" in last(capsys)


def test_deterministic_is_said_to_torch_while_it_trains_and_no_longer(root, tmp_path, monkeypatch):
    seen = []

    def fit(*given, **options):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        return iter(())

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(experiment.training, "fit", fit)
    for number, words in enumerate([[], ["--deterministic"]]):
        experiment.train(tmp_path / str(number), train_options(root, *words))
    assert seen == [(False, True), (True, False)]
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    with distributed.repeatable(True):
        assert distributed.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
