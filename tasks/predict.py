"""The step that shows what a model finds on pictures: drawn, and as a COCO results file.

    maskline predict MODEL IMAGES... --output FOLDER [--min-score 0.3 | --thresholds own|FILE] [--label-map FILE --config CONFIG]

MODEL is the folder of a trained or exported model, of a SavedModel, an ONNX file, or a checkpoint of the original with its
`pipeline.config`; IMAGES are files, folders, patterns, and text files that list them. Writes to the folder `pictures/NUMBER_NAME.jpg`; in
COCO's format `detections.json` (masks, or boxes where the model has none), beside masks `detections_boxes.json`, and `images.json` with the
images and categories that they are of; `bad_images.jsonl` where an image could not be read; and last `predict.json`. Usual runtime: a tenth
of a second to some seconds an image on two CPU cores.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.masks import Rle
from tasks.coco.paste import DEFAULT_SCORE, image_detections, mask_outlines
from tasks.coco.pictures import PictureObjects, draw_objects
from tasks.evaluation.thresholds import Thresholds, read_thresholds
from tasks.records.checks import BadImageError, Check
from tasks.records.image_file import upright_pixels
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.workspace import StepResult, decoded, read_json, staged_directory, write_bytes, write_json
from tasks.serving.predictor import KeptModel, Outputs, find_model

FORMAT_VERSION = 1

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of the files in a folder that are taken for images."""
_LIST = ".txt"
_RESULTS, _BOXES = "detections.json", "detections_boxes.json"
_AHEAD = 4  # images that are read, and pictures that are drawn, while the model is at work
_NAMED = 3  # bad images that are printed
_TOLD = 8  # thresholds that are printed
OWN = "own"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Options:
    """`min_score` holds for pictures and results; `polygons` are written instead of run-length codes.

    `thresholds` count instead of it: `own`, the model's operating thresholds, or the path of a file of some.
    """

    min_score: float = DEFAULT_SCORE
    polygons: bool = False
    pictures: bool = True
    thresholds: str | None = None


def predict(
    model: Path,
    images: Sequence[str],
    output: Path,
    options: Options = Options(),
    label_map: Path | None = None,
    checkpoint: str = "",
    config: str = "",
) -> StepResult:
    """Writes `output`, unless the same model, images and options wrote it before; it may be new, empty, or an earlier prediction.

    UserError where nothing of `images` can be read; what is bad among others is left out, counted and listed.
    """
    if not 0 <= options.min_score <= 1:
        raise UserError(f"--min-score is {options.min_score}", "give a number from 0 to 1")
    kept = find_model(model, label_map, checkpoint, config)
    thresholds = _thresholds(kept, options.thresholds)
    _confirm_ours(output)
    files = image_files(images, output)
    digest = _digest(kept, files, options, thresholds)
    report = output / "predict.json"
    if report.is_file() and read_json(report).get("digest") == digest:
        return _answer("skipped", output, read_json(report))
    if not kept.names:
        print(f"{model} says no classes' names: pictures show their numbers; --label-map FILE names them", flush=True)
    if thresholds is not None:
        _tell(thresholds, kept.names)
    answer = kept.load()
    with staged_directory(output) as folder:
        with _Results(folder, kept, options, options.min_score if thresholds is None else thresholds.scores) as results:
            progress = Progress("predicted", len(files))
            for number, (file, read) in enumerate(_read_ahead(files), start=1):
                if isinstance(read, BadImageError):
                    results.leave_out(file, read)
                else:
                    results.add(number, file, read, answer(read))
                progress.advance()
            if not results.images:
                raise UserError(f"none of {len(files)} files could be read; the first: {results.bad[0].message}", "name other images")
            results.finish()
        content = {
            "format_version": FORMAT_VERSION,
            "digest": digest,
            "model": str(kept.path),
            "kind": kept.kind,
            **asdict(options),
            **({} if thresholds is None else {"chosen_on": dict(thresholds.chosen_on), "rule": str(thresholds.rule)}),
            "images": len(results.images),
            "bad_images": len(results.bad),
            "detections": results.detections,
        }
        write_json(folder / report.name, content)
    return _answer("done", output, content)


def _thresholds(kept: KeptModel, named: str | None) -> Thresholds | None:
    """The operating thresholds that are asked for; UserError where the model brings none, or those of another one."""
    if named is None:
        return None
    if named == OWN:
        return kept.thresholds()
    return read_thresholds(Path(named))


def _tell(thresholds: Thresholds, names: Mapping[int, str]) -> None:
    on = thresholds.chosen_on
    digest = str(on.get("dataset_digest", ""))[:12]
    print(
        f"operating thresholds ({thresholds.rule}), chosen on {on.get('split', '?')} of {on.get('dataset', '?')} {digest}: "
        + ", ".join(f"{one.name} {one.score:g}" for one in thresholds.categories[:_TOLD])
        + (", ..." if len(thresholds.categories) > _TOLD else ""),
        flush=True,
    )
    if missing := [name for number, name in names.items() if number not in thresholds.scores]:
        print(f"no threshold is chosen for {', '.join(missing[:_NAMED])}: {DEFAULT_SCORE:g} holds", flush=True)


def image_files(named: Sequence[str], output: Path) -> list[Path]:
    """The images that a person names: files, folders at any depth, patterns, and text files with a path a line; each once, in this order.

    What lies in `output` is left out: pictures of an earlier run. UserError where a name stands for nothing.
    """
    found: dict[Path, None] = {}
    for text in named:
        files = list(_files_of(text))
        if not files:
            raise UserError(f"{text} holds no image", f"name image files, or a folder of some; suffixes are {', '.join(SUFFIXES)}")
        found |= dict.fromkeys(file for file in files if not file.absolute().is_relative_to(output.absolute()))
    if not found:
        raise UserError(f"all images that are named lie in {output}, which is written anew", "name another --output")
    return list(found)


def _files_of(text: str) -> Iterator[Path]:
    path = Path(text)
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    elif path.suffix.lower() == _LIST and path.is_file():
        try:
            lines = decoded(path.read_bytes()).splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no list of images: {error}", "write a path in each line of a text file") from error
        # Relative to the list, as it was written beside the images.
        yield from (path.parent / line.strip() for line in lines if line.strip())
    elif path.is_file():
        yield path
    else:
        matching = [Path(name) for name in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207  # a pattern may be absolute
        if not matching:
            raise UserError(f"{text} does not exist, and matches nothing as a pattern", "name image files, folders, patterns or a list")
        for each in matching:
            yield from _files_of(str(each)) if each.is_dir() else [each]


def _confirm_ours(output: Path) -> None:
    """UserError for a folder that holds anything but an earlier prediction, which would be lost."""
    if output.is_dir() and any(output.iterdir()) and not (output / "predict.json").is_file():
        raise UserError(f"{output} is not empty, and holds no earlier prediction", "name a new or empty folder")


def _digest(kept: KeptModel, files: Sequence[Path], options: Options, thresholds: Thresholds | None) -> str:
    scores = None if thresholds is None else thresholds.scores
    found = hashlib.sha256(json.dumps([FORMAT_VERSION, kept.digest, dict(kept.names), asdict(options), scores]).encode())
    for file in files:
        status = file.stat() if file.exists() else None
        found.update(f"{file.absolute()}\0{status and (status.st_size, status.st_mtime_ns)}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def _read_ahead(files: Sequence[Path]) -> Iterator[tuple[Path, Pixels | BadImageError]]:
    """Each image, or what is wrong with it; the next ones are read meanwhile."""

    def read(file: Path) -> Pixels | BadImageError:
        try:
            return upright_pixels(str(file), file.read_bytes())
        except OSError as error:
            return BadImageError(Check.IMAGE_MISSING, f"{file}: {error.strerror}", "name a file that is there")
        except BadImageError as error:
            return error

    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: deque[tuple[Path, Future[Pixels | BadImageError]]] = deque()
        remaining = iter(files)
        for file in itertools.islice(remaining, _AHEAD):
            waiting.append((file, pool.submit(read, file)))
        while waiting:
            file, future = waiting.popleft()
            yield file, future.result()
            waiting.extend((following, pool.submit(read, following)) for following in itertools.islice(remaining, 1))


class _JsonList:
    """A JSON array that is written element by element: results of thousands of images are not held."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("w", encoding="utf-8")
        self._before = "["

    def add(self, element: dict[str, Any]) -> None:
        self._stream.write(f"{self._before}\n{json.dumps(element)}")
        self._before = ","

    def close(self) -> None:
        self._stream.write("]\n" if self._before == "," else "[]\n")
        self._stream.close()


class _Results:
    """The files of a prediction, written image by image."""

    def __init__(self, folder: Path, kept: KeptModel, options: Options, min_score: float | Mapping[int, float]) -> None:
        self.images: list[dict[str, Any]] = []
        self.bad: list[BadImageError] = []
        self.detections = 0
        self._folder, self._kept, self._options, self._min_score = folder, kept, options, min_score
        self._drawing: deque[Future[None]] = deque()
        self._categories = set(kept.names)

    def __enter__(self) -> _Results:
        with ExitStack() as opening:
            self._pool = opening.enter_context(ThreadPoolExecutor(_AHEAD))
            self._results, self._boxes = (
                opening.enter_context(contextlib.closing(_JsonList(self._folder / name))) for name in (_RESULTS, _BOXES)
            )
            self._closing = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._pool.shutdown(cancel_futures=True)
        self._closing.close()

    def leave_out(self, file: Path, error: BadImageError) -> None:
        self.bad.append(error)
        if len(self.bad) <= _NAMED:
            print(f"left out: {error.message}", flush=True)
        with (self._folder / "bad_images.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"file": str(file), "code": error.check.value, "message": error.message}) + "\n")

    def add(self, number: int, file: Path, pixels: Pixels, outputs: Outputs) -> None:
        """What a model answers for an image."""
        height, width = pixels.shape[:2]
        found = image_detections(outputs, height, width, self._min_score)
        image = {"id": number, "file_name": str(file), "height": height, "width": width}
        if self._options.pictures:
            image["picture"] = f"pictures/{number:06d}_{file.stem}.jpg"
            while len(self._drawing) >= 2 * _AHEAD:
                self._drawing.popleft().result()
            self._drawing.append(self._pool.submit(self._draw, self._folder / image["picture"], pixels, found))
        self.images.append(image)
        self.detections += len(found)
        for detection in found:
            self._categories.add(detection["category_id"])
            entry = {"image_id": number} | {name: detection[name] for name in ("category_id", "score")}
            self._boxes.add(entry | {"bbox": detection["bbox"]})
            if "segmentation" in detection:
                code = detection["segmentation"]
                # Never with the box: `loadRes` takes the box's area for the mask's.
                self._results.add(entry | {"segmentation": mask_outlines(_with_bytes(code)) if self._options.polygons else code})
        self._has_masks = "detection_masks" in outputs

    def finish(self) -> None:
        """Waits for the pictures, and writes what the results are of."""
        for future in self._drawing:
            future.result()
        self._closing.close()
        if not self._has_masks:
            (self._folder / _BOXES).replace(self._folder / _RESULTS)
        names = {number: self._kept.names.get(number, f"#{number}") for number in sorted(self._categories)}
        categories = [{"id": number, "name": name} for number, name in names.items()]
        write_json(self._folder / "images.json", {"images": self.images, "annotations": [], "categories": categories})

    def _draw(self, file: Path, pixels: Pixels, found: list[dict[str, Any]]) -> None:
        boxes = np.array([detection["bbox"] for detection in found], np.float64).reshape(-1, 4)
        corners = np.concatenate([boxes[:, 1::-1], boxes[:, 1::-1] + boxes[:, :1:-1]], axis=1)
        masks = [_with_bytes(detection["segmentation"]) for detection in found if "segmentation" in detection]
        drawn = PictureObjects(
            corners,
            [detection["category_id"] for detection in found],
            masks if len(masks) == len(found) else None,
            [detection["score"] for detection in found],
        )
        write_bytes(file, draw_objects(pixels, drawn, self._kept.names))


def _with_bytes(code: dict[str, Any]) -> Rle:
    return Rle(size=code["size"], counts=code["counts"].encode())


def _least(report: dict[str, Any]) -> str:
    return f"{report['min_score']:g}" if report["thresholds"] is None else "their category's threshold"


def _answer(status: str, output: Path, report: dict[str, Any]) -> StepResult:
    print(
        f"{report['detections']} detections scored {_least(report)} or more on {report['images']} images"
        + (f"; {report['bad_images']} files could not be read: {output / 'bad_images.jsonl'}" if report["bad_images"] else "")
    )
    outputs = {"results": str(output / _RESULTS), "images": str(output / "images.json")}
    if report["pictures"]:
        outputs["pictures"] = str(output / "pictures")
    return StepResult("predict", status, outputs, {name: report[name] for name in ("model", "images", "bad_images", "detections")})
