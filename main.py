"""Neurons with places: train a network, record what its units do, cut it into one per task, score and plot it."""

import os
import signal
import sys

from spatial.commands import parse
from spatial.errors import UserError


def main(argv: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return args.run_command(args) or 0
    except UserError as error:
        return args.parser.mistake(str(error))
    except OSError as error:
        return args.parser.mistake(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print(f"{args.parser.prog}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # read when torch is imported: threads that spin as long as by default slow down runs side by side eightfold
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
