"""What a finished run looks like: gaps, intruders, spectra, landscapes, chains, forgetting."""

from lopsided.diagnose.config import DiagnoseConfig, section_names
from lopsided.diagnose.diagnosis import diagnose_adapter, diagnose_run, diagnose_runs
from lopsided.diagnose.section import Headline, Need, Section
from lopsided.diagnose.sections import SECTIONS, register_section
from lopsided.diagnose.sections.landscape import LandscapeConfig

__all__ = [
    "SECTIONS",
    "DiagnoseConfig",
    "Headline",
    "LandscapeConfig",
    "Need",
    "Section",
    "diagnose_adapter",
    "diagnose_run",
    "diagnose_runs",
    "register_section",
    "section_names",
]
