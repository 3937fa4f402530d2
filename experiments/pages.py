"""Pages whose tables are written by scripts: a block between ``<!-- table: NAME -->`` and ``<!-- end -->``."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from spatial import storing
from spatial.errors import UserError

BLOCK = re.compile(r"<!-- table: (\S+) -->\n((?:(?!<!-- table: ).)*?)<!-- end -->", re.DOTALL)


def blocks(path: Path) -> dict[str, str]:
    """What stands between the marks of a page, by name."""
    return {name: text.strip() for name, text in BLOCK.findall(path.read_text())}


def check(path: Path, tables: Iterable[str]) -> None:
    """Refuse a page that has marks for none of ``tables``.

    Raises:
        UserError: in one line.
    """
    wanted = list(tables)
    if not set(blocks(path)) & set(wanted):
        raise UserError(f"{path}: has no mark <!-- table: {wanted[0]} -->, or no end of it")


def insert(path: Path, tables: dict[str, str]) -> None:
    """Put those of ``tables`` into a page for which it has marks; other blocks stay as they are.

    Raises:
        UserError: if it has marks for none.
    """
    check(path, tables)

    def filled(block: re.Match[str]) -> str:
        known = block[1] in tables
        return f"<!-- table: {block[1]} -->\n\n{tables[block[1]]}\n\n<!-- end -->" if known else block[0]

    text = BLOCK.sub(filled, path.read_text())
    with storing.replacing(path) as file:
        file.write(text.encode())
