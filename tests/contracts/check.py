"""The test of the installed version of an engine against its record."""

from __future__ import annotations

from tests.contracts import facts, records


def check(engine: str) -> None:
    """Fail with what differs, or with what to do where the version has no record."""
    version = facts.version(engine)
    record = records.load(engine, version)
    how = records.HOW.format(engine=engine)
    assert record is not None, f"no record of {engine} {version}: {how}"
    found = facts.gather(engine)
    assert records.missing(found) == []
    assert records.broken(record, found) == [], how
    assert records.changed(record, found) == [], how
    assert record == found, f"the record lacks what our code has come to use: {how}"
