"""An image with its objects, and the movements that carry pixels, boxes and masks along together.

Masks are not here: a scene keeps the rulers that tell which of their pixels are where.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tasks.input.rulers import Rulers


@dataclasses.dataclass(frozen=True)
class Scene:
    """`image` float32 [H, W, 3] in 0..255; `objects` by name, each [M, ...], with `boxes` float32 [M, 4] yxyx normalized among them."""

    image: tf.Tensor
    objects: dict[str, tf.Tensor]
    rulers: Rulers

    @classmethod
    def of(cls, image: tf.Tensor, objects: dict[str, tf.Tensor]) -> Scene:
        """The scene of a record's own image, of any number type."""
        return cls(tf.cast(image, tf.float32), objects, Rulers.of(tf.shape(image)[0], tf.shape(image)[1]))

    @property
    def size(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Height and width, int32 scalars in pixels."""
        height, width, _ = tf.unstack(tf.shape(self.image))
        return height, width

    @property
    def boxes(self) -> tf.Tensor:
        return self.objects["boxes"]

    def recoloured(self, image: tf.Tensor) -> Scene:
        """The scene in other colours: the result is held to 0..255."""
        return dataclasses.replace(self, image=tf.clip_by_value(image, 0.0, 255.0))

    def mirrored(self, where: tf.Tensor | bool, *, upside_down: bool = False) -> Scene:
        """Left and right exchanged, or top and bottom, where the bool scalar says so."""
        axis = 0 if upside_down else 1
        ymin, xmin, ymax, xmax = tf.unstack(self.boxes, axis=-1)
        mirrored = [1.0 - ymax, xmin, 1.0 - ymin, xmax] if upside_down else [ymin, 1.0 - xmax, ymax, 1.0 - xmin]
        image = tf.cond(where, lambda: tf.reverse(self.image, [axis]), lambda: self.image)
        return self._moved(image, tf.where(where, tf.stack(mirrored, -1), self.boxes), self.rulers.mirrored(where, upside_down=upside_down))

    def turned(self, where: tf.Tensor | bool) -> Scene:
        """Turned by 90 degrees, counter-clockwise, where the bool scalar says so."""
        ymin, xmin, ymax, xmax = tf.unstack(self.boxes, axis=-1)
        image = tf.cond(where, lambda: tf.reverse(tf.transpose(self.image, [1, 0, 2]), [0]), lambda: self.image)
        boxes = tf.where(where, tf.stack([1.0 - xmax, ymin, 1.0 - xmin, ymax], -1), self.boxes)
        return self._moved(image, boxes, self.rulers.turned(where))

    def scaled(self, height: tf.Tensor, width: tf.Tensor, *, align_corners: bool) -> Scene:
        """Stretched to a size in pixels: images bilinear, masks nearest neighbour, on TensorFlow 1's grid."""
        size, resize = tf.stack([height, width]), tf.raw_ops.ResizeBilinear
        image = resize(images=self.image[tf.newaxis], size=size, align_corners=align_corners, half_pixel_centers=False)[0]
        return self._moved(image, self.boxes, self.rulers.stretched(height, width, align_corners=align_corners))

    def seen_through(self, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor, width: tf.Tensor, fill: tf.Tensor | float = 0.0) -> Scene:
        """What a window of a size in pixels shows, its first pixel at (`top`, `left`) of the image; both may be negative.

        Where it reaches over the image, it shows `fill`, a value or [3], and no mask. Boxes are told in its frame, and not clipped.
        """
        top, left, height, width = (tf.cast(value, tf.int32) for value in (top, left, height, width))
        rows, columns = self.size
        shown = self.image[tf.maximum(top, 0) : tf.maximum(top + height, 0), tf.maximum(left, 0) : tf.maximum(left + width, 0)]
        above, before = tf.clip_by_value(-top, 0, height), tf.clip_by_value(-left, 0, width)
        below, after = tf.clip_by_value(top + height - rows, 0, height), tf.clip_by_value(left + width - columns, 0, width)
        image = tf.pad(shown - fill, [[above, below], [before, after], [0, 0]]) + fill
        corner = tf.cast(tf.stack([top, left, top, left]), tf.float32)
        image_size = tf.cast(tf.stack([rows, columns, rows, columns]), tf.float32)
        window_size = tf.cast(tf.stack([height, width, height, width]), tf.float32)
        boxes = (self.boxes * image_size - corner) / window_size
        return self._moved(image, boxes, self.rulers.seen_through(top, left, height, width))

    def kept(self, where: tf.Tensor) -> Scene:
        """With the objects that the bool [M] tells, all their properties together."""
        return dataclasses.replace(self, objects={name: tf.boolean_mask(value, where) for name, value in self.objects.items()})

    def clipped(self) -> Scene:
        """With boxes that end where the image does."""
        return dataclasses.replace(self, objects=self.objects | {"boxes": tf.clip_by_value(self.boxes, 0.0, 1.0)})

    def _moved(self, image: tf.Tensor, boxes: tf.Tensor, rulers: Rulers) -> Scene:
        return Scene(tf.ensure_shape(image, [None, None, 3]), self.objects | {"boxes": boxes}, rulers)
