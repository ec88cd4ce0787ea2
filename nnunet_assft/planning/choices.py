"""Names that an experiment is planned with. Importable without numpy, torch and nnU-Net."""

from __future__ import annotations

ANNOTATORS = ("oracle", "human")

NORMALIZATIONS = {  # name -> class in `planning.normalization`, under whose name the plans carry it
    "percentile": "PercentileZScoreNormalization",
    "ctfm": "CTFMNormalization",
}
