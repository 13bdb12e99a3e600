"""How fast do images come out of a folder of JPEG files?

Claim: worker processes decode while the main one trains, as many images a second as there are cores
for, and memory holds a few batches however large the folder is. The baseline, measured in the same
run and interleaved with ours, is the plain way: this process opens each file with Pillow, decodes it
whole, crops, resizes. Against it, hwnas reads the same files in this process (draft decoding) and
through 1 and 2 worker processes, once cropped at the centre and once at random, as for training.

The folder is made of CIFAR-10's JPEG files from the published tables (HWNAS_DATA, by default
../shared/data), enlarged and joined four by four so that the files have the size of photographs;
where the tables are absent, of random smooth pictures.

    python benchmarks/image_folder.py [--images 3000] [--side 384] [--resolution 224] [--passes 5]
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import platform
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from hwnas.data import load_data
from hwnas.data.image_folder import FolderSplit

CLASSES = 10
BATCH = 64


def pictures(count: int, side: int) -> Iterator[tuple[Image.Image, int]]:
    """Pictures of `side` x `side`, and their classes."""
    tables = Path(os.environ.get("HWNAS_DATA", "../shared/data")) / "cifar10_jpeg"
    found = sorted(tables.glob("cifar10_train_*.npz"))
    if found:
        with np.load(found[0]) as archive:
            blob, offsets, labels = archive["blob"].tobytes(), archive["offsets"], archive["labels"]
        by_class = [np.flatnonzero(labels == label) for label in range(CLASSES)]
        for number in range(count):
            label = number % CLASSES
            canvas = Image.new("RGB", (64, 64))
            for corner in range(4):
                index = by_class[label][(number * 4 + corner) % len(by_class[label])]
                tile = Image.open(io.BytesIO(blob[offsets[index] : offsets[index + 1]])).convert("RGB")
                canvas.paste(tile, (32 * (corner % 2), 32 * (corner // 2)))
            yield canvas.resize((side, side), Image.Resampling.BICUBIC), label
        return
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        yield Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), number % CLASSES


def make_folder(root: Path, count: int, side: int) -> None:
    """Write ``root/<class>/<number>.jpg``."""
    for number, (picture, label) in enumerate(pictures(count, side)):
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number:06}.jpg", quality=90)


def plain(split: FolderSplit, resolution: int) -> int:
    """The baseline: decode whole, crop the centre, resize, in this process."""
    read = 0
    for start in range(0, len(split), BATCH):
        batch = []
        for path in split.files[start : start + BATCH]:
            with Image.open(path) as image:
                width, height = image.size
                cut = round(min(width, height) * 0.875)
                left, top = (width - cut) // 2, (height - cut) // 2
                cropped = image.convert("RGB").crop((left, top, left + cut, top + cut))
                batch.append(np.asarray(cropped.resize((resolution, resolution), Image.Resampling.BILINEAR)))
        read += len(np.stack(batch).transpose(0, 3, 1, 2))
    return read


def streamed(split: FolderSplit, workers: int, crop_seed: int | None) -> int:
    """Read a split once through `workers` processes; 0 reads in this one."""
    reader = FolderSplit(split.files, split.labels, split.decoder, workers)
    return sum(len(labels) for _, labels in reader.batches(BATCH, crop_seed=crop_seed))


def main() -> None:
    """Make the folder, measure, print the table, and append it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000, help="files in the folder (default 3000)")
    parser.add_argument("--side", type=int, default=384, help="their width and height (default 384)")
    parser.add_argument("--resolution", type=int, default=224, help="what they are resized to (default 224)")
    parser.add_argument("--passes", type=int, default=5, help="interleaved passes over the folder (default 5)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "image-folder.csv")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        make_folder(Path(name), arguments.images, arguments.side)
        size = np.mean([path.stat().st_size for path in Path(name).rglob("*.jpg")])
        data = load_data(name, resolution=arguments.resolution, workers=0)
        split = data.train
        assert isinstance(split, FolderSplit)
        cases: dict[str, Callable[[], int]] = {
            "plain Pillow, this process": lambda: plain(split, arguments.resolution),
            "hwnas, this process": lambda: streamed(split, 0, None),
            "hwnas, 1 worker": lambda: streamed(split, 1, None),
            "hwnas, 2 workers": lambda: streamed(split, 2, None),
            "hwnas, 2 workers, random crops": lambda: streamed(split, 2, 0),
        }
        rates: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(arguments.passes):
            for case in random.sample(list(cases), len(cases)):
                start = time.perf_counter()
                read = cases[case]()
                rates[case].append(read / (time.perf_counter() - start))

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(split)} files of {size / 1000:.0f} kB, {arguments.side} to {arguments.resolution} pixels")
    print(f"{os.cpu_count()} cores; peak memory of this process {peak:.0f} MiB\n")
    print(f"{'':32}{'images/s':>10}{'range':>16}{'against plain':>15}")
    base = float(np.median(rates["plain Pillow, this process"]))
    rows = []
    for case, values in rates.items():
        median, low, high = float(np.median(values)), min(values), max(values)
        print(f"{case:32}{median:10.0f}{f'{low:.0f}-{high:.0f}':>16}{median / base:14.2f}x")
        rows.append([case, round(median, 1), round(low, 1), round(high, 1), round(median / base, 3)])

    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    fresh = not arguments.results.exists()
    setting = ("measured_at", "machine", "cores", "images", "side", "resolution", "passes", "peak_mib")
    result = ("case", "median_images_per_s", "low", "high", "against_plain")
    with open(arguments.results, "a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if fresh:
            writer.writerow((*setting, *result))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        settings = [len(split), arguments.side, arguments.resolution, arguments.passes, round(peak)]
        writer.writerows([now, platform.machine(), os.cpu_count(), *settings, *row] for row in rows)


if __name__ == "__main__":
    main()
