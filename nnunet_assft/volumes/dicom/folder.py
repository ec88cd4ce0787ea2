"""The series of a DICOM folder that a model can predict, and those of the cases of a dataset."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import write_bytes
from nnunet_assft.runtime.text import count
from nnunet_assft.volumes.dicom.key_file import Identity, KeyFile, identity
from nnunet_assft.volumes.dicom.slices import Slice, find_slices, read_header, require_pydicom
from nnunet_assft.volumes.dicom.stack import Refused, Stack, stack
from nnunet_assft.volumes.dicom.voxels import CannotDecodeError, nifti_bytes, read_volume

ENDING = ".nii.gz"
UID = re.compile(r"[0-9.]{1,64}")  # of which file names are made
NO_SCANS = ("localizer", "not_a_scan", "not_ct_or_mr")  # what an export holds beside scans
# words in the name of a channel that say a modality: CTA, CBCT, CT_venous; T1, T2w, mri; but not fraction, nor pdac
SAYS = {
    "CT": re.compile(r"(?<![a-z])ct|ct(?![a-z])"),
    "MR": re.compile(r"(?<![a-z])(mr|t1|t2|flair|dwi|adc|swi|dce|stir|dixon|tof|pdw?(?![a-z]))"),
}


@dataclass
class SeriesFound:
    """The series of a folder, by their SeriesInstanceUID. refused: scans that are no volume, and why. left_out: what is
    no scan, and why."""

    usable: dict[str, Stack] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def require_one_channel(dataset_json: Mapping[str, Any]) -> None:
    """Raise `AssftError` unless a model takes images such as a DICOM series can give."""
    n, ending = len(dataset_json["channel_names"]), dataset_json["file_ending"]
    if n != 1 or ending != ENDING:
        raise AssftError(
            f"The model takes {count(n, 'channel')} in {ending} files; --dicom works with one channel in {ENDING} "
            "files. Predict converted images instead."
        )


def series_below(folder: Path, dataset_json: Mapping[str, Any]) -> SeriesFound:
    """Find the series below a folder and check that each is one volume of the model's modality.

    dataset_json: of the model, see `require_one_channel`. Raises `AssftError` if there is none at all.
    """
    files = find_slices([folder], None)
    members: dict[Identity, list[Slice]] = defaultdict(list)
    for slice_ in files.slices:
        members[identity([slice_])].append(slice_)
    if not members:
        raise AssftError(
            f"No DICOM image was found among {count(files.n_files, 'file')} in {folder}. Give the folder of a DICOM "
            "export with -i."
        )
    found = SeriesFound()
    channel = str(dataset_json["channel_names"]["0"])
    wanted = _modality_of(channel)
    for one, slices in sorted(members.items()):
        uid, volume = one[-1], stack(slices)
        if not UID.fullmatch(uid) or sum(other[-1] == uid for other in members) > 1:
            found.refused[uid or "a series"] = "its SeriesInstanceUID is none, or that of another study as well"
        elif isinstance(volume, Refused):
            (found.left_out if volume.code in NO_SCANS else found.refused)[uid] = f"{volume.text} ({volume.code})"
        elif wanted and volume.modality != wanted:
            found.refused[uid] = (
                f"it is {volume.modality}; expected {wanted}, because the channel of the model is called {channel!r}"
            )
        else:
            found.usable[uid] = volume
    return found


def _modality_of(channel: str) -> str | None:
    """Return the modality that the name of a channel says, or None if it says none, such as noNorm or image."""
    return next((modality for modality, word in SAYS.items() if word.search(channel.casefold())), None)


def series_of(keys: KeyFile, case: str) -> Stack:
    """Return the series of a case from its files, which must still be where the key file says.

    Raises `AssftError`, which names neither file nor patient, if they are not, or are others.
    """
    headers = [read_header(Path(file), require_pydicom()) for file in keys.entries[case].get("files", ())]
    slices = [header for header in headers if isinstance(header, Slice)]
    volume = stack(slices) if len(slices) == len(headers) > 1 else None
    if not isinstance(volume, Stack) or tuple(one.sop_instance for one in slices) != keys.slices_of(case):
        raise AssftError(
            "the DICOM files of its series are no longer where the key file says, or have changed. Put them back, or "
            "convert the dataset again with the folder in which they are now."
        )
    return volume


def write_image(folder: Path, uid: str, volume: Stack) -> Path:
    """Write the image of a series as UID_0000.nii.gz. Raises `AssftError` if its voxels cannot be decoded."""
    try:
        voxels = read_volume(volume)
    except CannotDecodeError as error:
        raise AssftError(str(error)) from error
    file = folder / f"{uid}_0000{ENDING}"
    write_bytes(file, nifti_bytes(voxels, volume.affine))
    return file
