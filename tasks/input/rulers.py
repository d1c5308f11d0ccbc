"""Where the pixels of a moved image come from, row by row and column by column.

Whatever moves an image here, mirrors, turns, stretches it or shows a part of it, takes masks along without interpolation, and treats rows
apart from columns. So a mask need not be moved: two rulers are, a pixel wide, by the same operations, and tell which pixel of the mask
stands where.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tensorflow as tf


@dataclass(frozen=True)
class Rulers:
    """`rows` int32 [h] and `columns` int32 [w] tell which row and column of the record's image an image shows, from 1; 0 is none of it.

    Where it is `transposed`, bool [], they are exchanged: its rows show columns of the record's image.
    """

    rows: tf.Tensor
    columns: tf.Tensor
    transposed: tf.Tensor

    @classmethod
    def of(cls, height: tf.Tensor | int, width: tf.Tensor | int) -> Rulers:
        """Those of the record's image itself."""
        return cls(tf.range(1, height + 1), tf.range(1, width + 1), tf.constant(False))

    @property
    def size(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Height and width of the image, int32 scalars."""
        return tf.size(self.rows), tf.size(self.columns)

    def mirrored(self, where: tf.Tensor | bool, *, upside_down: bool = False) -> Rulers:
        def exchanged(ruler: tf.Tensor) -> tf.Tensor:
            return tf.where(where, tf.reverse(ruler, [0]), ruler)

        return replace(self, rows=exchanged(self.rows)) if upside_down else replace(self, columns=exchanged(self.columns))

    def turned(self, where: tf.Tensor | bool) -> Rulers:
        """Counter-clockwise by 90 degrees: the last column becomes the first row."""
        rows, columns = tf.cond(where, lambda: (tf.reverse(self.columns, [0]), self.rows), lambda: (self.rows, self.columns))
        return Rulers(rows, columns, self.transposed ^ where)

    def stretched(self, height: tf.Tensor, width: tf.Tensor, *, align_corners: bool) -> Rulers:
        """By nearest neighbour on TensorFlow 1's grid."""

        def stretch(ruler: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
            image, size = ruler[tf.newaxis, :, tf.newaxis, tf.newaxis], tf.stack([length, 1])
            resize = tf.raw_ops.ResizeNearestNeighbor
            return resize(images=image, size=size, align_corners=align_corners, half_pixel_centers=False)[0, :, 0, 0]

        return replace(self, rows=stretch(self.rows, height), columns=stretch(self.columns, width))

    def seen_through(self, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> Rulers:
        """Of a window whose first pixel is at (`top`, `left`), both of which may be negative, and which may reach over the image."""

        def cut(ruler: tf.Tensor, start: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
            before, behind = tf.clip_by_value(-start, 0, length), tf.clip_by_value(start + length - tf.size(ruler), 0, length)
            return tf.pad(ruler[tf.maximum(start, 0) : tf.maximum(start + length, 0)], [[before, behind]])

        return replace(self, rows=cut(self.rows, top, height), columns=cut(self.columns, left, width))
