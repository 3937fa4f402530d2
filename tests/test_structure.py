"""What holds the program together: who imports whom, what ``--help`` costs, names that are written twice."""

import ast
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from spatial import (
    commands,
    data,
    drawing,
    locality,
    models,
    plotting,
    positions,
    recording,
    runs,
    sources,
    splitting,
    tasks,
    training,
)
from spatial.commands import COMMANDS
from spatial.commands import plot as plot_command
from spatial.commands import record as record_command
from spatial.commands import split as split_command
from spatial.commands import train as train_command
from spatial.costs import NORMS, PER
from spatial.runs import Run

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "spatial"

# Each module imports only from those above it. The list may grow, the direction may not turn.
ORDER = (
    "errors", "process", "progress", "locking", "seeds", "compiling", "positions", "kernels", "layers", "locality",
    "graph", "tracing", "costs", "models", "formats", "storing", "sources", "folders", "data", "tasks", "streaming",
    "loading", "distributed", "metrics", "runs", "following", "objective", "training", "recording", "maps", "splitting",
    "scoring", "comparing", "environment", "scalars", "resuming", "experiment", "drawing", "heatmaps", "plotting",
    "reporting", "sheet", "commands",
)  # fmt: skip
NAMES = [command.__name__.rsplit(".", 1)[-1] for command in COMMANDS]


@cache
def imported(path):
    """The dotted names of all modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def scripts(path):
    """The scripts of the experiments that a file imports."""
    names = {name.replace(".", "/") for name in imported(path) if name.startswith("experiments.")}
    return {file for name in names if (file := ROOT / f"{name}.py").is_file()}


def own(path):
    """The modules of this package that a file imports, as names of ``ORDER``."""
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("spatial.")}
    return {part for part in parts if (PACKAGE / f"{part}.py").is_file() or (PACKAGE / part).is_dir()}


def test_every_module_has_its_place_in_the_order():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} | {"commands"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER[:-1])
def test_a_module_imports_only_from_those_above_it(module):
    assert own(PACKAGE / f"{module}.py") <= set(ORDER[: ORDER.index(module)])


def test_data_need_nothing_but_seeds_locks_and_errors():
    assert closure(PACKAGE / "data.py") == {
        PACKAGE / f"{name}.py" for name in ("data", "sources", "formats", "locking", "seeds", "errors")
    }


def test_the_package_itself_imports_nothing():
    assert own(PACKAGE / "__init__.py") == set()


def test_argparse_lives_in_the_commands_only():
    users = {
        path.relative_to(ROOT).parts[:2]
        for path in [ROOT / "main.py", *PACKAGE.rglob("*.py")]
        if "argparse" in imported(path)
    }
    assert users <= {("main.py",), ("spatial", "commands")}


@pytest.mark.parametrize("path", sorted((PACKAGE / "commands").glob("*.py")), ids=lambda path: path.stem)
def test_commands_import_torch_inside_functions_only(path):
    module = ast.parse(path.read_text())
    module.body = [node for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)]
    top = {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom):  # `from spatial import process` is the module's own import
            top |= {f"spatial.{alias.name}" for alias in node.names} if node.module == "spatial" else {node.module}
    light = {"spatial.commands", "spatial.commands.types", "spatial.errors", "spatial.process"}
    assert {name for name in top if name.startswith("spatial")} <= light
    assert not top & {"torch", "numpy", "matplotlib", "sklearn", "scipy"}


HELP = """
import contextlib, io, json, sys
import main
texts = {}
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main.main(words)
    texts[" ".join(words)] = out.getvalue()
print(json.dumps([texts, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def helped():
    """What every ``--help`` says, and the modules that all of them together imported."""
    words = [["--help"], *([name, "--help"] for name in NAMES)]
    ended = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    "heavy",
    [
        "torch",
        "numpy",
        "scipy",
        "sklearn",
        "onnx",
        "matplotlib",
        "tqdm",
        "torchvision",
        "dvc",
        "tensorboard",
        "argcomplete",
    ],
)
def test_help_never_imports(helped, heavy):
    assert heavy not in helped[1]


def test_help_names_every_command(helped):
    assert NAMES == ["train", "record", "split", "score", "plot"]
    assert all(name in helped[0]["--help"] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_shows_every_option_and_how_to_call_it(helped, name):
    text = helped[0][f"{name} --help"]
    assert f"main.py {name} RUN" in text
    assert all(option in text for option in options(name))


@pytest.mark.parametrize("columns", [80, 100, 120, 200])
def test_help_fits_the_terminal_and_its_commands_can_be_typed(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in [[], *([name] for name in NAMES)]:
        with pytest.raises(SystemExit):
            commands.parse([*words, "--help"])
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= min(columns, 120), words
        lines = re.findall(r"^ *(?:python|torchrun) .*main\.py .*$", whole(text), re.MULTILINE)
        typed = [shlex.split(line.partition("main.py ")[2]) for line in lines]
        assert len(typed) >= 2
        for each in typed:
            if not {"COMMAND", "--like"} & {*each}:  # --like reads the run
                check(each)


def whole(text):
    """A text, the lines of one command as one."""
    return re.sub(r" \\\n +", " ", text)


def test_wrapped_help_says_what_the_description_does(capsys, monkeypatch):
    texts = {}
    for columns in ("60", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        for name in NAMES:
            with pytest.raises(SystemExit):
                commands.parse([name, "--help"])
            texts.setdefault(name, []).append(whole(capsys.readouterr().out).replace("# ", "").split())
    assert all(narrow == wide for narrow, wide in texts.values())


@pytest.mark.parametrize("name", NAMES)
def test_help_says_every_default(name):
    """Of an option with a value it says what is so without it, but where nothing is."""
    without = {"--like", "--against", "--relax", "--tensorboard", "--onnx", "--extract", "--trust-images"}
    parser = commands.parse([name, "RUN"]).parser
    formatter = parser._get_formatter()
    for action in parser._actions:
        takes = action.nargs != 0 or "--no-" in " ".join(action.option_strings)
        if action.option_strings and takes and not without & {*action.option_strings}:
            assert "default: " in formatter._get_help_string(action), action.option_strings


def has(name, kind):
    """Whether a network has modules of a kind."""
    side = models.SMALLEST.get(name, 16)
    with torch.device("meta"):
        model = models.MODELS[name](shape=(1, side, side), layers=(9, 9), classes=(2,))
    return any(isinstance(module, kind) for module in model.modules())


WRITTEN_TWICE = {
    "inputs": (train_command.INPUTS, tasks.INPUTS),
    "orders": (train_command.ORDERS, tasks.ORDERS),
    "models": (train_command.MODELS, models.MODELS),
    "data sets": (train_command.DATASETS, sources.DATASETS),
    "defaults": (train_command.DEFAULTS, models.MODELS),
    "localities": (train_command.LOCALITIES, ("none", *positions.SHEETS)),
    "metrics": (train_command.METRICS, locality.METRICS),
    "decays": (train_command.DECAYS, locality.DECAYS),
    "locality on": (train_command.LOCALITY_ON, locality.ON),
    "input positions": (train_command.INPUT_POSITIONS, models.INPUT_POSITIONS),
    "activations": (train_command.ACTIVATIONS, models.ACTIVATIONS),
    "norms": (train_command.NORMS, NORMS),
    "norms of a config.json": (runs.NORMS, NORMS),
    "costs of a config.json": (runs.PER, PER),
    "per": (train_command.PER, PER),
    "positions": (train_command.POSITIONS, training.POSITIONS),
    "outputs": (train_command.OUTPUTS, positions.OUTPUTS),
    "optimizers": (train_command.OPTIMIZERS, training.OPTIMIZERS),
    "momentum": (train_command.MOMENTUM, training.MOMENTUM),
    "replicas": (train_command.REPLICAS, training.REPLICAS),
    "schedules": (train_command.SCHEDULES, training.SCHEDULES),
    "by": (record_command.BY, recording.BY),
    "methods": (split_command.METHODS, splitting.METHODS),
    "kinds": (plot_command.KINDS, plotting.KINDS),
    "starts": (plot_command.STARTS, plotting.STARTS),
    "formats": (plot_command.FORMATS, drawing.FORMATS),
    "normed": (train_command.NORMED, models.NORMED),
    "precisions": (train_command.PRECISIONS, training.PRECISIONS),
    "dropping": (train_command.DROPPING, [name for name in models.MODELS if has(name, _DropoutNd)]),
}


@pytest.mark.parametrize(("written", "known"), WRITTEN_TWICE.values(), ids=list(WRITTEN_TWICE))
def test_names_in_commands_are_those_of_the_library(written, known):
    assert list(written) == list(known)


def test_every_tuple_of_names_in_the_commands_is_in_the_test_above():
    covered = {id(written) for written, _ in WRITTEN_TWICE.values()}
    elsewhere = {"DEVICES", "SUBSETS", "NOT_OPTIONS", "MLP_DEFAULTS", "LOCALITY_DEFAULTS", "READ_BY"}
    for module in COMMANDS:
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, tuple | dict):
                assert id(value) in covered or name in elsewhere, name


def test_seeds_have_one_bound(capsys):
    assert commands.parse(["train", "RUN", "--seeds", str(runs.MOST_SEEDS)]).seeds == runs.MOST_SEEDS
    with pytest.raises(SystemExit):
        commands.parse(["train", "RUN", "--seeds", str(runs.MOST_SEEDS + 1)])
    assert "argument --seeds" in capsys.readouterr().err


def test_the_folder_of_images_has_one_name():
    assert train_command.FOLDER == sources.FOLDER


def test_normed_networks_have_a_batch_norm():
    assert [name for name in models.MODELS if has(name, _BatchNorm)] == list(models.NORMED)


def test_every_network_has_its_defaults_and_reads_what_it_is_said_to_read():
    plain = ["datasets", "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule"]
    for name, defaults in train_command.DEFAULTS.items():
        read = set(inspect.signature(models.MODELS[name]).parameters)
        assert list(defaults) == list(train_command.MLP_DEFAULTS) and set(plain) <= set(defaults)
        for option in ("activation", "dim", "batch_norm"):
            assert (defaults[option] is not None) is (option in read), (name, option)
        for option, names in train_command.READ_BY.items():
            given = {"locality": "prior"}.get(option, option)
            assert (name in names) <= (given in read), (name, option)


def test_the_other_tuples_mean_what_they_say():
    assert record_command.SUBSETS == ("train", "test")
    assert all(hasattr(data.DataSet, subset) for subset in record_command.SUBSETS)
    assert set(train_command.DEVICES) == {"auto", "cpu", "cuda", "mps"}


def options(name):
    """The option strings of a command, ``--help`` left out."""
    parser = commands.parse([name, "RUN"]).parser
    return [word for action in parser._actions for word in action.option_strings if word not in ("-h", "--help")]


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in NAMES for option in options(name)])
def test_every_option_occurs_in_a_test(name, option):
    assert option in words_of_tests()


@cache
def words_of_tests():
    """All words of the string constants of the other tests, as flags."""
    files = [path for path in Path(__file__).parent.glob("*.py") if path.name != "test_structure.py"]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {word for text in texts for word in text.replace("=", " ").replace("_", "-").split()}


ASSIGNMENT = re.compile(r"[A-Z]+=")
STAGES = """
import json
from dvc.repo import Repo
stages = [stage for stage in Repo(".").index.stages if stage.cmd]
print(json.dumps({
    stage.addressing: {
        "lines": stage.cmd if isinstance(stage.cmd, list) else [stage.cmd],
        "deps": [dep.fs_path for dep in stage.deps],
    }
    for stage in stages
}))
"""


@pytest.fixture(scope="module")
def stages():
    """Every stage of every dvc.yaml, as DVC resolves it: its command lines and the files that it depends on."""
    ended = subprocess.run([sys.executable, "-c", STAGES], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@cache
def closure(path):
    """Everything in the package that a file imports, directly or through others; other commands left out."""
    found, others, todo = set(), set(), [path]
    while todo:
        file = todo.pop()
        new, more = own(file) - {"commands"} - found, scripts(file) - others
        found |= new
        others |= more
        todo += [*(PACKAGE / f"{module}.py" for module in new), *more]
    types = PACKAGE / "commands" / "types.py"  # the only module that commands share
    shared = {types} if "spatial.commands.types" in imported(path) else set()
    return {PACKAGE / f"{module}.py" for module in found} | others | {path} | shared


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="dvc reads a pipeline only inside git")
def test_every_command_of_the_pipeline_parses(stages):
    called = []
    for stage, content in stages.items():
        for line in content["lines"]:
            words = [word for word in shlex.split(line) if not ASSIGNMENT.match(word)]
            if words[0] == "bash":  # the script's own commands have a test of theirs
                assert (ROOT / words[1]).is_file(), f"{stage}: {line}"
                continue
            if words[0] == "rm":
                assert all("/parts/" in word for word in words[2:]), f"{stage}: {line}"
                continue
            assert words[0] == "python", f"{stage}: {line}"
            if words[1] == "main.py":
                called.append(words[2])
                check(words[2:])
            elif words[1] == "-m":
                assert words[2] == "spatial.data", f"{stage}: {line}"
                data.check_names(words[4:])
            else:
                assert (ROOT / words[1]).is_file(), f"{stage}: {line}"
    assert set(called) == set(NAMES)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="dvc reads a pipeline only inside git")
def test_every_stage_depends_on_the_code_that_it_runs(stages):
    for stage, content in stages.items():
        deps = {Path(dep) for dep in content["deps"]}
        for words in map(shlex.split, content["lines"]):
            if words[0] == "rm":
                continue
            if "bash" in words:
                assert {ROOT / words[words.index("bash") + 1], ROOT / "main.py", PACKAGE} <= deps, stage
                continue
            known = {"-m": PACKAGE / "data.py", "main.py": PACKAGE / f"commands/{words[2]}.py"}
            code = known.get(words[1], ROOT / words[1])
            assert closure(code) <= deps, f"{stage} lacks {sorted(map(str, closure(code) - deps))}"


def check(words):
    """Parses a command line; what ``train`` refuses before it reads any data is refused here too."""
    args = vars(commands.parse(words))
    if words[0] == "train":
        options = train_command.filled(args)
        train_command.check(options)
        data.check_names([name for name in options["datasets"] if name != train_command.FOLDER])


RUNS = sorted(path for at in ("runs/*/", "experiments/*/runs/*/", "experiments/*/*/runs/*/") for path in ROOT.glob(at))


@pytest.mark.parametrize("folder", RUNS, ids=[path.relative_to(ROOT).as_posix() for path in RUNS])
def test_a_clone_can_train_its_committed_runs_anew(folder, tmp_path):
    """A clone has a run's results alone; `train` takes a folder with anything foreign for somebody else's."""
    left = shutil.ignore_patterns("config.json", "resume")
    shutil.copytree(folder, tmp_path / "run", ignore=left, copy_function=lambda _, to: Path(to).touch())
    assert Run(tmp_path / "run").is_run()
