"""The record of each version of an engine, and what differs from it."""

from __future__ import annotations

import json
from pathlib import Path

from packaging.version import Version

from tests.contracts.facts import Facts

FOLDER = Path(__file__).resolve().parent / "records"
HOW = "read what changed, mend it, then run: make contracts ENGINE={engine} ARGS=--write"


def path_of(engine: str, version: str) -> Path:
    return FOLDER / f"{engine}-{version}.json"


def load(engine: str, version: str) -> Facts | None:
    """The record of a version; None where there is none."""
    path = path_of(engine, version)
    if not path.exists():
        return None
    facts: Facts = json.loads(path.read_text(encoding="utf-8"))
    return facts


def write(engine: str, version: str, facts: Facts) -> Path:
    """Write the record of a version and return its path."""
    path = path_of(engine, version)
    path.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def nearest(engine: str, version: str) -> str:
    """The version with a record that is next below `version`, or the lowest."""
    known = sorted(Version(path.stem.removeprefix(f"{engine}-")) for path in FOLDER.glob(f"{engine}-*.json"))
    below = [each for each in known if each <= Version(version)]
    return str((below or known)[-1 if below else 0])


def missing(facts: Facts) -> list[str]:
    """What our code names and the engine lacks, whatever any record says."""
    return [
        f"{kind[:-1]} {name}: not there"
        for kind in ("names", "fields")
        for name, is_there in facts[kind].items()
        if not is_there
    ]


def broken(record: Facts, facts: Facts) -> list[str]:
    """What no longer is as it was recorded, and our code stands on: methods, parameters, calls."""
    found = missing(facts)
    for kind in ("overrides", "signatures", "kernels", "calls"):
        for name in sorted(record[kind].keys() | facts[kind].keys()):
            before, after = record[kind].get(name), facts[kind].get(name)
            if before != after:
                found.append(f"{kind[:-1]} {name}: was {before}, is {after}")
    return found


def changed(record: Facts, facts: Facts) -> list[str]:
    """The functions whose code is another one: no errors, but the list to read again."""
    before, after = record["bodies"], facts["bodies"]
    return sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
