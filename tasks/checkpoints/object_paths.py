"""Keys of the variables of TensorFlow 2's SavedModels, by what they are called in its checkpoints.

A checkpoint calls a variable by the way to it from the training's model (`model/...`). A SavedModel has the same objects, but a shorter way
counts there, through Keras's list of all variables (`_model/variables/17`); its own file keeps the others as edges of a graph.
"""

from __future__ import annotations

import re
from collections import deque

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tasks.checkpoints.keras_names import VALUE

_ROOTS = ("_model", "model")
# Other ways to the same objects, and functions.
_PASSED_BY = re.compile(r"layer-\d+|(non_)?trainable_variables|variables|layers|keras_api|signatures|\w*losses|\w*metrics|__\w+__")


def keys_by_path(object_graph: bytes) -> dict[str, str]:
    """The key of each variable of the original's model by that of its checkpoints; none where the graph is of something else.

    `object_graph` is the tensor `keras_names.OBJECT_GRAPH`. ValueError where it is damaged.
    """
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        graph.ParseFromString(object_graph)
    except DecodeError as error:
        raise ValueError(f"its graph of objects is damaged: {error}") from error
    if not graph.nodes:
        return {}
    queue = deque((child.node_id, "model") for child in graph.nodes[0].children if child.local_name in _ROOTS)
    seen: set[int] = set()
    keys = {}
    while queue:
        number, path = queue.popleft()
        if number in seen or not 0 <= number < len(graph.nodes):
            continue
        seen.add(number)
        node = graph.nodes[number]
        for attribute in node.attributes:
            keys[f"{path}{VALUE}"] = attribute.checkpoint_key
        queue.extend((child.node_id, f"{path}/{child.local_name}") for child in node.children if not _PASSED_BY.fullmatch(child.local_name))
    return keys
