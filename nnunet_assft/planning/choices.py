"""Choices of command-line options. This module imports neither numpy nor torch nor nnU-Net."""

from __future__ import annotations

ANNOTATORS = ("oracle", "human")

EXISTING, NO_LABELS = "existing", "none"  # of --labelled, besides the name of a file

NORMALIZATIONS = {  # name -> class of `planning.normalization` or of nnU-Net, which the plans refer to by name
    "percentile": "PercentileZScoreNormalization",
    "zscore": "ZScoreNormalization",
    "ctfm": "CTFMNormalization",
}
