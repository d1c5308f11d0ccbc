"""Data and records under URLs: the bytes of a local run, by one process and by several, and errors that say what to mend."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer

from tasks.materialize import Effort, materialize
from tasks.records.manifest import read_manifest
from tasks.records.tfrecord import read_shard, write_shard
from tasks.running.errors import UserError
from tasks.running.working_copy import WorkingCopy
from tasks.running.workspace import located, write_text
from tests.small_dataset import change_annotations, files_of, write_source

BUCKET = "s3://data"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server with an empty bucket, which processes find by their environment."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("data")
        yield os.environ["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def s3(server: str) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test change the environment that the server is found by."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3: pytest.MonkeyPatch) -> Path:
    """A folder of the bucket that is this test's own."""
    return located(f"{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def memory() -> Path:
    return located(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(params=["memory", "bucket"])
def store(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Where the same data lies on a disk, as `in`, and its records, as `out`."""
    write_source(tmp_path / "in")
    materialize(tmp_path / "in" / "dataset.yaml", tmp_path / "out", effort=Effort(shards=2))
    return tmp_path


def test_all_from_and_to_a_store_gives_the_bytes_of_a_local_run(store, local):
    write_source(store / "in")
    assert materialize(store / "in" / "dataset.yaml", store / "out", effort=Effort(shards=2)).status == "done"
    assert files_of(store / "out") == files_of(local / "out")
    (shard,) = read_manifest(store / "out" / "manifest.json").splits["val"].shards[:1]
    assert list(read_shard(store / "out" / shard)) == list(read_shard(local / "out" / shard))


def test_several_processes_give_the_same_bytes(bucket, local):
    write_source(bucket / "in")
    materialize(bucket / "in" / "dataset.yaml", bucket / "out", effort=Effort(shards=2, workers=2))
    assert files_of(bucket / "out") == files_of(local / "out")


def test_a_local_yaml_names_urls_and_records_stay_local(bucket, local, tmp_path):
    write_source(bucket)
    (tmp_path / "dataset.yaml").write_text(
        f"name: tiny\nsource: {{images: {bucket}/images, annotations: {bucket}/all.json}}\nsplit: {{train: 0.5, val: 0.5}}\n"
    )
    materialize(tmp_path / "dataset.yaml", tmp_path / "here", effort=Effort(shards=2))
    assert files_of(tmp_path / "here") == files_of(local / "out")


def test_the_same_input_is_skipped_and_another_takes_its_place(store, local):
    run = lambda: materialize(local / "in" / "dataset.yaml", store / "out", effort=Effort(shards=2)).status  # noqa: E731
    assert [run(), run()] == ["done", "skipped"]
    change_annotations(local / "in", lambda content: content["annotations"][0].update(iscrowd=1))
    assert materialize(local / "in" / "dataset.yaml", store / "out", effort=Effort(shards=1)).status == "done"
    materialize(local / "in" / "dataset.yaml", local / "other", effort=Effort(shards=1))
    assert files_of(store / "out") == files_of(local / "other")


def test_parts_are_joined(store, local, capsys):
    for part in ((2, 4), (0, 1)):
        materialize(local / "in" / "dataset.yaml", store / "out", effort=Effort(shards=2, shard_range=part))
    capsys.readouterr()
    materialize(local / "in" / "dataset.yaml", store / "out", effort=Effort(shards=2))
    assert "3 of 4 shards are there already" in capsys.readouterr().out
    assert files_of(store / "out") == files_of(local / "out")


def test_generated_scenes_are_drawn_here_and_recorded_there(memory, tmp_path):
    (tmp_path / "dataset.yaml").write_text("name: scenes\nshapes: {train: 2, val: 1, height: 32, width: 40}\n")
    materialize(tmp_path / "dataset.yaml", memory)
    materialize(tmp_path / "dataset.yaml", tmp_path / "out")
    here = {name: content for name, content in files_of(tmp_path / "out").items() if not name.startswith("source/")}
    assert files_of(memory) == here


def test_a_bad_image_is_named_and_leaves_nothing(store, local):
    write_source(store / "in")
    (store / "in" / "images" / "4.png").unlink()
    with pytest.raises(UserError, match=r"/images/4\.png: the image file cannot be opened"):
        materialize(store / "in" / "dataset.yaml", store / "out", effort=Effort(shards=2))
    assert files_of(store / "out") == {}


def test_a_shard_that_is_given_up_is_not_there(store):
    def records() -> Iterator[bytes]:
        yield bytes(100)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_shard(store / "shard", records())
    assert not (store / "shard").exists()


def test_a_bucket_that_is_not_there_is_named_and_not_made(s3, local):
    with pytest.raises(UserError, match=r"s3://none/out/.* cannot be written: The specified bucket does not exist"):
        materialize(local / "in" / "dataset.yaml", located("s3://none/out"))
    with pytest.raises(UserError, match=r"s3://none/d\.yaml: the dataset's YAML cannot be opened: The specified bucket does not exist"):
        materialize(located("s3://none/d.yaml"), local / "other")
    assert s3fs.S3FileSystem().ls("") == ["data"]


def test_a_workspace_in_a_bucket_that_is_not_there_is_refused_before_anything_is_done(s3, tmp_path):
    with pytest.raises(UserError, match=r"s3://none/ws cannot be reached: there is no bucket none\n  fix: correct MASKLINE_WORKSPACE"):
        WorkingCopy("s3://none/ws", tmp_path).open("runs/r/model")
    WorkingCopy(f"{BUCKET}/new", tmp_path).open("runs/r/model")


def test_without_credentials_the_way_out_is_told(s3, tmp_path):
    s3.delenv("AWS_ACCESS_KEY_ID")
    s3.delenv("AWS_SECRET_ACCESS_KEY")
    s3.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"s3://data/d\.yaml cannot be reached: .*credentials\n.*credentials in the environment"):
        located("s3://data/d.yaml")


def test_a_server_that_does_not_answer_is_told(s3, local):
    s3.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    yaml = local / "in" / "dataset.yaml"
    yaml.write_text(yaml.read_text().replace("images: images", "images: s3://data/images"))
    with pytest.raises(UserError, match=r"s3://data/images cannot be reached: .*endpoint"):
        materialize(yaml, local / "other")


@set_initial_no_auth_action_count(0)
def test_wrong_credentials_are_told(s3):
    with pytest.raises(UserError, match=r"s3://data/d\.yaml cannot be reached: .*\n.*credentials in the environment"):
        located("s3://data/d.yaml")


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "maskline[s3]"), ("gs", "maskline[gs]")])
def test_a_package_that_is_missing_is_named(protocol, extra):
    code = "import sys; sys.modules.update(s3fs=None, gcsfs=None); from tasks.cli import main; main()"
    command = [sys.executable, "-c", code, "materialize", f"{protocol}://data/d.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"fix: install {extra}\n" in done.stderr


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UserError, match=r"s4://data/d\.yaml: .*s4"):
        located("s4://data/d.yaml")


def test_a_file_url_is_a_local_path(tmp_path):
    write_text(located(f"file://{tmp_path}/a/b.txt"), "here")
    assert (tmp_path / "a" / "b.txt").read_text() == "here"
