"""What `maskline materialize` costs beside Model Garden's `create_coco_tf_record --include_masks`, in one run.

    python -m benchmarks.materialize [--images 400] [--repeats 3] [--workers 1] [--coco FOLDER] [--memory | --scaling]

Both run as commands, in turn, on generated photographs of 640 x 480 with 7 objects each, or on each `annotations/instances_*.json` of a
COCO folder, and on its first image alone: the difference between the two is free of imports. Their masks must be the same,
pixel for pixel. `--memory` runs ours alone, on 400 and on 100,000 photographs; `--scaling`, on 10,000 in 8 shards, with one worker and two.
Prints a Markdown table. Usual runtime on two cores: two minutes; with `--scaling` three, and 4 GB of disk; with `--memory` ten, and 8 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measured import Cost, cost_of
from benchmarks.photographs import write_photographs
from tasks.coco.masks import Mask, decode_png
from tasks.records.example_pb2 import Example
from tasks.records.tfrecord import read_shard

MEMORY_IMAGES = (400, 100_000)
SCALING_IMAGES, SCALING_SHARDS = 10_000, 8


@dataclass(frozen=True)
class Data:
    """A folder of images, and a COCO JSON of `count` of them."""

    folder: Path
    annotations: Path
    count: int

    def first(self, scratch: Path) -> Data:
        """The first image alone."""
        content = json.loads(self.annotations.read_text())
        images = content["images"][:1]
        ids = {image["id"] for image in images}
        content.update(images=images, annotations=[one for one in content["annotations"] if one["image_id"] in ids])
        annotations = scratch / f"first-of-{self.annotations.name}"
        annotations.write_text(json.dumps(content))
        return Data(self.folder, annotations, len(images))


def _validation(data: Data, output: Path) -> dict[str, str]:
    """The one small image that a dataset must have to choose models by; it costs a millisecond."""
    folder = output.with_name(f"{output.name}-val")
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(folder / "one.png")
    category = json.loads(data.annotations.read_text())["categories"][0]
    square = {"id": 0, "image_id": 0, "category_id": category["id"], "segmentation": [[2, 2, 20, 2, 20, 20, 2, 20]]}
    image = {"id": 0, "file_name": "one.png", "height": 32, "width": 32}
    annotations = folder / "one.json"
    annotations.write_text(json.dumps({"images": [image], "annotations": [square], "categories": [category]}))
    return {"images": str(folder), "annotations": str(annotations)}


def maskline(data: Data, output: Path, workers: int, shards: int | None = None) -> list[str]:
    description = output.with_suffix(".yaml")
    splits = {"train": {"images": str(data.folder), "annotations": str(data.annotations)}, "val": _validation(data, output)}
    description.write_text(json.dumps({"name": "benchmark", "splits": splits}))
    options = [f"--output={output}", f"--shards={shards or workers}", f"--workers={workers}"]
    return [sys.executable, "-m", "tasks", "materialize", str(description), *options]


def model_garden(data: Data, output: Path, workers: int) -> list[str]:
    options = {
        "image_dir": data.folder,
        "object_annotations_file": data.annotations,
        "output_file_prefix": output / "train",
        "num_shards": workers,
        "num_processes": workers if workers > 1 else 0,
    }
    program = [sys.executable, "-m", "official.vision.data.create_coco_tf_record", "--include_masks"]
    return program + [f"--{name}={value}" for name, value in options.items()]


TOOLS: Mapping[str, Callable[[Data, Path, int], list[str]]] = {"maskline": maskline, "Model Garden": model_garden}


def coco_splits(folder: Path) -> dict[str, Data]:
    found = {path.stem.removeprefix("instances_"): path for path in sorted((folder / "annotations").glob("instances_*.json"))}
    return {
        f"{folder.name} {split}": Data(folder / split, path, len(json.loads(path.read_text())["images"])) for split, path in found.items()
    }


def compare(name: str, data: Data, repeats: int, workers: int) -> Iterator[str]:
    """The table's rows of one data set; AssertionError unless both tools' records hold the same masks."""
    costs: dict[tuple[str, int], list[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix="maskline-") as folder:
        scratch = Path(folder)
        first = data.first(scratch)
        for tool, command in TOOLS.items():
            cost_of(command(first, scratch / f"{tool}-bytecode", workers))  # leaves the bytecode that the others find
        for repeat in range(repeats):
            for tool, command in TOOLS.items():
                for one in (first, data):
                    output = scratch / f"{tool}-{one.count}-{repeat}"
                    costs.setdefault((tool, one.count), []).append(cost_of(command(one, output, workers)))
        records = [sorted((scratch / f"{tool}-{data.count}-0").glob("train*-of-*")) for tool in TOOLS]
        masks = confirm_same_masks(*records)
    for tool in TOOLS:
        whole, some = (_median(costs[tool, count]) for count in (data.count, first.count))
        rate = (data.count - first.count) / (whole.cpu - some.cpu)
        yield f"| {name}, {masks} masks | {tool} | {whole.cpu:.2f} | {rate:.0f} | {whole.wall:.2f} | {whole.peak:.0f} |"
    ours, theirs = ([_median(costs[tool, count]).cpu for count in (data.count, first.count)] for tool in TOOLS)
    yield f"| | ratio | {theirs[0] / ours[0]:.1f} | {(theirs[0] - theirs[1]) / (ours[0] - ours[1]):.1f} | | |"


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in ("cpu", "wall", "peak")))


def confirm_same_masks(ours: Sequence[Path], theirs: Sequence[Path]) -> int:
    """How many masks were compared: all of Model Garden's, which leaves out objects that ours keep, but writes empty ones."""
    compared = 0
    expected = dict(_masks(ours))
    for image, masks in _masks(theirs):
        own = iter(expected[image])
        for mask in masks:
            if mask.any():
                assert any(np.array_equal(mask, one) for one in own), f"image {image.decode()}: its masks differ"
                compared += 1
    return compared


def _masks(shards: Sequence[Path]) -> Iterator[tuple[bytes, list[Mask]]]:
    for shard in shards:
        for record in read_shard(shard):
            features = Example.FromString(record).features.feature
            pngs = features["image/object/mask"].bytes_list.value
            yield features["image/source_id"].bytes_list.value[0], [decode_png(png) for png in pngs]


def memory(workers: int) -> Iterator[str]:
    """The rows of ours alone at the sizes where its memory would have grown."""
    for count in MEMORY_IMAGES:
        with tempfile.TemporaryDirectory(prefix="maskline-") as folder:
            photographs = Path(folder) / "photographs"
            data = Data(photographs, write_photographs(photographs, count, grain=0), count)
            cost = cost_of(maskline(data, Path(folder) / "records", workers))
            yield f"| {count} generated photographs | maskline | {cost.cpu:.2f} | | {cost.wall:.2f} | {cost.peak:.0f} |"


def scaling(repeats: int) -> Iterator[str]:
    """The rows of ours alone by one worker and by two, in turn."""
    costs: dict[int, list[Cost]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="maskline-") as folder:
        photographs = Path(folder) / "photographs"
        data = Data(photographs, write_photographs(photographs, SCALING_IMAGES), SCALING_IMAGES)
        for repeat in range(repeats):
            for workers, measured in costs.items():
                output = Path(folder) / f"{workers}-{repeat}"
                measured.append(cost_of(maskline(data, output, workers, SCALING_SHARDS)))
                shutil.rmtree(output)
    for workers, measured in costs.items():
        cost = _median(measured)
        name = f"{SCALING_IMAGES} generated photographs, --workers {workers}"
        yield f"| {name} | maskline | {cost.cpu:.2f} | | {cost.wall:.2f} | {cost.peak:.0f} |"
    one, two = (_median(measured).wall for measured in costs.values())
    yield f"| | ratio | | | {one / two:.2f} | |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare materialization with Model Garden's.")
    parser.add_argument("--images", type=int, default=400, help="generated photographs")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which medians are told")
    parser.add_argument("--workers", type=int, default=1, help="processes and shards of either")
    parser.add_argument("--coco", type=Path, metavar="FOLDER", help="a COCO folder, instead of generated photographs")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--memory", action="store_true", help="ours alone on 400 and 100,000 photographs")
    alone.add_argument("--scaling", action="store_true", help="ours alone on 10,000 photographs, by one worker and by two")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not arguments.scaling:
        print(f"workers: {arguments.workers}\n")
    print("| data | | CPU s | images/s without imports | wall s | peak MB |\n|---|---|---|---|---|---|", flush=True)
    if arguments.memory or arguments.scaling:
        for row in memory(arguments.workers) if arguments.memory else scaling(arguments.repeats):
            print(row, flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="maskline-") as scratch:
        name = f"{arguments.images} generated photographs"
        photographs = Path(scratch) / "photographs"
        if arguments.coco:
            found = coco_splits(arguments.coco.absolute())
        else:
            found = {name: Data(photographs, write_photographs(photographs, arguments.images), arguments.images)}
        for name, data in found.items():
            for row in compare(name, data, arguments.repeats, arguments.workers):
                print(row, flush=True)


if __name__ == "__main__":
    main()
