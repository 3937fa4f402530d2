"""The subcommands: argparse lives only here, and nothing below ever sees a Namespace."""

import argparse
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NoReturn

from spatial import process
from spatial.commands import plot, record, score, split, train
from spatial.commands.types import folder
from spatial.errors import UserError, brief, shown, unknown

COMMANDS = (train, record, split, score, plot)
SHARED = (train,)  # that the processes of torchrun can share
WORKFLOW = """\
from training to figures:
  # a network of two tasks, charged for long wires and crowding
  python main.py train runs/first --norm l1 --transport 3 --transport-per neuron --proximity 3 --outputs task
  # one network per task
  python main.py split runs/first --method greedy balanced
  # the whole network and its parts on the test images
  python main.py score runs/first
  # figures, in runs/first/figures
  python main.py plot runs/first

train, record, split and score end by saying what comes next. Options and further examples of a command:
  python main.py COMMAND --help"""


WIDEST = 120  # characters of a line of help
LONGEST_CHOICES = 50  # characters of values that are named beside their option
COMMAND_LINE = re.compile(r" *(python|torchrun|eval) ")
LISTED = re.compile(r" *(\S+( \S+)*) {2,}(?=\S)")  # what a line of a list begins with
GLUE = "\xa0"  # a space at which no line is broken


class Formatter(argparse.HelpFormatter):
    """Keeps the lines of a command's description where they fit, and adds the default as one would type it."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, WIDEST) - 2, **options)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if isinstance(action, argparse.BooleanOptionalAction) and default is False:
            default = "no"
        if default is None or default is False or default is argparse.SUPPRESS:
            return action.help
        words = default if isinstance(default, list) else [default]
        typed = " ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)
        return f"{action.help} (default: {typed})"

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if action.choices is not None and len(",".join(map(str, action.choices))) > LONGEST_CHOICES:
            return lambda size: (action.metavar or default_metavar,) * size  # type: ignore[return-value]
        return super()._metavar_formatter(action, default_metavar)

    def _split_lines(self, text: str, width: int) -> list[str]:
        whole = re.sub(r"\s+", " ", text).replace("(default: ", f"(default:{GLUE}")
        return [line.replace(GLUE, " ") for line in _wrapped(whole, width)]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for entry in _entries(text.splitlines()) for line in _fitted(entry, width))


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """Lines without a break within a word, a file's name or an option."""
    options: Any = {"break_on_hyphens": False, "break_long_words": False}
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, **options)


def _entries(lines: Iterable[str]) -> Iterator[list[str]]:
    """The lines of a description, those together that are wrapped together: a paragraph, a command, a list's entry."""
    entry: list[str] = []
    for line in lines:
        deeper = bool(entry) and _indent(line) > _indent(entry[0])
        plain = bool(entry) and not deeper and _indent(line) == _indent(entry[0]) and not _begins(line)
        goes_on = (deeper or (plain and not _begins(entry[0]))) and not entry[-1].endswith(":")
        if entry and not (line and entry[-1] and goes_on):
            yield entry
            entry = []
        entry.append(line)
    yield entry


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _begins(line: str) -> bool:
    """Whether a line is no paragraph's."""
    return bool(line.lstrip().startswith("#") or COMMAND_LINE.match(line) or LISTED.match(line))


def _fitted(entry: list[str], width: int) -> list[str]:
    """The lines of an entry as they are, if they fit, or wrapped."""
    if all(len(line) <= width for line in entry):
        return entry
    indent = " " * _indent(entry[0])
    if COMMAND_LINE.match(entry[0]):
        return _continued(" ".join(line.strip().removesuffix("\\").strip() for line in entry), width, indent)
    others = " " * _indent(entry[-1])
    if listed := LISTED.match(entry[0]):
        first = listed.group()
        text, others = " ".join([entry[0][len(first) :], *entry[1:]]), " " * len(first)
    else:
        first, text = indent, " ".join(entry).strip()
    if text.startswith("#"):
        others = f"{indent}# "
    return _wrapped(" ".join(text.split()), width, first, others)


def _continued(line: str, width: int, indent: str) -> list[str]:
    """A command in lines that a shell takes for one, each of whole options."""
    lines = [""]
    for words in re.split(r" (?=--)", line):
        start = indent if len(lines) == 1 else f"{indent}    "
        longer = f"{lines[-1]} {words}" if lines[-1] else start + words
        if lines[-1] and len(longer) > width - 2:
            lines[-1] += " \\"
            lines.append(f"{indent}    {words}")
        else:
            lines[-1] = longer
    return lines


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text, and knows no abbreviations."""

    def __init__(self, **options):
        if sys.version_info >= (3, 14):
            options["color"] = False
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
        usage="python main.py COMMAND RUN [options]",
        description="Neurons with places: charge a network for long wires and crowded neurons; see what its units do.",
        epilog=WORKFLOW,
    )
    parser.set_defaults(parser=parser)
    subparsers = parser.add_subparsers(
        metavar="COMMAND", parser_class=Parser, prog=prog, title="commands, each on a run's folder"
    )
    known = {}
    for command in COMMANDS:
        name = command.__name__.rsplit(".", 1)[-1]
        summary, _, example = (command.__doc__ or "").partition("\n\n")
        usage, brief_summary = f"python {prog} {name} RUN [options]", summary.partition(":")[0].rstrip(".")
        sub = subparsers.add_parser(name, help=brief_summary, description=summary, epilog=example, usage=usage)
        made = "made if it is not there; all files go there" if command is train else "made by train"
        sub.add_argument("run", metavar="RUN", type=folder, help=f"the run's folder, {made}")
        command.add_arguments(sub)
        sub.set_defaults(run_command=command.run, parser=sub, shared=command in SHARED)
        known[name] = sub
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        from spatial.commands.completing import complete

        complete(parser, known.values())
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
        hint = "it is neither RUN, which is one folder and comes first, nor a value of an option"
        sub.error(f"unexpected argument {brief(extra[0])!r}: {hint}")
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
