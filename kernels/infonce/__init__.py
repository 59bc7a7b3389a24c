"""Patch InfoNCE: the contrastive loss between patches of several modalities, without the N x N matrix."""

from .module import PatchInfoNCE
from .op import patch_info_nce, patch_info_nce_ragged

__all__ = ["PatchInfoNCE", "patch_info_nce", "patch_info_nce_ragged"]
