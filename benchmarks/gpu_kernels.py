"""Writes `gpu_kernels.json`: which of TensorFlow's operations have kernels for a GPU, for which types, and what these want in host memory.

    uv run --no-project --with tensorflow==2.20.0 python benchmarks/gpu_kernels.py

Needs TensorFlow's build with CUDA (on Linux the package `tensorflow`, 600 MB) and no GPU: kernels are registered without one. To be run for
every new version of TensorFlow. `gpu_placement` reads the file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")

# TensorFlow puts a kernel for `DEFAULT` on any device.
_DEVICES = ("GPU", "DEFAULT")


# Of a training step and of inference; kernels for others are left out.
_TYPES = (
    "bfloat16",
    "bool",
    "float16",
    "float32",
    "float64",
    "int32",
    "int64",
    "resource",
    "string",
    "uint32",
    "uint64",
    "uint8",
    "variant",
)

_Kernel = tuple[dict[str, set[str]], list[str]]


def registered() -> dict[str, list[_Kernel]]:
    """By operation its kernels: types by attribute, and the arguments that lie in host memory. Those that differ in one type are joined."""
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    if not tf.test.is_built_with_cuda():
        sys.exit("error: this TensorFlow is built without CUDA\n  fix: use the command at the head of this file")
    found: dict[str, list[_Kernel]] = {}
    for kernel in kernels.get_all_registered_kernels().kernel:
        # A label is for those who ask for a kernel by it.
        if kernel.device_type not in _DEVICES or kernel.label:
            continue
        types = {
            one.name: {tf.dtypes.as_dtype(kind).name for kind in one.allowed_values.list.type} & set(_TYPES) for one in kernel.constraint
        }
        if all(types.values()):
            _add(found.setdefault(kernel.op, []), (types, sorted(kernel.host_memory_arg)))
    return found


def _add(kernels: list[_Kernel], kernel: _Kernel) -> None:
    types, host = kernel
    for other in kernels:
        differing = [name for name in types if types[name] != other[0].get(name)]
        if other[1] == host and set(other[0]) == set(types) and len(differing) <= 1:
            for name in differing:
                types = {**types, name: types[name] | other[0][name]}
            kernels.remove(other)
            # Joined, it may go together with yet another one.
            _add(kernels, (types, host))
            return
    kernels.append((types, host))


def main() -> None:
    import tensorflow as tf

    rows = {
        name: [[{attribute: sorted(kinds) for attribute, kinds in types.items()}, host] for types, host in found]
        for name, found in registered().items()
    }
    lines = [f"{json.dumps(name)}: {json.dumps(rows[name], separators=(',', ':'))}" for name in sorted(rows)]
    FILE.write_text(f'{{"tensorflow": "{tf.__version__}", "kernels": {{\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{FILE}: {len(rows)} operations")


if __name__ == "__main__":
    main()
