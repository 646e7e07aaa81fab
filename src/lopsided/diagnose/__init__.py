"""What a finished run looks like: gaps, intruders, spectra, landscapes, chains, forgetting."""

from lopsided.diagnose.around import Surroundings
from lopsided.diagnose.record import SECTIONS, DiagnoseConfig, diagnose_adapter, diagnose_run, diagnose_runs

__all__ = ["SECTIONS", "DiagnoseConfig", "Surroundings", "diagnose_adapter", "diagnose_run", "diagnose_runs"]
