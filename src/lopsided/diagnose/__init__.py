"""What a finished run looks like: gaps, intruders, spectra, landscapes, chains, forgetting."""

from lopsided.diagnose.diagnosis import SECTIONS, DiagnoseConfig, diagnose_adapter, diagnose_run, diagnose_runs
from lopsided.diagnose.sections.landscape import Surroundings

__all__ = ["SECTIONS", "DiagnoseConfig", "Surroundings", "diagnose_adapter", "diagnose_run", "diagnose_runs"]
