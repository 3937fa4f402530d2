"""Neurons with places: train a network, record what its units do, cut it into one per task, score and plot it."""

# PYTHON_ARGCOMPLETE_OK: the mark by which a shell knows that it can ask

import os
import sys
from typing import Any

from spatial import process

if __name__ == "__main__":
    process.on_signals(process.at_once)  # until there is anything to end in order
from spatial.commands import parse
from spatial.errors import Alone, UserError

ANOTHER_ENDED = ("closed by peer", "/gloo/")  # of torch's RuntimeErrors, where it raises no DistError
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def main(argv: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        if process.COUNT > 1 and not args.shared:
            raise UserError(f"{process.COUNT} processes have nothing to share here: call it without torchrun")
        status = args.run_command(args) or 0
        sys.stdout.flush()  # what is not flushed here fails where nobody can say so
        return status
    except Alone as error:
        return args.parser.mistake(str(error), alone=True)
    except UserError as error:
        return args.parser.mistake(str(error))
    except OSError as error:
        kept = "resume" in args and os.path.isfile(os.path.join(args.run, "config.json"))
        return args.parser.failed(
            error, "; once that is mended, the same command with --resume goes on" if kept else ""
        )
    except (MemoryError, RuntimeError) as error:
        if process.asked is not None:  # torch has made an error of its own out of it
            return goodbye(args, process.asked)
        words = str(error)
        if isinstance(error, MemoryError) or any(phrase in words for phrase in OUT_OF_MEMORY):
            hint = "not enough memory; a smaller network, --batch-size or --resize may help"
            return args.parser.mistake(hint, alone=True)
        if words.startswith("DataLoader worker"):
            reason = "killed, or short of memory or of shared memory; fewer --workers may help"
            return args.parser.mistake(f"a process that decodes images has ended: {reason}", alone=True)
        exchanging = type(error).__name__.startswith("Dist") or any(phrase in words for phrase in ANOTHER_ENDED)
        if process.COUNT > 1 and exchanging:
            args.parser.mistake("another process has ended, and so does this one", alone=True)
            return 1
        raise
    except KeyboardInterrupt as end:
        return goodbye(args, end)


def goodbye(args: Any, end: KeyboardInterrupt) -> int:
    """End in order: the disk holds a whole state at any moment, so there is nothing to save."""
    hint = "; the same command with --resume continues it" if "resume" in args else ""
    return process.farewell(end, args.parser.prog, hint)


if __name__ == "__main__":
    process.settle()
    process.on_signals(process.stop)
    try:
        status: int | str | None = main()
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt as early:  # before it was known what to do
        status = process.farewell(early, "main.py")
    process.on_signals(process.at_once)
    if process.COUNT > 1 and status:  # at once: to leave in order would wait for the others
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)
    sys.exit(status)
