"""The champion on newer data: models that are known by construction, and records of two days that differ in what is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tasks.coco.matches import write_matches
from tasks.materialize import materialize
from tasks.promote import promote
from tasks.promotion.policy import Policy
from tasks.reassess import reassess
from tasks.records.manifest import read_manifest
from tasks.running.errors import UserError
from tasks.running.line_file import whole_lines
from tasks.running.workspace import DatasetDir, promotion_dir
from tests.coco.drawn_matches import drawn_models, expected_precision
from tests.small_dataset import write_source
from tests.test_promote import BY_ANNA, Shop, policy, shop

__all__ = ["policy", "shop"]
IMAGES = 200


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetDir, DatasetDir]:
    """The records of the promotion's day, and of today: then each image but one had an object, now only half of the many have one."""
    made = []
    for name, images in (("then", 24), ("now", 96)):
        source = tmp_path_factory.mktemp(name)
        write_source(source, images)
        values = yaml.safe_load((source / "dataset.yaml").read_text()) | {"split": {"train": 0.4, "val": 0.2, "test": 0.4}}
        (source / "dataset.yaml").write_text(yaml.safe_dump(values))
        if name == "now":
            content = json.loads((source / "all.json").read_text())
            content["annotations"] = content["annotations"][::2]
            (source / "all.json").write_text(json.dumps(content))
        made.append(DatasetDir(source / "records"))
        materialize(source / "dataset.yaml", made[-1].root)
    return made[0], made[1]


def champion(shop: Shop, policy: Policy, then: DatasetDir) -> None:
    """One that finds objects with probability 0.6, promoted on the records of that day."""
    shutil.copyfile(then.manifest, DatasetDir(shop.root).manifest)
    assert promote(shop.add("model", 0.6, read_manifest(then.manifest).digest).root, policy, BY_ANNA).status == "done"


def measured_now(shop: Shop, now: DatasetDir, found: float, images: int = IMAGES, seed: int = 6) -> None:
    """What an evaluation of it on today's records would leave."""
    digest = read_manifest(now.manifest).digest
    (matches,) = drawn_models(images, [found], 2.0, seed, split="test", dataset_digest=digest, checkpoint_digest="checkpoint of model")
    folder = promotion_dir(shop.name) / f"version-1-test-{digest[:16]}"
    folder.mkdir()
    write_matches(folder / "matches.npz", matches)


@pytest.mark.parametrize(("found", "images", "fell"), [(0.6, IMAGES, False), (0.4, IMAGES, True), (0.4, 9, False)])
def test_a_champion_has_fallen_where_it_is_shown_to_find_less(
    shop: Shop, policy: Policy, days: tuple[DatasetDir, DatasetDir], found: float, images: int, fell: bool
) -> None:
    then, now = days
    champion(shop, policy, then)
    measured_now(shop, now, found, images)
    result = reassess(now, shop.name)
    assert (result.status, result.summary["fell"], result.summary["version"]) == ("done", fell, 1)
    if images == IMAGES:
        # The difference is what the models were drawn with.
        expected = expected_precision(found, 2.0) - expected_precision(0.6, 2.0)
        assert result.summary["ap"] - result.summary["ap_before"] == pytest.approx(expected, abs=0.03)
    assert ("it has fallen by more than 0.02" in result.summary["sentence"]) == fell
    (line,) = [json.loads(text) for text, _ in whole_lines(promotion_dir(shop.name) / "reassessments.jsonl")]
    assert (line["fell"], line["dataset_digest"]) == (fell, read_manifest(now.manifest).digest)
    runs = shop.client.search_runs([shop.client.get_experiment_by_name(f"{shop.name} promotions").experiment_id])
    assert sorted(run.data.tags["decision"] for run in runs) == ["promoted", "reassessed"]
    assert shop.decisions() == ["promoted"]  # it is no decision


def test_the_drift_of_the_data_is_told_by_what_has_moved(shop: Shop, policy: Policy, days: tuple[DatasetDir, DatasetDir]) -> None:
    then, now = days
    champion(shop, policy, then)
    measured_now(shop, now, 0.6)
    told = reassess(now, shop.name).summary
    assert told["data_compared"]
    assert any(line.startswith("train, images by number of objects: ") for line in told["drift"])
    assert not any("objects by category" in line for line in told["drift"])


def test_on_the_records_of_its_promotion_a_champion_is_what_it_was(shop: Shop, policy: Policy, days: tuple[DatasetDir, DatasetDir]) -> None:
    then, _ = days
    champion(shop, policy, then)
    told = reassess(then, shop.name).summary
    assert told["ap"] == told["ap_before"]
    assert (told["fell"], told["drift"]) == (False, [])


def test_more_may_be_allowed(shop: Shop, policy: Policy, days: tuple[DatasetDir, DatasetDir]) -> None:
    champion(shop, policy, days[0])
    measured_now(shop, days[1], 0.4)
    assert not reassess(days[1], shop.name, allowed_fall=0.5).summary["fell"]
    with pytest.raises(UserError, match=r"--allowed-fall is 1\.5"):
        reassess(days[1], shop.name, allowed_fall=1.5)


def test_what_was_not_kept_is_not_made_up(shop: Shop, policy: Policy, days: tuple[DatasetDir, DatasetDir]) -> None:
    champion(shop, policy, days[0])
    measured_now(shop, days[1], 0.4)
    shutil.rmtree(promotion_dir(shop.name) / "version-1")
    told = reassess(days[1], shop.name).summary
    assert (told["fell"], told["data_compared"]) == (True, False)  # the model's own evaluation is still there
    shutil.rmtree(shop.root / "model" / "evaluation_test")
    told = reassess(days[1], shop.name).summary
    assert (told["fell"], told["ap"], told["sentence"]) == (False, None, "nothing of its promotion was kept that could be compared with")


def test_without_a_champion_there_is_nothing_to_measure(shop: Shop, days: tuple[DatasetDir, DatasetDir]) -> None:
    # Nor where no model of the data was evaluated at all: `tiny`, as the records are called.
    assert (reassess(days[1]).status, reassess(days[1]).summary["name"]) == ("skipped", "tiny")
    shop.add("model", 0.6)
    assert reassess(days[1], shop.name).status == "skipped"


def test_a_split_that_the_data_does_not_have_is_named(shop: Shop, policy: Policy, days: tuple[DatasetDir, DatasetDir]) -> None:
    champion(shop, policy, days[0])
    with pytest.raises(UserError, match="has no split `tset`"):
        reassess(days[1], shop.name, split="tset")
    with pytest.raises(UserError, match="has no registered model nobody"):
        reassess(days[1], "nobody")


def test_promotion_keeps_what_it_rested_on(shop: Shop, policy: Policy, days: tuple[DatasetDir, DatasetDir]) -> None:
    champion(shop, policy, days[0])
    kept: Path = promotion_dir(shop.name) / "version-1"
    assert sorted(path.name for path in kept.iterdir()) == ["manifest.json", "matches.npz"]
    assert read_manifest(kept / "manifest.json").digest == read_manifest(days[0].manifest).digest
