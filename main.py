"""Neurons with places: train a network, record what its units do, cut it into one per task, score and plot it."""

import os
import signal
import sys

from spatial import process
from spatial.commands import parse
from spatial.errors import UserError


def main(argv: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return args.run_command(args) or 0
    except UserError as error:
        return args.parser.mistake(str(error))
    except BrokenPipeError:  # its output was piped into a program that has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return args.parser.mistake(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        return args.parser.mistake("not enough memory; a smaller network, --batch-size or --resize may help")
    except KeyboardInterrupt:
        hint = "; the same command with --resume continues it" if "resume" in args else ""
        print(f"{args.parser.prog}: interrupted{hint}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    process.settle()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
