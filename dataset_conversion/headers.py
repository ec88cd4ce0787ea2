"""Read and check NIfTI headers: they can be read, have three axes, and place image and label on the same grid. No voxel
is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_assft.dataset_conversion.findings import ERROR, INFO, WARNING, Finding, found
from nnunet_assft.runtime.text import reason
from nnunet_assft.volumes.contents import OtherContentError
from nnunet_assft.volumes.grid import Tolerances as Tolerances
from nnunet_assft.volumes.grid import corner_distance
from nnunet_assft.volumes.headers import Header
from nnunet_assft.volumes.images import header_problems
from nnunet_assft.volumes.placement import DoesNotFitError, require_same_voxels
from nnunet_assft.volumes.whole_files import require_readable

NOT_WORTH_A_WORD = 1e-3  # mm; smaller differences are rounding errors of float32 headers


def read_finding(case: str, file: Path, *, by_itk: bool) -> tuple[Header | None, list[Finding]]:
    """Return the header of a file, and what is wrong with it; None for a file that cannot be read.

    by_itk: see `volumes.headers.read_header`. No voxel is read.
    """
    try:
        header = require_readable(file, by_itk=by_itk)
    except OtherContentError as error:
        return None, [found("other_content", case, f"{file}: {error}")]
    except Exception as error:  # a damaged header makes nibabel, gzip and numpy raise almost anything
        return None, [found("unreadable", case, f"{file}: {reason(error)}")]
    assert header is not None  # only NIfTI files are converted and checked
    return header, header_findings(case, file.name, header)


def header_findings(case: str, file: str, header: Header) -> list[Finding]:
    """Return what `volumes.images` finds in a header."""
    return [
        found(problem.code, case, f"{file}: {problem.text}", ERROR if problem.is_error else WARNING)
        for problem in header_problems(header)
    ]


def misfit(image: Header, label: Header, *, reorient: bool) -> str | None:
    """Return why a label, or a second channel, does not lie on its image, in the words of `volumes.placement`; None if
    it does.

    reorient: whether both are reoriented to RAS first, as by nnU-Net's reorienting reader.
    """
    try:
        require_same_voxels(label.grid, image.grid, turned_to_ras=reorient)
    except DoesNotFitError as error:
        return str(error)
    return None


# two files of a case, and how they are compared
def pair_findings(
    case: str, image: Header, label: Header, tolerances: Tolerances, *, reorient: bool, second: str = "label"
) -> list[Finding]:
    """Return findings on how far an image and its label lie apart, see `misfit`. second: "label", or the name of the
    file if it is a second channel."""
    if image.shape == label.shape and np.array_equal(image.affine, label.affine):
        return []
    subject = "the label" if second == "label" else second
    grids = [header.grid.reoriented() if reorient else header.grid for header in (image, label)]
    if grids[0].size != grids[1].size:
        text = f"{subject} has the shape {_shape(label)}; expected that of the image, {_shape(image)}"
        return [found("shape_mismatch", case, text)]
    findings = []
    distance, (info, error) = corner_distance(*grids), tolerances.limits(image.grid)
    if not distance <= NOT_WORTH_A_WORD:
        severity = INFO if distance < info else WARNING if distance <= error else ERROR
        reason = misfit(image, label, reorient=reorient)
        text = f"image and {second} lie {distance:.2f} mm apart: {reason or 'the difference is rounding'}"
        if tolerances.moves:
            text += f"; tolerated up to {error:.2f} mm"
        elif reason:
            severity = ERROR
        findings.append(found("affine_differs", case, text, severity))
    axes = image.grid.axes, label.grid.axes
    if reorient and axes[0] != axes[1]:
        text = f"the image is stored as {axes[0]}, {subject} as {axes[1]}"
        findings.append(found("orientation_differs", case, text))
    return findings


def _shape(header: Header) -> str:
    return "x".join(map(str, header.shape))
