"""One study of made-up runs for all tests of the page."""

import pytest

from lopsided.report.gather import gather
from tests.report.fabricated import fabricate_study


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return fabricate_study(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def gathered(study):
    return gather([study])
