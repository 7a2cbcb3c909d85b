"""Whole-clip body fitting: keypoints to SMPL-X."""
