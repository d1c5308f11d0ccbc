"""Promotions on a real registry of MLflow's, of models that are known by construction: no network runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from tasks import tracking
from tasks.cli import promote_command
from tasks.coco.matches import write_matches
from tasks.nominate import nominate
from tasks.promote import Approval, promote
from tasks.promotion import ledger
from tasks.promotion.policy import Policy, read_policy, shipped_policy
from tasks.records.label_map import read_label_map
from tasks.records.record_set import RecordSet
from tasks.rollback import rollback
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, folder_digest, read_json, write_json
from tasks.tracking.registry import Registry
from tests.coco.drawn_matches import drawn_models
from tests.tracking.mlflow_server import Server

DIGEST, IMAGES = "ab" * 32, 150
BY_ANNA = Approval("anna", "the field test went well")


@dataclasses.dataclass
class Shop:
    """A registered model of its own, and the means to put models into it."""

    name: str
    root: Path
    client: MlflowClient

    def add(self, model: str, found: float, digest: str = DIGEST, **changes: Any) -> ModelDir:
        """A model that finds objects with that probability, evaluated on the split `test` and registered."""
        folder = ModelDir(self.root / model)
        about = {"dataset_digest": digest, "split": "test", "checkpoint_digest": f"checkpoint of {model}", "checkpoint": f"{model}/ckpt-1"}
        # All draw the same images: the objects come first from the generator.
        (matches,) = drawn_models(IMAGES, [found], 2.0, 5, **about)
        folder.test_evaluation.mkdir(parents=True)
        write_matches(folder.test_evaluation / "matches.npz", matches)
        timed = {
            "device": "CPU",
            "machine": "here",
            "image_size": [500, 500],
            "seconds_per_image": {"1": {"p50": 0.1, "p95": 0.2, "runs": 9}},
        }
        metrics = {
            **about,
            "dataset": self.name,
            "metrics": {"DetectionBoxes_Precision/mAP": found / 2},
            "latency": {**timed, "peak_memory": {"bytes": 2_000_000_000, "of": "process"}},
        }
        write_json(folder.test_evaluation / "metrics.json", metrics | changes)
        folder.train.mkdir()
        label_map = self.root / "label_map.pbtxt"
        label_map.write_text('item { id: 1 name: "one" } item { id: 2 name: "two" }')
        (folder.train / "experiment.yaml").write_text(yaml.safe_dump({"task": {"validation_data": {"label_map_path": str(label_map)}}}))
        exported = folder.registered / "model"
        exported.mkdir(parents=True)
        (exported / "MLmodel").write_text(f"flavors: {{}} # {model}\n")
        check = {"images": 3, "detections": 9, "agreeing": 9, "score_difference": 0.0, "box_difference": 0.0, "least_mask_iou": 1.0}
        tags = {
            "config": model,
            "checkpoint": about["checkpoint"],
            "checkpoint_digest": about["checkpoint_digest"],
            "trained_on": digest,
            "model_dir": str(folder.root),
            "content_digest": folder_digest(exported),
            "export_check": json.dumps(check | {"agrees": True}),
        }
        write_json(folder.registered / "registration.json", tags)
        records = RecordSet(self.name, digest, self.root, {}, read_label_map(label_map), label_map, {})
        with tracking.model_run(folder, records, "evaluate") as run:
            run.register(exported, tags, records, {"test/box_ap": found / 2, "nothing": None}, 1)
        return folder

    def alias(self, alias: str) -> int | None:
        found = self.client.get_registered_model(self.name).aliases.get(alias)
        return int(found) if found else None

    @property
    def aliases(self) -> tuple[int | None, int | None]:
        return self.alias("champion"), self.alias("previous")

    def decisions(self) -> list[str]:
        return [one["decision"] for one in ledger.decisions(self.name)]


@pytest.fixture
def shop(workspace: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Shop:
    name = request.node.name.split("[")[0].removeprefix("test_") + str(abs(hash(request.node.name)) % 1000)
    return Shop(name, tmp_path, MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}"))


@pytest.fixture
def policy() -> Policy:
    return read_policy(shipped_policy())


def test_promotions_a_refusal_and_rollbacks(shop: Shop, policy: Policy) -> None:
    weak, strong, stronger = shop.add("weak", 0.3), shop.add("strong", 0.6), shop.add("stronger", 0.8)
    first = promote(weak.root, policy, BY_ANNA)
    assert (first.status, first.summary["champion"], shop.aliases) == ("done", 1, (1, None))
    second = promote(strong.root, policy, BY_ANNA)
    assert (second.status, shop.aliases) == ("done", (2, 1))
    # The difference is what the models were drawn with.
    assert second.summary["rules"]["least_probability_better"]["passed"]
    assert promote(strong.root, policy, BY_ANNA).status == "skipped"

    refused = promote(weak.root, policy, BY_ANNA)
    assert (refused.status, refused.summary["passed"], refused.summary["champion"], shop.aliases) == ("refused", False, 2, (2, 1))
    failed = [rule for rule, ruling in refused.summary["rules"].items() if not ruling["passed"]]
    assert failed == ["least_probability_better", "margin_by_category", "margin_by_slice"]

    assert promote(stronger.root, policy, BY_ANNA).status == "done"
    assert shop.aliases == (3, 2)
    back = rollback(shop.name, "ben", "it misses small ones")
    assert (back.summary["champion"], back.summary["champion_before"], shop.aliases) == (2, 3, (2, 1))
    assert rollback(shop.name, "ben", "that one too").summary["champion"] == 1
    assert shop.aliases == (1, None)
    with pytest.raises(UserError, match="has no version before its champion"):
        rollback(shop.name, "ben", "and once more")

    assert shop.decisions() == ["promoted", "promoted", "refused", "promoted", "rolled back", "rolled back"]
    told = list(ledger.decisions(shop.name))
    assert [(one["version"], one["champion_before"], one["by"]) for one in told][:3] == [(1, None, "anna"), (2, 1, "anna"), (1, 2, "anna")]
    assert told[1]["numbers"]["difference_low"] > 0
    assert told[2]["numbers"]["probability_better"] < 0.05
    assert told[4]["reason"] == "it misses small ones"
    # MLflow has them too: a run each, with its numbers, and a table on the model's page.
    experiment = shop.client.get_experiment_by_name(f"{shop.name} promotions")
    runs = shop.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    assert [run.data.tags["decision"] for run in runs] == shop.decisions()
    assert runs[1].data.metrics["difference_low"] == pytest.approx(told[1]["numbers"]["difference_low"])
    assert shop.client.get_registered_model(shop.name).description.count("promoted") == 3


def test_a_version_has_its_figures_and_its_files(shop: Shop) -> None:
    model = shop.add("only", 0.5)
    (version,) = shop.client.search_model_versions(f"name = '{shop.name}'")
    logged = shop.client.get_logged_model(version.tags["model_id"])
    assert version.tags["checkpoint"] == "only/ckpt-1"
    assert {(one.key, one.value, one.dataset_name, one.dataset_digest) for one in logged.metrics} == {
        ("test/box_ap", 0.25, shop.name, DIGEST[:36])
    }
    registry = Registry(shop.name)
    held = registry.with_checkpoint("checkpoint of only")
    assert held is not None
    assert registry.content_digest(held) == folder_digest(model.registered / "model")
    assert read_json(model.registered / "version.json")["version"] == 1
    # Evaluated again it is the same version.
    records = RecordSet(shop.name, DIGEST, shop.root, {}, read_label_map(shop.root / "label_map.pbtxt"), shop.root, {})
    with tracking.model_run(model, records, "evaluate") as run:
        run.register(model.registered / "model", held.tags, records, {"box_ap": 0.3}, 1)
    assert len(shop.client.search_model_versions(f"name = '{shop.name}'")) == 1
    assert {one.key for one in shop.client.get_logged_model(version.tags["model_id"]).metrics} == {"test/box_ap", "box_ap"}


WAYS_TO_FAIL: dict[str, dict[str, Any]] = {
    "least_ap": {"metrics": {"DetectionBoxes_Precision/mAP": 0.01}},
    "most_seconds_per_image": {"latency": None},
    "data_known": {"dataset_digest": "cd" * 32},
}


@pytest.mark.parametrize("rule", WAYS_TO_FAIL)
def test_each_rule_refuses(shop: Shop, policy: Policy, rule: str) -> None:
    model = shop.add("model", 0.5, **WAYS_TO_FAIL[rule])
    judged = promote(model.root, policy, None).summary["rules"]
    assert not judged[rule]["passed"]
    assert judged["split_chose_nothing"]["passed"]
    assert shop.decisions() == []


def test_files_that_changed_in_the_registry_are_not_promoted(shop: Shop, policy: Policy) -> None:
    model = shop.add("model", 0.5)
    (version,) = shop.client.search_model_versions(f"name = '{shop.name}'")
    location = shop.client.get_logged_model(version.tags["model_id"]).artifact_location
    (Path(location.removeprefix("file://")) / "MLmodel").write_text("something else")
    result = promote(model.root, policy, BY_ANNA)
    assert result.status == "refused"
    assert "are not those that were held against the checkpoint" in result.summary["rules"]["export_agrees"]["evidence"]
    assert shop.alias("champion") is None


def test_the_split_that_chose_is_refused(shop: Shop, policy: Policy) -> None:
    model = shop.add("model", 0.5)
    model.test_evaluation.rename(model.evaluation)
    (matches,) = drawn_models(IMAGES, [0.5], 2.0, 5, dataset_digest=DIGEST, split="val", checkpoint_digest="checkpoint of model")
    write_matches(model.evaluation / "matches.npz", matches)
    result = promote(model.root, dataclasses.replace(policy, split="val"), None)
    assert not result.summary["rules"]["split_chose_nothing"]["passed"]
    with pytest.raises(UserError, match="was not evaluated on the split test") as error:
        promote(model.root, policy, BY_ANNA)
    assert "--split test" in error.value.fix


def test_a_champion_that_was_measured_on_other_data_is_measured_anew(shop: Shop, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(shop.add("old", 0.6, "cd" * 32).root, policy, BY_ANNA)
    model = shop.add("new", 0.3)
    asked = []

    def evaluated(_artifacts: Path, _records: Any, about: Any, folder: Path) -> Any:
        asked.append((about["config"], about["split"], about["dataset_digest"]))
        (matches,) = drawn_models(IMAGES, [0.6], 2.0, 5, **about)
        write_matches(folder / "matches.npz", matches)
        return matches

    monkeypatch.setattr("tasks.promotion.champion._evaluated", evaluated)
    assert promote(model.root, policy, BY_ANNA).status == "refused"
    # What was found is kept.
    assert promote(model.root, policy, None).status == "checked"
    assert asked == [("old", "test", DIGEST)]


def promote_at_once(models: list[ModelDir], policy: Policy) -> list[str]:
    """The statuses of promotions that have compared with the same champion before either moves it."""
    both, statuses = threading.Barrier(2), []
    plain = Registry.locked

    def together(self: Registry, seconds: float = 0.0) -> Any:
        both.wait(60)
        return plain(self, seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "locked", together)
        threads = [
            threading.Thread(target=lambda model=model: statuses.append(promote(model.root, policy, BY_ANNA).status)) for model in models
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return statuses


@pytest.mark.parametrize("way", ["threads", "processes"])
def test_two_promotions_at_once_cannot_both_win(shop: Shop, policy: Policy, way: str, tmp_path: Path) -> None:
    promote(shop.add("weak", 0.2).root, policy, BY_ANNA)
    models = [shop.add("one", 0.6), shop.add("other", 0.61)]
    if way == "processes":
        words = [
            [sys.executable, "-m", "tasks", "promote", str(one.root), "--reason", "in a hurry", "--result", str(one.root / "result.json")]
            for one in models
        ]
        running = [subprocess.Popen(one, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL) for one in words]
        codes = [one.wait(300) for one in running]
        statuses = [read_json(one.root / "result.json")["status"] for one in models]
        assert sorted(codes) == [0, 3]
    else:
        statuses = promote_at_once(models, policy)
    assert sorted(statuses) == ["done", "refused"]
    assert shop.alias("previous") == 1
    assert shop.alias("champion") in (2, 3)
    assert sorted(shop.decisions()[1:]) == ["promoted", "refused"]


def test_a_server_s_registry_promotes_refuses_and_rolls_back(
    workspace: Path, tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a database of our own: an `mlflow server`, which hands out the models' files too."""
    server = Server(tmp_path)
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        shop = Shop("fruits of a server", tmp_path, MlflowClient(server.url))
        weak = shop.add("weak", 0.3)
        first = promote(weak.root, policy, BY_ANNA)
        assert (first.status, shop.aliases) == ("done", (1, None))
        assert first.summary["rules"]["export_agrees"]["passed"]
        assert sorted(promote_at_once([shop.add("one", 0.6), shop.add("other", 0.61)], policy)) == ["done", "refused"]
        winner = shop.alias("champion")
        assert (winner in (2, 3), shop.alias("previous")) == (True, 1)
        assert promote(weak.root, policy, BY_ANNA).status == "refused"
        assert shop.aliases == (winner, 1)
        assert rollback(shop.name, "ben", "it misses small ones").summary["champion"] == 1
        assert shop.aliases == (1, None)
        told = list(ledger.decisions(shop.name))
        decisions = [one["decision"] for one in told]
        assert (decisions[0], {*decisions[1:3]}, decisions[3:]) == ("promoted", {"promoted", "refused"}, ["refused", "rolled back"])
        experiment = shop.client.get_experiment_by_name(f"{shop.name} promotions")
        runs = shop.client.search_runs([experiment.experiment_id])
        assert sorted(run.data.tags["decision"] for run in runs) == sorted(one["decision"] for one in told)
    finally:
        server.kill()


def test_a_lock_that_somebody_holds(shop: Shop, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shop.add("model", 0.5)
    monkeypatch.setattr("tasks.promote._WAIT_SECONDS", 0.0)
    with Registry(shop.name).locked(), pytest.raises(UserError, match=r"somebody else moves the champion.*process") as error:
        promote(model.root, policy, BY_ANNA)
    assert f"delete the registered model {shop.name}.lock" in error.value.fix
    assert (shop.alias("champion"), shop.decisions()) == (None, [])
    assert promote(model.root, policy, BY_ANNA).status == "done"


def test_the_gate_refuses_and_leaves_the_rest_to_a_person(shop: Shop, policy: Policy) -> None:
    gate = Approval("the rules", "the gate", only_refuses=True)
    strong, weak = shop.add("strong", 0.6), shop.add("weak", 0.3, metrics={"DetectionBoxes_Precision/mAP": 0.01})
    passed = promote(strong.root, policy, gate)
    assert (passed.status, passed.summary["passed"], passed.summary["decision"]) == ("checked", True, None)
    assert (shop.alias("champion"), shop.decisions()) == (None, [])
    refused = promote(weak.root, policy, gate)
    assert (refused.status, refused.summary["decision"]) == ("refused", "refused")
    assert [(one["decision"], one["by"]) for one in ledger.decisions(shop.name)] == [("refused", "the rules")]


def test_three_ways_to_ask_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dry-run, --gate and --decline are different things"):
        promote_command(tmp_path, "a reason", gate=True, decline=True)


def test_the_model_and_split_of_a_promotion_are_known_before_anything_is_measured(shop: Shop, policy: Policy) -> None:
    model = shop.add("model", 0.5)
    write_json(shop.root / "compare" / "comparison.json", {"best": "model"})
    for target in (model.root, shop.root):
        found = nominate(target, policy)
        assert (found.outputs, found.summary["split"]) == ({"model": str(model.root)}, "test")
    with pytest.raises(UserError, match="is neither a model's folder nor a pipeline run's"):
        nominate(shop.root / "nowhere", policy)
    model.train.rename(shop.root / "elsewhere")
    model.pipeline_config.touch()
    with pytest.raises(UserError, match="was not trained") as error:
        nominate(model.root, policy)
    assert error.value.fix.startswith("train it: maskline train ")


def test_a_person_may_keep_the_champion(shop: Shop, policy: Policy) -> None:
    model = shop.add("model", 0.5)
    result = promote(model.root, policy, Approval("carla", "the customer is on holiday", declines=True))
    assert (result.status, result.summary["decision"], result.summary["passed"]) == ("refused", "declined", True)
    assert (shop.alias("champion"), shop.decisions()) == (None, ["declined"])


def test_a_move_that_fails_is_written_down(shop: Shop, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shop.add("model", 0.5)
    monkeypatch.setattr(Registry, "move", lambda *rest: (_ for _ in ()).throw(ConnectionError("gone")))
    with pytest.raises(ConnectionError):
        promote(model.root, policy, BY_ANNA)
    assert shop.decisions() == ["promoted", "failed"]
    monkeypatch.undo()


def unregistered(shop: Shop) -> Path:
    model = shop.add("model", 0.5)
    metrics = read_json(model.test_evaluation / "metrics.json") | {"checkpoint_digest": "another"}
    write_json(model.test_evaluation / "metrics.json", metrics)
    (matches,) = drawn_models(IMAGES, [0.5], 2.0, 5, dataset_digest=DIGEST, split="test", checkpoint_digest="another")
    write_matches(model.test_evaluation / "matches.npz", matches)
    return model.root


def of_an_unknown_dataset(shop: Shop) -> Path:
    model = shop.add("model", 0.5)
    write_json(model.test_evaluation / "metrics.json", read_json(model.test_evaluation / "metrics.json") | {"dataset": "nobody's"})
    return model.root


def a_run_without_comparison(shop: Shop) -> Path:
    write_json(shop.root / "run.json", {})
    return shop.root


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (unregistered, "MLflow has no version of .* with the checkpoint"),
        (of_an_unknown_dataset, "has no registered model nobody's"),
        (a_run_without_comparison, "comparison.json does not exist"),
        (lambda shop: shop.root / "nowhere", "is neither a model's folder nor a pipeline run's"),
    ],
)
def test_what_cannot_be_judged_is_named(shop: Shop, policy: Policy, make: Callable[[Shop], Path], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        promote(make(shop), policy, BY_ANNA)
