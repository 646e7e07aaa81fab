"""Suites of others. This folder goes on the import path of their processes, so that nothing else may stand in it: a
neighbour named like an installed package would be found in its stead."""
