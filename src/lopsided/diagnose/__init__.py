"""What a finished run looks like: gaps, intruders, spectra, landscapes, chains, forgetting."""
