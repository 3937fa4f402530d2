"""Neurons with places: train a network, record what its units do, cut it into one per task, score and plot it."""

import os
import signal
import sys
from typing import NoReturn

from spatial import process
from spatial.commands import parse
from spatial.errors import Alone, UserError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # of torch's RuntimeErrors


def main(argv: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        if process.COUNT > 1 and not args.shared:
            raise UserError(f"{process.COUNT} processes have nothing to share here: call it without torchrun")
        return args.run_command(args) or 0
    except Alone as error:
        return args.parser.mistake(str(error), alone=True)
    except UserError as error:
        return args.parser.mistake(str(error))
    except BrokenPipeError:  # its output was piped into a program that has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return args.parser.mistake(f"{error.filename or 'input or output'}: {error.strerror or error}", alone=True)
    except (MemoryError, RuntimeError) as error:
        words = str(error)
        if isinstance(error, MemoryError) or any(phrase in words for phrase in OUT_OF_MEMORY):
            hint = "not enough memory; a smaller network, --batch-size or --resize may help"
            return args.parser.mistake(hint, alone=True)
        if words.startswith("DataLoader worker"):
            reason = "killed, or short of memory or of shared memory; fewer --workers may help"
            return args.parser.mistake(f"a process that decodes images has ended: {reason}", alone=True)
        if process.COUNT > 1 and (type(error).__name__.startswith("Dist") or "closed by peer" in words):
            args.parser.mistake("another process has ended, and so does this one", alone=True)
            return 1
        raise
    except KeyboardInterrupt:
        hint = "; the same command with --resume continues it" if "resume" in args else ""
        if process.NUMBER == 0:
            print(f"{args.parser.prog}: interrupted{hint}", file=sys.stderr)
        return 130


def terminate(*_: object) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report the loaders' processes that end as well
    sys.exit(143)


if __name__ == "__main__":
    process.settle()
    signal.signal(signal.SIGTERM, terminate)
    try:
        status: int | str | None = main()
    except SystemExit as end:
        status = end.code
    if process.COUNT > 1 and status:  # at once: to leave in order would wait for the others
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)
    sys.exit(status)
