"""Base models: where they come from, how they are loaded, and their heads."""

from lopsided.models.registry import model_source

__all__ = ["model_source"]
