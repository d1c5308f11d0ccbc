"""Two virtual CPU devices with half of a batch each against one with all of it; a program, since devices are made at its start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import tensorflow as tf

from tasks.mask_rcnn.mask_targets import whole_frames
from tasks.training.common_size import padded_alike
from tasks.training.optimization import Momentum
from tasks.training.task import FINITE, Inputs
from tests.input.samples import frames
from tests.training.test_task import SCHEDULE, SETTINGS, Training, batch

tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.experimental.enable_op_determinism()


def optimizer() -> Momentum:
    return Momentum(SCHEDULE, momentum=0.9, global_clipnorm=0.1)


SETTINGS.feature_extractor.batch_norm_trainable = False  # which normalizes by its replica's own images


def main() -> None:
    one = Training(optimizer())
    inputs = batch(one.model, 0, 1)
    # Without objects in the second image, replicas have different numbers of positives.
    inputs[2]["num_boxes"] = tf.constant([2, 0])
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        two = Training(optimizer())
    halves = strategy.experimental_distribute_values_from_function(lambda context: share(inputs, context))
    # One replica alone has an image that is no numbers.
    bad = strategy.experimental_distribute_values_from_function(
        lambda context: share((inputs[0] * tf.constant([[[[1.0]]], [[[np.nan]]]]), *inputs[1:]), context)
    )
    run = tf.function(lambda inputs: strategy.run(two.task.train_step, (inputs, two.model, two.optimizer)))
    for step in range(2):
        expected = one.step(inputs)
        figures = {name: strategy.experimental_local_results(value) for name, value in run(halves).items()}
        for name, value in expected.items():
            np.testing.assert_allclose(figures[name], [value] * 2, rtol=1e-5, err_msg=f"step {step}: {name}")
        # Both leave it out, and so does the training of one.
        assert not np.any(strategy.experimental_local_results(run(bad)[FINITE]))
        one.optimizer.iterations.assign_add(1)
    confirm_padding(strategy)
    for ours, theirs in zip(two.model.trainable_variables, one.model.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6, err_msg=ours.name)


def confirm_padding(strategy: tf.distribute.Strategy) -> None:
    """Images of 5 x 8 and 7 x 6 pixels become 7 x 8, and their masks are seen where they were."""
    sizes = ((5, 8), (7, 6))
    masks = [np.random.default_rng(seed).integers(0, 2, (1, 2, *size), np.uint8) for seed, size in enumerate(sizes)]
    images = strategy.experimental_distribute_values_from_function(
        lambda context: tf.ones([1, *sizes[context.replica_id_in_sync_group], 3])
    )
    truth = strategy.experimental_distribute_values_from_function(
        lambda context: whole_frames(tf.constant(masks[context.replica_id_in_sync_group]))
    )
    padded, seen = tf.function(lambda *inputs: strategy.run(padded_alike, inputs))(images, truth)
    for replica, (height, width) in enumerate(sizes):
        image = strategy.experimental_local_results(padded)[replica]
        np.testing.assert_array_equal(image[0, ..., 0], np.pad(np.ones((height, width)), [(0, 7 - height), (0, 8 - width)]))
        mine = {name: strategy.experimental_local_results(value)[replica].numpy()[0] for name, value in seen.items()}
        np.testing.assert_array_equal(frames(mine), np.pad(masks[replica][0], [(0, 0), (0, 7 - height), (0, 8 - width)]))


def share(inputs: Inputs, context: tf.distribute.experimental.ValueContext) -> Inputs:
    """The image of one replica."""
    replica = context.replica_id_in_sync_group
    return tf.nest.map_structure(lambda value: value[replica : replica + 1], inputs)


if __name__ == "__main__":
    main()
