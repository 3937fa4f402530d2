"""The subcommands: argparse lives only here, and nothing below ever sees a Namespace."""

import argparse
import os
import sys
from collections.abc import Collection
from typing import Any, NoReturn

from spatial import process
from spatial.commands import plot, record, score, split, train
from spatial.commands.types import folder
from spatial.errors import UserError, brief, shown, unknown

COMMANDS = (train, record, split, score, plot)
SHARED = (train,)  # that the processes of torchrun can share


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps a command's examples as they are written, and adds the default as one would type it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default is argparse.SUPPRESS:
            return action.help
        words = default if isinstance(default, list) else [default]
        typed = " ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)
        return f"{action.help} (default: {typed})"


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text, and knows no abbreviations."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=Formatter, **options)
        self.source = ""  # begins what is said of words that are not the user's own

    def error(self, message: str) -> NoReturn:
        raise SystemExit(self.mistake(message.replace("ignored explicit argument", "takes no value, got")))

    def print_help(self, file: Any = None) -> None:
        """argparse's own, which would say nothing where it cannot be printed."""
        try:
            print(self.format_help(), end="", file=file, flush=True)
        except OSError as error:
            raise SystemExit(self.failed(error)) from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own check of ``choices``, with the nearest known name in its message."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, str(unknown("value", str(value), map(str, action.choices))))

    def mistake(self, message: str, alone: bool = False) -> int:
        """Print a user's mistake as one line on stderr; returns the exit status.

        Of several processes the first says it, unless it is this one's ``alone``.
        """
        if alone or process.NUMBER == 0:
            who = f"process {process.NUMBER}: " if process.COUNT > 1 and alone else ""
            print(f"{self.prog}: error: {who}{shown(self.source + message)}", file=sys.stderr)
        return 2

    def failed(self, error: OSError, hint: str = "") -> int:
        """Report what the system refused, and what to do then; returns the exit status."""
        where = error.filename or "input or output"
        try:
            sys.stdout.flush()
        except OSError as lost:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again as it exits
            where, error = "standard output", lost
        if isinstance(error, BrokenPipeError):  # it was piped into a program that has ended
            return 141
        return self.mistake(f"{where}: {error.strerror or error}{hint}", alone=True)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line as a namespace: ``run_command`` to call with it, ``parser`` to report mistakes."""
    prog = "main.py"
    parser = Parser(
        prog=prog,
        description="Neurons with places: charge a network for long wires and crowded neurons; see what its units do.",
        epilog="example:\n  python main.py train runs/first --norm l1 --transport 3 --transport-per neuron "
        "--proximity 3",
    )
    parser.set_defaults(parser=parser)
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    known = {}
    for command in COMMANDS:
        name = command.__name__.rsplit(".", 1)[-1]
        summary, _, example = (command.__doc__ or "").partition("\n\n")
        usage = f"{prog} {name} RUN [options]"
        sub = subparsers.add_parser(name, help=summary, description=summary, epilog=example, usage=usage)
        sub.add_argument("run", metavar="RUN", type=folder, help="the run's folder")
        command.add_arguments(sub)
        sub.set_defaults(run_command=command.run, parser=sub, shared=command in SHARED)
        known[name] = sub
    try:
        os.getcwd()
    except FileNotFoundError:
        parser.error("the folder in which it was called is not there any more")
    if argv and not argv[0].startswith("-") and argv[0] not in known:
        parser.error(str(unknown("command", argv[0], known)))
    missing = f"a command is missing: {', '.join(known)} (see {prog} --help)"
    if not argv:
        parser.error(missing)
    if argv[0] in known and not {"-h", "--help"} & set(argv) and (len(argv) < 2 or argv[1].startswith("-")):
        known[argv[0]].error(f"RUN is missing: the run's folder comes first, {prog} {argv[0]} RUN ...")
    options = {name: sub._option_string_actions for name, sub in known.items()}
    flags = as_flags(argv, options.get(argv[0], ()))
    args, extra = parser.parse_known_args(flags)
    if extra:
        sub = args.parser
        option = extra[0].partition("=")[0]
        if option.startswith("-"):
            sub.error(str(unknown("option", option, sub._option_string_actions)))
        sub.error(f"unexpected argument {brief(extra[0])!r}")
    if args.parser is parser:
        parser.error(missing)
    args.data = None
    if getattr(args, "like", None) is not None:
        return _like(args, parser, flags)
    return args


def _like(args: argparse.Namespace, parser: Parser, flags: list[str]) -> argparse.Namespace:
    """The command line with what it does not say taken from the run that it is to be like."""
    sub = args.parser
    sub.source = f"--like {args.like}: "  # of a mistake in words that are not the user's own
    try:
        words, config = train.words_of(args.like, sub)
        was = config["options"]
        found = train.filled(train.options_of(parser.parse_args([*flags[:2], *words])))
        if other := [name for name in was if name != "replicas" and found[name] != was[name]]:
            raise UserError(f"its {other[0]} was {was[other[0]]}, and the same words give {found[other[0]]} now")
        args = parser.parse_args([*flags[:2], *words, *flags[2:]])
        if args.model != was["model"]:
            raise UserError(f"it is of --model {was['model']}, give the options of --model {args.model} yourself")
    except UserError as error:
        sub.error(str(error))
    sub.source = ""
    args.data = config.get("data", {})
    return args


def as_flags(argv: list[str], options: Collection[str]) -> list[str]:
    """What DVC renders as ordinary flags: ``--batch_size 8`` is ``--batch-size 8``.

    ``--decay None`` is left out if it is one of the command's ``options``.
    """
    flags: list[str] = []
    for word in argv:
        if word == "None" and flags and flags[-1] in options:
            flags.pop()
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            flags.append(name.replace("_", "-") + equals + value)
        else:
            flags.append(word)
    return flags
