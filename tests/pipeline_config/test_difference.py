"""Differences by meaning, on configs small enough to compare by eye."""

from __future__ import annotations

import pytest

from tasks.pipeline_config.difference import difference_lines, differences
from tasks.pipeline_config.parser import parse_pipeline_config


def config_of(text: str) -> object:
    return parse_pipeline_config(f"model {{ faster_rcnn {{ num_classes: 3 }} }} {text}", "x")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("train_config { batch_size: 1 }", "train_config { batch_size: 2 }", [("train_config.batch_size", "1", "2")]),
        # The language's default of shuffle is true.
        ("train_input_reader { }", "train_input_reader { shuffle: true }", []),
        ("train_input_reader { }", "train_input_reader { shuffle: false }", [("train_input_reader.shuffle", "true", "false")]),
        (
            "train_input_reader { mask_type: PNG_MASKS }",
            "train_input_reader { }",
            [("train_input_reader.mask_type", "PNG_MASKS", "NUMERICAL_MASKS")],
        ),
        ("eval_config { }", "eval_config { metrics_set: ['a', 'b'] }", [("eval_config.metrics_set", "[]", '["a", "b"]')]),
        ("", "graph_rewriter { }", [("graph_rewriter", None, "graph_rewriter { }")]),
        (
            "train_config { optimizer { adam_optimizer { } } }",
            "train_config { optimizer { momentum_optimizer { } } }",
            [
                ("train_config.optimizer.momentum_optimizer", None, "momentum_optimizer { }"),
                ("train_config.optimizer.adam_optimizer", "adam_optimizer { }", None),
            ],
        ),
        (
            "eval_input_reader { name: 'a' } eval_input_reader { name: 'b' }",
            "eval_input_reader { name: 'c' }",
            [("eval_input_reader[0].name", '"a"', '"c"'), ("eval_input_reader[1]", '{ name: "b" }', None)],
        ),
        ("eval_config { super_categories { key: 'a' value: 'b' } }", "eval_config { super_categories { key: 'a' value: 'b' } }", []),
    ],
)
def test_what_differs(before: str, after: str, expected: list[tuple[str, str | None, str | None]]) -> None:
    found = list(differences(config_of(before), config_of(after)))
    assert [(one.path, one.before, one.after) for one in found] == expected


def test_lines_for_people() -> None:
    found = differences(config_of(""), config_of("graph_rewriter { }"))
    assert difference_lines(found) == "graph_rewriter: absent -> graph_rewriter { }\n"
    assert difference_lines([]) == "no difference\n"
