"""The default dataset: what it promises of its scenes, and its forms against their geometry."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import yaml
from PIL import Image

from tasks.annotations.coco import CocoSource
from tasks.annotations.instances import instances_of
from tasks.coco.masks import rle_area, rle_extent_yxyx
from tasks.running.errors import UserError
from tasks.shapes.dataset import ShapesConfig, shapes, write_shapes
from tasks.shapes.forms import CLASSES, Form
from tasks.shapes.scene import Contents, render_scene
from tasks.shapes.surfaces import linear_rgb, skin

SMALL = ShapesConfig(train=12, val=3, height=96, width=128, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "source"
    write_shapes(SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(np.random.default_rng([1, index]), 64, 80) for index in range(80)]


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_equal_configs_give_equal_bytes(folder, tmp_path):
    write_shapes(SMALL, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(folder)


def test_another_seed_gives_other_pictures(folder, tmp_path):
    write_shapes(ShapesConfig(train=1, val=1, height=96, width=128, seed=6), tmp_path / "other")
    name = "images/train/train_000000.jpg"
    assert files_of(tmp_path / "other")[name] != files_of(folder)[name]


def test_the_first_images_stay_when_more_are_asked_for(folder, tmp_path):
    write_shapes(ShapesConfig(train=2, val=1, height=96, width=128, seed=5), tmp_path / "fewer")
    fewer = files_of(tmp_path / "fewer")
    images = [name for name in fewer if name.endswith(".jpg")]
    assert len(images) == 3
    assert all(fewer[name] == files_of(folder)[name] for name in images)


def test_it_is_coco_json_with_ordinary_jpegs(folder):
    splits = yaml.safe_load((folder / "dataset.yaml").read_text())["splits"]
    assert list(splits) == ["train", "val"]
    for split, count in (("train", 12), ("val", 3)):
        content = json.loads((folder / splits[split]["annotations"]).read_text())
        assert [category["name"] for category in content["categories"]] == list(CLASSES)
        assert len(content["images"]) == count
        for entry in content["images"]:
            with Image.open(folder / splits[split]["images"] / entry["file_name"]) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 96))


def test_boxes_and_areas_are_the_masks_own(folder):
    source = CocoSource(folder / "images" / "train", folder / "train.json")
    for image in source.list().images:
        assert image.size is not None
        instances, findings = instances_of(source.objects(image, image.size), image.size, {index: index for index in range(1, 5)})
        assert not findings
        for instance in instances:
            assert instance.box_yxyx == rle_extent_yxyx(instance.mask)
            assert instance.area == rle_area(instance.mask)


def test_no_pixel_is_on_two_objects_and_every_object_shows(scenes):
    for scene in scenes:
        if scene.masks:
            assert np.sum(scene.masks, axis=0).max() == 1
            assert min(mask.sum() for mask in scene.masks) >= 20


def test_scenes_are_as_various_as_promised(scenes):
    masks = [mask for scene in scenes for mask in scene.masks]
    names = [name for scene in scenes for name in scene.class_names]
    counts = [len(scene.masks) for scene in scenes]
    assert set(names) == set(CLASSES)
    assert min(names.count(name) for name in CLASSES) > len(names) / 10
    assert 0 in counts
    assert max(counts) >= 5
    areas = np.array([mask.sum() for mask in masks])
    assert areas.max() > 30 * areas.min()
    at_border = [mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any() for mask in masks]
    assert 0.1 < np.mean(at_border) < 0.7


def test_contents_bound_the_number_and_the_size_of_objects():
    rng = np.random.default_rng(7)
    scenes = [render_scene(rng, 64, 80, Contents(most_objects=1, smallest_radius=0.2, largest_radius=0.25)) for _ in range(60)]
    assert {len(scene.masks) for scene in scenes} == {0, 1}
    balls = [scene.masks[0] for scene in scenes if scene.class_names == ("ball",)]
    whole = [ball.sum() for ball in balls if not (ball[0].any() or ball[-1].any() or ball[:, 0].any() or ball[:, -1].any())]
    # Radii of 12.8 to 16 pixels, less or more by what a pixel that is half on the ball decides.
    assert len(whole) >= 3
    assert math.pi * 12.3**2 < min(whole) < max(whole) < math.pi * 16.5**2


@pytest.mark.parametrize("name", CLASSES)
def test_coloured_classes_keep_to_their_hue(name):
    hue = Contents(coloured_classes=True).hue_of(name)
    # The channel that is strongest a third of the circle away from the hue is the weakest on each of these objects.
    far = int(np.argmin(linear_rgb(hue, 1.0, 1.0)))
    for seed in range(20):
        mean = skin(np.random.default_rng(seed), 24, 24, hue).albedo.mean(axis=(0, 1))
        assert mean[far] <= mean.max() / 1.3
    assert Contents().hue_of(name) is None


def test_objects_overlap_and_the_later_one_is_on_top():
    from tasks.shapes.scene import _visible

    below, above = np.zeros((2, 4, 4), np.uint8)
    below[:3, :3] = 1
    above[1:, 1:] = 1
    seen_below, seen_above = _visible([below, above])
    np.testing.assert_array_equal(seen_above, above)
    np.testing.assert_array_equal(seen_below, [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


def test_pictures_have_light_and_texture(scenes):
    for scene in scenes[:20]:
        assert scene.pixels.std() > 6
        assert 40 < scene.pixels.mean() < 235


@pytest.mark.parametrize("name", CLASSES)
def test_a_form_reaches_its_radius_and_no_further(name):
    form = Form(name, np.random.default_rng(3))
    down, across = np.mgrid[-1.2:1.2:481j, -1.2:1.2:481j].astype(np.float32)
    inside = form.depth(down, across) > 0
    assert np.hypot(down, across)[inside].max() == pytest.approx(1, abs=0.03)


def test_forms_have_the_areas_of_their_geometry():
    down, across = np.mgrid[-1.2:1.2:961j, -1.2:1.2:961j].astype(np.float32)
    cell = (2.4 / 960) ** 2

    def area(name):
        return (Form(name, np.random.default_rng(3)).depth(down, across) > 0).sum() * cell

    assert area("ball") == pytest.approx(math.pi, rel=0.01)
    assert area("ring") == pytest.approx(math.pi * (1 - 0.4**2), rel=0.01)
    # Ten triangles from the centre to a tip at 1 and a valley at v: 10 * v * sin(pi / 5) / 2, with v from 0.45 to 0.52.
    low, high = (5 * valley * math.sin(math.pi / 5) for valley in (0.45, 0.52))
    assert low * 0.99 < area("star") < high * 1.01


def test_a_ball_is_half_a_sphere():
    form = Form("ball", np.random.default_rng(0))
    radius = np.linspace(0, 0.99, 50, dtype=np.float32)
    np.testing.assert_allclose(form.height(form.depth(radius, np.zeros_like(radius))), np.sqrt(1 - radius**2), atol=1e-3)


def test_the_step_skips_what_is_there_and_refuses_foreign_folders(folder, tmp_path):
    assert shapes(SMALL, folder).status == "skipped"
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="the folder holds something else"):
        shapes(SMALL, tmp_path)
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train", 0),
        ("val", -1),
        ("height", 31),
        ("seed", -1),
        ("width", 64.5),
        ("train", True),
        ("most_objects", 0),
        ("largest_radius", 0.6),
        ("smallest_radius", 0),
        ("smallest_radius", True),
        ("smallest_radius", math.nan),
        ("coloured_classes", 1),
    ],
)
def test_impossible_values_are_refused(field, value):
    with pytest.raises(UserError, match=f"shapes: {field} is {value!r}"):
        ShapesConfig(**{field: value})


def test_radii_in_the_wrong_order_are_refused():
    with pytest.raises(UserError, match=r"smallest_radius 0\.4 is above largest_radius 0\.3"):
        ShapesConfig(smallest_radius=0.4)


def test_masks_lie_where_the_picture_changes():
    """Along the outline of objects the picture has edges: gradients there are well above those of the picture at large."""
    on_outline, elsewhere = [], []
    for index in range(12):
        scene = render_scene(np.random.default_rng([7, index]), 96, 128)
        grey = scene.pixels.astype(float).mean(-1)
        down, across = np.gradient(grey)
        slope = np.hypot(down, across)
        for mask in scene.masks:
            mask_down, mask_across = np.gradient(mask.astype(float))
            outline = np.hypot(mask_down, mask_across) > 0
            on_outline.append(slope[outline].mean())
            elsewhere.append(slope[~outline].mean())
    assert np.mean(np.array(on_outline) > 1.5 * np.array(elsewhere)) > 0.8
