"""The GPUs of this machine that steps may have. Standard library only: `make up` counts them before there is an Airflow."""

from __future__ import annotations

import os
import subprocess


def gpus_here() -> list[str]:
    """Ids of the GPUs that steps may have; none where the machine has none."""
    named = os.environ.get("MASKLINE_LOCAL_GPUS") or os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        # By UUID: CUDA may count them in another order than the driver's tool.
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            named = ",".join(subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.split())
        except (OSError, subprocess.SubprocessError):
            return []
    return [gpu for gpu in map(str.strip, named.split(",")) if gpu and not gpu.startswith("-")]
