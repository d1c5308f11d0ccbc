"""Prints each DAG of the folder as Airflow serializes it: a line of `dag_id`, the hash that tells versions apart, and the JSON."""

from __future__ import annotations

import json
import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.serialized_objects import DagSerialization


def main() -> None:
    for dag_id, dag in sorted(DagBag(sys.argv[1]).dags.items()):
        data = DagSerialization.to_dict(dag)
        print("serialized", dag_id, SerializedDagModel.hash(data), json.dumps(data))


if __name__ == "__main__":
    main()
