#!/bin/sh
# The address of the database has its password in it, so it comes by a file, never by the command line.
set -eu
# An empty one would have MLflow keep its runs in a file of the container.
if [ ! -s /run/secrets/mlflow_database ]; then
    echo "error: /run/secrets/mlflow_database is empty or missing; fix: remove docker/secrets/mlflow_database, then make compose-up" >&2
    exit 2
fi
export MLFLOW_BACKEND_STORE_URI="$(cat /run/secrets/mlflow_database)"
python - <<'PYTHON'
import os

import boto3
from botocore.exceptions import ClientError

objects = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
for bucket in ("mlflow", "workspace"):
    try:
        objects.head_bucket(Bucket=bucket)
    except ClientError:
        objects.create_bucket(Bucket=bucket)
PYTHON
exec mlflow server --host 0.0.0.0 --port 5000 --workers 2 --artifacts-destination s3://mlflow/artifacts
