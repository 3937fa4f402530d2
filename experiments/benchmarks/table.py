"""All results of a device as one table: python experiments/benchmarks/table.py cpu|cuda"""

import csv
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
RATIOS = {  # benchmark -> (what names a row, what is measured)
    "step": (("form", "width"), "ratio"),
    "memory": (("form", "width"), "extra"),
    "epoch": (("case",), "ratio"),
    "locality": (("width",), "ratio"),
    "loader": (("batch", "precision", "compiled", "costs"), "step"),
    "seeds": (("width",), "together / one"),
}


def main(device: str) -> None:
    print("| benchmark | case | measured | value | machine | torch | commit | date |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for benchmark, (names, measured) in RATIOS.items():
        path = RESULTS / f"{benchmark}-{device}.csv"
        if not path.is_file():
            continue
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                case = ", ".join(row[name] for name in names)
                where = " | ".join(row[name] for name in ("machine", "torch", "commit", "date"))
                print(f"| {benchmark} | {case} | {measured} | {row[measured]} | {where} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
