"""One study of made-up runs for all tests of the page."""

import pytest
from fabricated import fabricate_study

from lopsided.report.gather import gather


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return fabricate_study(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def gathered(study):
    return gather([study])
