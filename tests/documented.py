"""A page's ``python ...``: main.py beside small data sets of the names it asks for, an epoch in the place of many."""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def register() -> None:
    import generated
    import pytest

    patch, data = pytest.MonkeyPatch(), Path(f"data-{os.getpid()}")  # never undone
    for seed, name in enumerate(("MNIST", "FashionMNIST")):
        generated.register(patch, data, name, seed=seed, size=28, classes=10, train=60, test=24)
    for file in data.rglob("*-ubyte"):  # renamed: a loop's next command may be reading them
        own = Path("data") / file.relative_to(data)
        own.parent.mkdir(parents=True, exist_ok=True)
        file.replace(own)


def shortened(words: list[str]) -> list[str]:
    """The same command in seconds: one epoch, on a small tree of images where the page has ImageNet."""
    if "/data/imagenet" in words:
        from generated import write_tree

        tree = Path("imagenet")
        if not tree.exists():
            write_tree(tree, classes=3, train=6, val=2, size=70)
        words[words.index("/data/imagenet")] = str(tree)
        words += ["--resize", "63", "--batch-size", "8", "--workers", "0"]
        words = [word for word in words if word != "--compile"]
    return [*words, "--epochs", "1"] if words[0] == "train" else words


if __name__ == "__main__":
    del sys.argv[0]
    if sys.argv[0] == "main.py":
        register()
        sys.argv[1:] = shortened(sys.argv[1:])
        runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
    elif sys.argv[0] == "-m":
        register()
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
