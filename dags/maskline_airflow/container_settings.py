"""What steps in containers have in common, on an engine and in a cluster: the image, and the environment that a step is given.

MASKLINE_IMAGE            the trainer's image, by digest: `registry/maskline/trainer@sha256:...`, or the id of one that was built here
MASKLINE_IMAGE_BY_TAG=1   allows a tag, which may mean another image tomorrow
MASKLINE_PASS             names of more variables of the worker that steps get, with spaces between
"""

from __future__ import annotations

import os
import re

from airflow.sdk.exceptions import AirflowFailException

# The worker's settings that steps read. None of Airflow's own, nor those that say where steps run.
_PASSED = re.compile(
    r"(MLFLOW|AWS|GOOGLE|TF|XLA|NCCL)_[A-Z0-9_]+|MASKLINE_(MLFLOW_UI|MAX_IMAGE_PIXELS|PLAN_DEVICE|PRICE_PER_HOUR)|(https?|no)_proxy",
    re.IGNORECASE,
)
_DIGEST = re.compile(r"(.+@)?sha256:[0-9a-f]{64}")


def trainer_image(default: str | None = None) -> str:
    """The image that steps run in; one that is not named by its content is refused."""
    image = os.environ.get("MASKLINE_IMAGE") or default
    if not image:
        raise AirflowFailException("nothing says in which image steps run\n  fix: set MASKLINE_IMAGE to the trainer's image by its digest")
    if not _DIGEST.fullmatch(image) and os.environ.get("MASKLINE_IMAGE_BY_TAG") != "1":
        raise AirflowFailException(
            f"{image} is a tag, which may be another image at the next step\n"
            "  fix: name the image by its digest, which `docker image inspect --format '{{.RepoDigests}} {{.Id}}' "
            f"{image}` tells, or set MASKLINE_IMAGE_BY_TAG=1"
        )
    return image


def passed_environment() -> dict[str, str]:
    """The variables of the worker that a step is given beside those of its task."""
    named = re.split(r"[\s,]+", os.environ.get("MASKLINE_PASS", "").strip())
    return {name: value for name, value in os.environ.items() if name in named or _PASSED.fullmatch(name)}
