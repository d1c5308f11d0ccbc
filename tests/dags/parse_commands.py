"""Runs in the trainer environment: has the real parser read commands, without running them.

Standard input: JSON, a list of commands (lists of words, the step first). Standard output: JSON, for each command its parsed
parameters; a word that the parser refuses ends this with the parser's own error.
"""

from __future__ import annotations

import json
import sys

import typer

from tasks.cli import app


def main() -> None:
    group = typer.main.get_command(app)
    context = group.context_class(group, info_name="maskline")
    parsed = []
    for words in json.load(sys.stdin):
        name, command, arguments = group.resolve_command(context, words)
        parsed.append(command.make_context(name, arguments, parent=context).params)
    json.dump(parsed, sys.stdout, default=str)


if __name__ == "__main__":
    main()
