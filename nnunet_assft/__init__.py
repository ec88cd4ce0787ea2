"""ASSFT: active learning and selective semi-supervised fine-tuning as an nnU-Net v2 extension."""

__version__ = "0.1.0"
