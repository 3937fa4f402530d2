"""What a shell's Tab key completes, by argcomplete, which is imported only when a shell asks."""

import argparse
from collections.abc import Iterable
from typing import Any

from spatial.commands import split, train
from spatial.commands.types import folder

NAMES = {"datasets": (*train.DATASETS, *(f"{name}@permuted" for name in train.DATASETS)), "method": split.METHODS}


def complete(parser: argparse.ArgumentParser, commands: Iterable[argparse.ArgumentParser]) -> None:
    """Answer the shell and end: with commands, options, their values, names of data sets and splits, and folders."""
    try:
        import argcomplete
    except ImportError:  # a shell shows this only under _ARC_DEBUG; the command itself must not run
        raise SystemExit(
            "completion needs a package that is not installed: python -m pip install argcomplete"
        ) from None

    completers: Any = argcomplete.completers
    for command in commands:
        for action in command._actions:
            known: Any = action
            if action.dest in NAMES:
                known.completer = completers.ChoicesCompleter(NAMES[action.dest])
            elif action.type is folder:
                known.completer = completers.DirectoriesCompleter()
    answer: Any = argcomplete.autocomplete
    answer(parser, default_completer=None)
