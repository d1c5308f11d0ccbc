"""Typed records to and from TFRecord shards of `tf.train.Example`, without TensorFlow."""
