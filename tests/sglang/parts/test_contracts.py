"""SGLang is as it was recorded for the installed version."""

from __future__ import annotations

import pytest

pytest.importorskip("sglang")

from tests.contracts.check import check

pytestmark = pytest.mark.engine


def test_the_installed_version_is_as_recorded() -> None:
    check("sglang")
