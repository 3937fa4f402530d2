"""Neurons with places: train a network, record what its units do, cut it into one per task, score and plot it."""

import sys

from spatial.commands import parse
from spatial.errors import UserError


def main(argv: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return args.run_command(args) or 0
    except UserError as error:
        return args.parser.mistake(str(error))
    except KeyboardInterrupt:
        print(f"{args.parser.prog}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
