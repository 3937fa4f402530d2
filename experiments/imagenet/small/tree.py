"""Write MNIST and Fashion-MNIST as an ImageNet-like tree of JPEG files: 20 classes, 64 x 64 pixels, grey.

    python experiments/imagenet/small/tree.py FOLDER [--root data] [--full]

FOLDER/train and FOLDER/val then hold a folder per class, MNIST-0 to FashionMNIST-9: of each class the first 400
training and 100 test images; with --full all of them (120,000 + 20,000). FOLDER must be empty or absent.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from PIL import Image

from spatial.data import ImageSet, load_all, resized
from spatial.errors import UserError

TASKS = ("MNIST", "FashionMNIST")
SIZE, QUALITY = 64, 90  # pixels; JPEG's scale of 0 to 100
COUNTS = {"train": 400, "val": 100}  # images of a class


def write(folder: Path, task: str, images: ImageSet, most: int | None) -> int:
    """The first ``most`` images of each class as ``folder/TASK-LABEL/NUMBER.jpg``, by number in the data set."""
    seen: Counter[int] = Counter()
    for label in range(images.classes):
        (folder / f"{task}-{label}").mkdir(parents=True)
    for number, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        if most is None or seen[label] < most:
            seen[label] += 1
            path = folder / f"{task}-{label}" / f"{number:05}.jpg"
            Image.fromarray(pixels[0].numpy()).save(path, quality=QUALITY)
    return seen.total()


def tree(folder: Path, root: str, full: bool) -> dict[str, int]:
    """The whole tree; returns how many images each subset has."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; remove it first")
    written = dict.fromkeys(COUNTS, 0)
    for data in load_all(TASKS, root):
        data = resized(data, SIZE)
        for (subset, count), images in zip(COUNTS.items(), (data.train, data.test), strict=True):
            written[subset] += write(folder / subset, data.name, images, None if full else count)
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--root", default="data", help="where MNIST and FashionMNIST are kept (default: data)")
    parser.add_argument("--full", action="store_true", help="all images")
    args = parser.parse_args()
    try:
        written = tree(args.folder, args.root, args.full)
    except UserError as error:
        print(f"tree.py: error: {error}", file=sys.stderr)
        return 2
    print(f"{args.folder}: {', '.join(f'{subset} {count:,} images' for subset, count in written.items())}, 20 classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
