"""What a command costs, it and every process under it, as one line of JSON: `python -m benchmarks.measured COMMAND ...`

A process of its own, and a small one: on Linux the peak of memory of a child is never below that of the process which starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds of processor and of the clock, and the most memory that any one process held, in MB of 10^6 bytes."""

    cpu: float
    wall: float
    peak: float


def cost_of(command: Sequence[str]) -> Cost:
    """Runs a command with its output away from the terminal; CalledProcessError, with what it said, where it fails."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.measured", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return Cost(**json.loads(done.stdout))


def main() -> None:
    started = time.perf_counter()
    child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - started
    # Linux gives kilobytes of 1024.
    print(json.dumps({"cpu": usage.ru_utime + usage.ru_stime, "wall": wall, "peak": usage.ru_maxrss * 1024 / 1e6}))
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
