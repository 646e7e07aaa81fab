"""Base models: where they come from, how they are loaded, and their heads."""

from lopsided.models.registry import ModelNotHere, ModelSource, model_source

__all__ = ["ModelNotHere", "ModelSource", "model_source"]
