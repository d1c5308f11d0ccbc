"""SIGTERM: remembered, or the end where nothing is left to save."""

from __future__ import annotations

import os
import signal

import pytest

from tasks.training.termination import Termination


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_is_remembered_and_ends_what_can_be_interrupted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    termination = Termination(30.0)
    with termination.listening():
        with termination.interruptible():
            pass
        terminate()
        assert termination.told
        with pytest.raises(SystemExit) as ended, termination.interruptible():
            pytest.fail("nothing is begun after it")
        assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before

    again = Termination(30.0)
    with again.listening(), again.interruptible(), pytest.raises(SystemExit):
        terminate()


def test_a_loop_leaves_time_for_a_checkpoint() -> None:
    # Of 30 seconds 10 are for the checkpoint, and half of the others is for a loop that lasts longer than the last.
    assert Termination(30.0).loop_seconds(save_seconds=10.0) == 10.0
    assert Termination(30.0).loop_seconds(save_seconds=40.0) == 0.0
