"""The Grafana dashboard, and whether a server's `/metrics` page has what its panels ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.engines.server import CHECKOUT

DASHBOARD = CHECKOUT / "docs" / "grafana" / "dashboard.json"
_SELECTOR = re.compile(r"(?P<name>[a-z_]+:[a-z_]+)?\{(?P<labels>[^}]*)\}")
_LABEL = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_ENGINES = ("vllm", "sglang")

Selector = tuple[str, dict[str, str]]
"""The regular expression of a metric's name, and those labels that must have a value, by name."""


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels."""
    return list(json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"])


def selectors(expression: str) -> Iterator[Selector]:
    """The metrics that an expression reads."""
    for found in _SELECTOR.finditer(expression):
        labels = {name: (operator, value) for name, operator, value in _LABEL.findall(found["labels"])}
        name = found["name"] or labels.pop("__name__")[1]
        yield name, {label: value for label, (operator, value) in labels.items() if operator == "="}


def missing(engine: str, page: str) -> list[Selector]:
    """What the panels ask of this engine's page and do not find; the other engine's metrics are left out."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    [other] = set(_ENGINES) - {engine}
    wanted = [
        selector
        for panel in panels()
        for target in panel["targets"]
        for selector in selectors(target["expr"])
        if not selector[0].startswith(other)
    ]
    return [
        (name, labels)
        for name, labels in wanted
        if not any(
            re.fullmatch(name, sample.name)
            and labels.items() <= sample.labels.items()
            and "model_name" in sample.labels
            for sample in samples
        )
    ]
