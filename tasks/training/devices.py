"""The devices of a training: one, the GPUs of a machine, or those of several, by Model Garden's strategies; and what they decide as one."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from official.common import distribute_utils
from official.core import config_definitions as cfg

from tasks.checkpoints.own_checkpoint import written_checkpoints
from tasks.running.errors import UserError
from tasks.training.cluster import LEFT, Cluster

ONE_DEVICE, MIRRORED, MULTI_WORKER = STRATEGIES = ("one_device", "mirrored", "multi_worker_mirrored")
ALL_REDUCE = {ONE_DEVICE: (), MIRRORED: ("nccl", "hierarchical_copy"), MULTI_WORKER: ("nccl", "ring")}
"""By strategy, the ways in which it can be told to sum gradients"""

# By what TensorFlow tells that another worker is gone.
_LEFT_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.CancelledError)
_COLLECTIVES_ENDED = "Collective ops is aborted"


@dataclass(frozen=True)
class Devices:
    """What a person asks for; None is for the machine to decide."""

    strategy: str | None = None
    gpus: int | None = None
    """Of this machine; the first ones"""
    all_reduce_alg: str | None = None
    """How gradients are summed; of those that Model Garden's runtime knows for the strategy"""

    def __post_init__(self) -> None:
        if self.strategy is not None and self.strategy not in STRATEGIES:
            raise UserError(f"--strategy is {self.strategy!r}", f"use one of {', '.join(STRATEGIES)}")
        if self.gpus is not None and self.gpus < 0:
            raise UserError(f"--gpus is {self.gpus}", "give 0 for the CPU, or more")


def build_strategy(runtime: cfg.RuntimeConfig) -> tf.distribute.Strategy:
    """The strategy of Model Garden's runtime config; TensorFlow uses no other GPUs than those that it names."""
    physical = tf.config.list_physical_devices("GPU")
    if len(physical) > runtime.num_gpus:
        tf.config.set_visible_devices(physical[: runtime.num_gpus], "GPU")
    return distribute_utils.get_distribution_strategy(
        distribution_strategy=runtime.distribution_strategy,
        num_gpus=runtime.num_gpus,
        all_reduce_alg=runtime.all_reduce_alg,
        num_packs=runtime.num_packs,
    )


class Together:
    """What the workers of a training decide as one, since each has a clock and a SIGTERM of its own; a single worker decides alone."""

    def __init__(self, strategy: tf.distribute.Strategy, cluster: Cluster | None) -> None:
        self._cluster = cluster
        if cluster is None:
            return
        workers = len(cluster.hosts)
        replicas = strategy.num_replicas_in_sync // workers

        @tf.function(input_signature=[tf.TensorSpec([workers], tf.float64)])
        def summed(row: tf.Tensor) -> tf.Tensor:
            def reduced(row: tf.Tensor) -> tf.Tensor:
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, row / replicas)

            return strategy.experimental_local_results(strategy.run(reduced, args=(row,)))[0]

        self._summed = summed

    @property
    def is_chief(self) -> bool:
        return self._cluster is None or self._cluster.is_chief

    def any(self, here: bool) -> bool:
        """Whether it is so at any worker."""
        return any(self._of_all(float(here)))

    def of_chief(self, value: float) -> float:
        """The chief's value."""
        return self._of_all(float(value))[0]

    def confirm_same(self, text: str) -> None:
        """UserError on every worker where one's text is not the chief's."""
        # As many bits as a float64 holds exactly.
        digests = self._of_all(float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])))
        others = [index for index, digest in enumerate(digests) if digest != digests[0]]
        if others and self._cluster:
            raise UserError(
                f"{', '.join(map(self._cluster.name, others))} would train something else than the chief, {self._cluster.hosts[0]}",
                "give all of them the same options, code and kind of GPU, and one folder that all see",
            )

    def _of_all(self, value: float) -> list[float]:
        if self._cluster is None:
            return [value]
        row = [value if index == self._cluster.index else 0.0 for index in range(len(self._cluster.hosts))]
        values: list[float] = self._summed(tf.constant(row, tf.float64)).numpy().tolist()
        return values


@contextlib.contextmanager
def left_by_none(folder: Path) -> Iterator[None]:
    """Within the block, the error by which TensorFlow tells that another worker is gone becomes a line and SystemExit(`LEFT`).

    TensorFlow notices within some ten seconds. `folder` holds the training's checkpoints.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, _LEFT_ERRORS) and _COLLECTIVES_ENDED not in error.message:
            raise
        written = written_checkpoints(folder)
        told, *_ = error.message.split(f"{_COLLECTIVES_ENDED} by: ")[-1].splitlines()
        print(f"another worker is gone; TensorFlow says: {told}", flush=True)
        print(f"start all workers by the same commands: training goes on from {written[-1].name if written else 'its start'}", flush=True)
        raise SystemExit(LEFT) from error
