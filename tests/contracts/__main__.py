"""`python -m tests.contracts`: what the installed version of an engine breaks, and what to read again."""

from __future__ import annotations

import argparse

from tests.contracts import facts, records
from tests.engines.recipe import ENGINES


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="write the record of the installed version")
    arguments = parser.parse_args()
    engine, version = arguments.engine, facts.version(arguments.engine)
    found = facts.gather(engine)
    if arguments.write:
        print(records.write(engine, version, found))
        return 0
    known = records.nearest(engine, version)
    record = records.load(engine, known)
    assert record is not None
    breaks, again = records.broken(record, found), records.changed(record, found)
    print(f"{engine} {version} against the record of {known}")
    print(f"\nbreaks, or has other parameters ({len(breaks)}):", *(breaks or ["nothing"]), sep="\n  ")
    of_all = f"{len(again)} of {len(found['bodies'])}"
    print(f"\nhas another body, read again ({of_all}):", *(again or ["nothing"]), sep="\n  ")
    if version != known:
        print(f"\nno record of {version}: {records.HOW.format(engine=engine)}")
    return 1 if breaks else 0


if __name__ == "__main__":
    raise SystemExit(main())
