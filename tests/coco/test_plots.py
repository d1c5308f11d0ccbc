"""The picture of the compared models: what stands where, read from the drawn texts and bars."""

from __future__ import annotations

import io

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tasks.coco.plots import ModelBar, draw_models

NAMES = ("inception_resnet_v2_atrous", "resnet101_atrous", "a_name_that_somebody_made_very_long_and_then_longer", "m")


def bars(count, precision=lambda _: 0.3):
    names = [f"{NAMES[number % 4]}_{number}" for number in range(count)]
    standings = ["best", *["level"] * count]
    return [
        ModelBar(name, precision(number), (0.2, 0.41), 0.4 + 0.001 * number, 45_000_000, standings[number])
        for number, name in enumerate(names)
    ]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, to look into them."""
    made = []

    class Kept(Figure):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr("tasks.coco.plots.Figure", Kept)
    return made


def texts_of(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axes in figure.axes:
        # Matplotlib holds ticks beyond the end of an axis too, and does not draw them.
        ticks = [label for label in axes.get_xticklabels() if label.get_position()[0] <= axes.get_xlim()[1]]
        for text in [*axes.texts, axes.title, axes._left_title, *ticks, *axes.get_yticklabels()]:
            if text.get_text() and text.get_visible():
                yield text.get_text(), text.get_window_extent(renderer)
    yield figure._supxlabel.get_text(), figure._supxlabel.get_window_extent(renderer)


@pytest.mark.parametrize(
    "models",
    [bars(4), bars(1), bars(30), bars(30, precision=lambda i: 0.5 - i / 100), [ModelBar("a", 0.0, None, 0.1, 1, "other")] * 2, []],
    ids=["four nearly equal", "one", "thirty equal", "thirty", "zero", "none"],
)
def test_no_text_lies_on_another_and_none_leaves_the_picture(figures, models):
    picture = Image.open(io.BytesIO(draw_models(models, "mask AP", "Measured on 16 images with 44 objects. " * 3)))
    (figure,) = figures
    whole = figure.bbox
    assert abs(picture.width - whole.width) <= 1
    assert abs(picture.height - whole.height) <= 1
    # The labels of y repeat in the panels that share the axis, where they are not drawn.
    texts = {(text, tuple(box.extents.round())): box for text, box in texts_of(figure) if box.width > 0}
    boxes = list(texts.items())
    for number, ((text, _), box) in enumerate(boxes):
        assert whole.x0 <= box.x0, text
        assert box.x1 <= whole.x1, text
        assert whole.y0 <= box.y0, text
        assert box.y1 <= whole.y1, text
        for (other, _), another in boxes[number + 1 :]:
            assert not box.overlaps(another), (text, other)


def test_axes_start_at_zero_and_bars_end_at_their_values(figures):
    draw_models(bars(2, precision=lambda i: (0.3, 0.1)[i]), "mask AP", "")
    precision, seconds, parameters = figures[0].axes
    assert [axes.get_xlim()[0] for axes in figures[0].axes] == [0, 0, 0]
    assert [patch.get_width() for patch in precision.patches] == [0.3, 0.1]
    assert [patch.get_width() for patch in seconds.patches] == [0.4, 0.401]
    assert [patch.get_width() for patch in parameters.patches] == [45, 45]
    assert [text.get_text() for text in precision.texts] == ["0.300", "0.100"]


def test_a_figure_that_does_not_exist_is_said_and_not_drawn(figures):
    draw_models([ModelBar("a", None, None, None, None, "other")], "mask AP", "")
    for axes in figures[0].axes:
        assert [text.get_text() for text in axes.texts] == ["not measured"]
        assert not axes.patches
