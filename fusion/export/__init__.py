"""Trained models as files that run where this package is not installed: ``torch.export`` and AOTInductor."""

from .program import Exported, export_model

__all__ = ["Exported", "export_model"]
