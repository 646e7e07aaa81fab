"""The entries of `TASKS`, by what they ask."""
