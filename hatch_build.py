"""Build hook: compiles every `tasks/**/*.proto` with the pinned protoc beside its source, for wheels and editable installs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileProtos(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc on our schemas; the generated modules and stubs are never committed."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        from grpc_tools import protoc

        root = Path(self.root)
        protos = sorted(str(path.relative_to(root)) for path in root.glob("tasks/**/*.proto"))
        if not protos:
            return
        arguments = ["protoc", f"-I{root}", f"--python_out={root}", f"--pyi_out={root}", *protos]
        if protoc.main(arguments) != 0:
            sys.exit(f"protoc failed on {', '.join(protos)}")
        for proto in protos:
            stem = proto.removesuffix(".proto")
            build_data["artifacts"] += [f"{stem}_pb2.py", f"{stem}_pb2.pyi"]
