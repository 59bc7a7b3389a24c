"""Patch InfoNCE: the contrastive loss between patches of several modalities, without the N x N matrix."""

from .op import PatchInfoNCE, patch_info_nce, patch_info_nce_ragged

__all__ = ["PatchInfoNCE", "patch_info_nce", "patch_info_nce_ragged"]
