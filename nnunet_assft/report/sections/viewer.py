"""Queried cases in an interactive viewer on the page."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from nnunet_assft.report.images import (
    MAX_CASES,
    QueriedCase,
    ViewerCase,
    load_volume,
    nifti_base64,
    queried_cases,
    why_no_images,
)
from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.base import Section
from nnunet_assft.volumes.display import window_of

MAX_VIEWER_VOXELS = 2_300_000  # of a volume, about 130 x 130 x 130
MAX_VIEWER_BYTES = 20_000_000  # of all volumes in the page, as base64


def section(material: Material) -> Section:
    title, why = "Viewer", why_no_images(material.dataset)
    if why:
        return Section("viewer", title, missing=(why,))
    chosen = queried_cases(material)
    shown = tuple(viewer_cases(chosen, window_of(material.dataset)))
    text = (
        f"{len(shown)} of the cases above, on a grid of at most {MAX_VIEWER_VOXELS / 1e6:.1f} million voxels (about "
        f"130 x 130 x 130) with 8 bits each; at most {MAX_CASES} cases and {MAX_VIEWER_BYTES // 10**6} MB in total. "
        "The viewer is not meant for diagnosis."
    )
    lost = len(chosen) - len(shown)
    missing = (
        (f"{lost} case{'s do' if lost > 1 else ' does'} not fit into the page or cannot be read.",) if lost else ()
    )
    return Section("viewer", title, (text,), missing=missing, viewer=shown)


def viewer_cases(
    cases: Sequence[QueriedCase], window: tuple[float, float] | None, max_bytes: int = MAX_VIEWER_BYTES
) -> list[ViewerCase]:
    """Return the first cases whose volumes together take at most max_bytes. A case that cannot be read is left out.

    window: see `volumes.display`.
    """
    found: list[ViewerCase] = []
    total = 0
    for queried in tqdm(cases, desc="viewer", unit="case", leave=False):
        try:
            volume = load_volume(queried.image, queried.segmentations, MAX_VIEWER_VOXELS, window)
        except (RuntimeError, ValueError):
            continue
        image = nifti_base64(volume.image, volume)
        layers = {name: nifti_base64(array, volume) for name, array in volume.segmentations.items()}
        total += len(image) + sum(map(len, layers.values()))
        if total > max_bytes:
            break
        found.append(ViewerCase(queried.case, queried.round, queried.rank, image, layers))
    return found
