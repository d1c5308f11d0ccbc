"""What a record holds, read as training reads it (`tf.io.decode_image`), against the pixels that were put into the file."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.records.checks import BadImageError, Check
from tasks.records.image_file import EncodedImage, encode_image, read_image_bytes, upright_pixels

HEIGHT, WIDTH = 24, 40


def picture() -> np.ndarray:
    """Smooth, so that JPEG changes it little, and different in each channel and each corner."""
    down, across = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([down * 10, across * 6, 255 - down * 5 - across * 3], -1).astype(np.uint8)


def read_image(path: Path, height: int, width: int) -> EncodedImage:
    return encode_image(str(path), read_image_bytes(path), (height, width))


def decoded(content: bytes) -> np.ndarray:
    import tensorflow as tf

    return tf.io.decode_image(content, channels=3, expand_animations=False).numpy()


def assert_same_picture(encoded: EncodedImage, expected: np.ndarray) -> None:
    """PNG exactly; JPEG up to what TensorFlow's fast inverse transform differs from Pillow's exact one."""
    difference = np.abs(decoded(encoded.content).astype(int) - expected.astype(int))
    assert difference.max() <= (0 if encoded.format == "png" else 24)
    assert difference.mean() <= (0 if encoded.format == "png" else 1.5)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(("suffix", "name"), [("jpg", "jpeg"), ("png", "png")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_images_are_kept_byte_for_byte(tmp_path, suffix, name, mode):
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(picture()).convert(mode))
    encoded = read_image(path, HEIGHT, WIDTH)
    assert encoded.content == path.read_bytes()
    assert (encoded.format, encoded.height, encoded.width) == (name, HEIGHT, WIDTH)
    assert encoded.findings == ((Check.IMAGE_GREY,) if mode == "L" else ())
    assert encoded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with Image.open(path) as image:
        assert_same_picture(encoded, np.asarray(image.convert("RGB")))


def rgba() -> Image.Image:
    return Image.fromarray(np.dstack([picture(), np.full((HEIGHT, WIDTH), 128, np.uint8)]))


def palette() -> Image.Image:
    return Image.fromarray(picture()).convert("P")


def sixteen_bit_grey() -> Image.Image:
    return Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("suffix", "image", "expected", "check"),
    [
        ("png", rgba, picture, Check.IMAGE_ALPHA),
        ("png", palette, lambda: np.asarray(palette().convert("RGB")), Check.IMAGE_PALETTE),
        ("png", sixteen_bit_grey, lambda: np.repeat(picture()[..., :1], 3, -1), Check.IMAGE_SIXTEEN_BIT),
        ("bmp", lambda: Image.fromarray(picture()), picture, Check.IMAGE_REENCODED),
        ("tiff", lambda: Image.fromarray(picture()), picture, Check.IMAGE_REENCODED),
        ("gif", palette, lambda: np.asarray(palette().convert("RGB")), Check.IMAGE_PALETTE),
        ("webp", lambda: Image.fromarray(picture()), picture, Check.IMAGE_REENCODED),
    ],
    ids=["rgba png", "palette png", "16-bit grey png", "bmp", "tiff", "gif", "webp"],
)
def test_other_images_become_rgb_png_and_are_counted(tmp_path, suffix, image, expected, check):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", image(), **options)
    encoded = read_image(path, HEIGHT, WIDTH)
    assert encoded.format == "png"
    assert encoded.findings == (check,)
    assert encoded.sha256 == hashlib.sha256(encoded.content).hexdigest()
    assert_same_picture(encoded, expected())


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture()).convert("CMYK"), quality=100)
    encoded = read_image(path, HEIGHT, WIDTH)
    assert encoded.findings == (Check.IMAGE_CMYK,)
    assert np.abs(decoded(encoded.content).astype(int) - picture()).mean() < 3


def test_the_name_does_not_decide_the_format(tmp_path):
    path = saved(tmp_path / "really_a_png.jpg", Image.fromarray(picture()), format="PNG")
    encoded = read_image(path, HEIGHT, WIDTH)
    assert (encoded.format, encoded.findings) == ("png", (Check.IMAGE_MISNAMED,))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turn_that_the_annotated_size_proves_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture()), exif=exif, quality=100, subsampling=0)
    encoded = read_image(path, WIDTH, HEIGHT)
    assert (encoded.height, encoded.width, encoded.findings) == (WIDTH, HEIGHT, (Check.IMAGE_TURNED,))
    # Orientations as the standard words them: where the file's first row and column are seen.
    upright = {
        5: picture().transpose(1, 0, 2),
        6: np.rot90(picture(), -1),
        7: picture().transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(picture(), 1),
    }[orientation]
    assert np.abs(decoded(encoded.content).astype(int) - upright.astype(int)).max() <= 6


@pytest.mark.parametrize(("orientation", "size"), [(3, (HEIGHT, WIDTH)), (2, (HEIGHT, WIDTH)), (6, (HEIGHT, WIDTH)), (6, (5, 5))])
def test_a_turn_that_nothing_proves_is_refused(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "phone.jpg", Image.fromarray(picture()), exif=exif)
    with pytest.raises(BadImageError, match=rf"phone\.jpg: EXIF orientation {orientation} .*24 x 40"):
        read_image(path, *size)


def test_without_an_annotated_size_the_image_has_its_own_and_must_not_be_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright, turned = (
        saved(tmp_path / name, Image.fromarray(picture()), **options) for name, options in (("a.jpg", {}), ("b.jpg", {"exif": exif}))
    )
    encoded = encode_image("a.jpg", upright.read_bytes(), None)
    assert (encoded.height, encoded.width) == (HEIGHT, WIDTH)
    with pytest.raises(BadImageError, match=r"b\.jpg: EXIF orientation 6") as caught:
        encode_image("b.jpg", turned.read_bytes(), None)
    assert caught.value.check == Check.IMAGE_ORIENTATION


def test_an_upright_tag_changes_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 1
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture()), exif=exif)
    assert read_image(path, HEIGHT, WIDTH).content == path.read_bytes()


def cut_off(path: Path) -> None:
    saved(path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)), format="JPEG")
    path.write_bytes(path.read_bytes()[:-400])


def cut_off_png(path: Path) -> None:
    saved(path, Image.fromarray(picture()), format="PNG")
    path.write_bytes(path.read_bytes()[:-60])


def animated(path: Path) -> None:
    frames = [Image.fromarray(picture() // (1 + index)) for index in range(2)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("make", "check", "reason"),
    [
        (lambda path: None, Check.IMAGE_MISSING, "cannot be opened: No such file"),
        (lambda path: path.write_bytes(b""), Check.IMAGE_EMPTY, "the image file is empty"),
        (lambda path: path.write_bytes(b"not an image"), Check.IMAGE_UNREADABLE, "the image cannot be read"),
        (cut_off, Check.IMAGE_UNREADABLE, "the image cannot be read: .*truncated"),
        (cut_off_png, Check.IMAGE_UNREADABLE, "the image cannot be read"),
        (animated, Check.IMAGE_FRAMES, "holds 2 images"),
        (lambda path: saved(path, Image.new("F", (WIDTH, HEIGHT)), format="TIFF"), Check.IMAGE_MODE, "mode F"),
        (
            lambda path: saved(path, Image.new("RGB", (HEIGHT, WIDTH)), format="PNG"),
            Check.IMAGE_SIZE_SWAPPED,
            r"40 x 24 \(height x width\), and its annotations say 24 x 40 \(height and width are swapped\)",
        ),
        (
            lambda path: saved(path, Image.new("RGB", (30, 20)), format="PNG"),
            Check.IMAGE_SIZE,
            r"20 x 30 .* annotations say 24 x 40\n",
        ),
    ],
    ids=["missing", "empty", "no image", "cut off", "cut off png", "animated", "float", "swapped", "other size"],
)
def test_a_bad_image_is_refused_by_name_and_code(tmp_path, make, check, reason):
    path = tmp_path / "bad.img"
    make(path)
    with pytest.raises(BadImageError, match=rf"bad\.img: .*{reason}") as caught:
        read_image(path, HEIGHT, WIDTH)
    assert caught.value.check == check


def test_a_progressive_or_tiny_image_is_read_whole(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture()), progressive=True)
    assert read_image(path, HEIGHT, WIDTH).findings == ()
    path = saved(tmp_path / "b.jpg", Image.new("RGB", (3, 2)))
    assert read_image(path, 2, 3).findings == ()


UNREADABLE = {"rgb_1bit.tiff", "cat-3449999_640_grayscale_12bit.jpg", "cat-3504008_640_grayscale_16bit.jpg"}


def test_real_edge_cases_are_read_as_pillow_sees_them_or_refused(shared_data: Path):
    folder = shared_data / "image_edge_cases" / "db"
    suffixes = {".jpg", ".jpeg", ".png", ".tiff", ".bmp", ".webp"}
    read, refused = set(), set()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in suffixes):
        try:
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                size = (image.height, image.width)
                turned = image.getexif().get(0x0112, 1)
                rgb = None if image.mode.startswith("I") else np.asarray(image.convert("RGB"))
        except OSError:
            size, turned, rgb = (1, 1), 1, None
        try:
            encoded = read_image(path, *(size[::-1] if turned > 4 else size))
        except BadImageError as error:
            assert path.name in str(error)
            refused.add(path.name)
            continue
        read.add(path.name)
        assert decoded(encoded.content).shape == (encoded.height, encoded.width, 3)
        if turned == 1 and rgb is not None:
            assert_same_picture(encoded, rgb)
    mirrored = {name for name in refused if "mirror_horizontal.jpg" in name or "mirror_vertical.jpg" in name or "rotate_180" in name}
    empty = {path.name for path in folder.rglob("*") if path.is_file() and path.suffix in suffixes and not path.stat().st_size}
    assert len(mirrored) == 3  # orientations 2, 4 and 3: the size cannot tell what the annotator saw
    assert refused == UNREADABLE | mirrored | empty
    assert len(read) >= 15


def test_pixels_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8  # shown after a quarter turn to the left
    path = saved(tmp_path / "a.png", Image.fromarray(picture()), exif=exif)
    np.testing.assert_array_equal(upright_pixels("a.png", path.read_bytes()), np.rot90(picture()))
    with pytest.raises(BadImageError, match=r"a\.png: the image file is empty"):
        upright_pixels("a.png", b"")
    frames = [Image.new("L", (4, 3), grey) for grey in (10, 200)]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert upright_pixels("a.gif", path.read_bytes()).tolist() == [[[10, 10, 10]] * 4] * 3
