"""What a conversion reports about a case or a dataset: a stable code, a severity and one line of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)


@dataclass(frozen=True)
class Code:
    """A kind of finding. severity: the default. meaning: for the report. advice: what to do, at the end of the line."""

    severity: str
    meaning: str
    advice: str = ""


CODES = {
    # the case is left out
    "missing_image": Code(
        ERROR, "a listed or labelled case lacks an image, or has too many", "Complete, rename or remove its files."
    ),
    "missing_label": Code(ERROR, "a case of a labelled part has no label"),
    "unreadable": Code(
        ERROR, "a file is truncated, damaged or not a NIfTI file", "Download or unpack that file again."
    ),
    "other_content": Code(ERROR, "a file is something else than its name says"),
    "not_3d": Code(ERROR, "an image or label does not have three axes"),
    "not_one_number": Code(ERROR, "an image or label stores colours, vectors or complex numbers"),
    "implausible_spacing": Code(ERROR, "the spacing in a header is not that of a scan"),
    "invalid_affine": Code(ERROR, "the header gives no invertible affine"),
    "shape_mismatch": Code(
        ERROR, "image and label have different shapes", "Find the label that belongs to this image."
    ),
    "unexpected_labels": Code(ERROR, "a label holds ids that the dataset does not have", "Fix the label."),
    "non_integral_labels": Code(ERROR, "a label holds fractions", "Resample labels by nearest neighbour only."),
    "not_finite": Code(ERROR, "an image or label holds NaN or infinity", "Fix the file."),
    "unusable_values": Code(
        ERROR, "an image has one value only, or values that no scan has", "Replace the file, or correct such values."
    ),
    "several_files": Code(
        ERROR,
        "several files have the name of one image or label",
        "Keep or rename one of them: the name of a file says which case it is.",
    ),
    "case_in_two_splits": Code(ERROR, "a case is in the pool and in the test set", "Remove it from one of them."),
    "other_file_ending": Code(
        ERROR, "an image ends differently from most", "All images need the same ending; compress or unpack the file."
    ),
    "bad_name": Code(ERROR, "a file or a case has a name that cannot be used", "Rename the files of the case."),
    # the dataset is not written
    "dataset_id_clash": Code(
        ERROR, "another dataset has this id", "Choose a free id with -d, or remove the other dataset."
    ),
    "unknown_structure": Code(
        ERROR, "the source names a structure that this dataset does not have", "Check that this is the right dataset."
    ),
    # a DICOM series is left out; its id is that in the key file
    "missing_slice": Code(
        ERROR, "a DICOM series has a gap", "Export the series again; the key file says which one it is."
    ),
    "duplicate_slices": Code(
        ERROR,
        "slices of a DICOM series have the same position",
        "Export its phases or echoes as separate series; the key file says which one it is.",
    ),
    "gantry_tilt": Code(
        ERROR, "the slices of a DICOM series are shifted against each other", "Resample the series to a straight grid."
    ),
    "uneven_slices": Code(
        ERROR, "the slices of a DICOM series lie at uneven distances", "Resample the series to an even grid."
    ),
    "mixed_orientations": Code(
        ERROR, "a DICOM series has several orientations or frames of reference", "Separate its slices by orientation."
    ),
    "mixed_sizes": Code(
        ERROR, "the slices of a DICOM series differ in size or pixel spacing", "Separate its slices by size."
    ),
    "multi_frame": Code(
        ERROR, "a DICOM series has several frames in a file", "Convert it to one file for each slice, as emf2sf does."
    ),
    "undecodable": Code(
        ERROR, "voxels of a DICOM series cannot be decoded", "Export or unpack the series uncompressed."
    ),
    "unreadable_files": Code(
        ERROR, "DICOM files cannot be parsed", "The key file lists them; export them again, or remove them."
    ),
    "several_series": Code(
        ERROR,
        "several DICOM series of a patient can be used",
        "Name the wanted ones in a file, one id per line, and give it with --series, or take all with --series all.",
    ),
    # a DICOM series of another kind is left out
    "not_ct_or_mr": Code(WARNING, "a DICOM series is neither CT nor MR", "It is left out."),
    "not_a_scan": Code(WARNING, "a DICOM series holds screenshots or colours", "It is left out."),
    "localizer": Code(INFO, "a DICOM series is a localizer", "It is left out."),
    "not_chosen": Code(INFO, "a DICOM series that the file of --series does not name", "It is left out."),
    # image and label lie differently; the severity follows the tolerances
    "affine_differs": Code(
        WARNING, "image and label lie apart (largest displacement of a corner)", "Overlay them to see which is right."
    ),
    # to look at
    "non_orthonormal": Code(WARNING, "the axes are not at right angles"),
    "forms_disagree": Code(
        WARNING, "the sform and the qform of a header disagree", "Readers differ in which they use; check the image."
    ),
    "absent_structure": Code(
        WARNING, "structures that no label has", "Check that these are the right labels for this dataset."
    ),
    "structure_not_annotated": Code(
        WARNING,
        "structures that nobody drew in a label",
        "They are in not_annotated.json; training and evaluation leave them out in this case.",
    ),
    "empty_label": Code(WARNING, "a label is all background", "Check whether the case was ever annotated."),
    "ct_range": Code(WARNING, "the intensities are not those of a CT in HU", "Look at the image."),
    "modality_conflict": Code(WARNING, "the intensities contradict the modality", "Look at the image."),
    "uint8_mr": Code(
        WARNING, "an MR image is stored as uint8", "Values above 255 may have wrapped; compare with the original."
    ),
    "float_labels": Code(
        WARNING, "a label is stored as float with integral values", "It is rewritten as whole numbers."
    ),
    "duplicate_content": Code(
        WARNING, "two cases have the same image", "Remove one of them, so that pool and test have no image in common."
    ),
    "label_without_image": Code(
        WARNING, "a label whose image is not in the download", "Give the folder with the images as a further -i."
    ),
    "case_found_twice": Code(WARNING, "a file was found in several places", "The first one is used."),
    "overlapping_masks": Code(
        WARNING, "masks of two structures share voxels", "The structure that is later in the label order is kept."
    ),
    "bad_dataset_json": Code(
        WARNING, "dataset.json of the download is unusable", "Folder names and the documented labels are used."
    ),
    "count_differs": Code(
        WARNING, "the number of cases is not the published one", "Complete the download, or continue with these cases."
    ),
    # to know
    "orientation_differs": Code(
        INFO, "image and label are stored in different orientations but agree", "The reader reorients both."
    ),
    "labels_removed": Code(INFO, "structures that this dataset drops were set to background"),
    "unlabelled_image": Code(INFO, "an image without a public label", "It is left out."),
    "not_annotated": Code(INFO, "an image that nobody has annotated yet"),
    "not_nifti": Code(INFO, "files that are not NIfTI were passed over"),
    "other_modality": Code(INFO, "a case of the other modality", "It belongs to the other dataset."),
    "not_in_split": Code(INFO, "a case that the split file does not name", "It is left out."),
    # of --verify_only
    "output_missing": Code(ERROR, "a converted file is missing", "Run the command without --verify_only."),
    "output_changed": Code(
        ERROR, "a converted file is not as it was written", "Move it away, or use --overwrite to write it again."
    ),
    "source_changed": Code(
        ERROR, "a source file has changed since it was read", "Run the command without --verify_only."
    ),
}


@dataclass(frozen=True)
class Finding:
    """One finding.

    case: "" for the dataset as a whole. message: what was found and what was expected, without a full stop.
    """

    code: str
    case: str
    message: str
    severity: str

    def line(self) -> str:
        """Return one line to print: where it is, what it is, and what to do."""
        return " ".join(
            filter(None, (f"{self.case or 'dataset'}: {self.message}.", CODES[self.code].advice, f"[{self.code}]"))
        )


def found(code: str, case: str, message: str, severity: str | None = None) -> Finding:
    """Make a finding with the default severity of its code, unless another one is given."""
    return Finding(code, case, message, severity or CODES[code].severity)


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that are errors, in their order."""
    return [finding for finding in findings if finding.severity == ERROR]


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Sort by severity, then case, then code, so that the order does not depend on the number of processes."""
    return sorted(set(findings), key=lambda f: (SEVERITIES.index(f.severity), f.case, f.code, f.message))


def counts(findings: Iterable[Finding]) -> dict[tuple[str, str], int]:
    """Return (severity, code) -> number of findings, errors first."""
    counter = Counter((f.severity, f.code) for f in findings)
    return {key: counter[key] for key in sorted(counter, key=lambda key: (SEVERITIES.index(key[0]), key[1]))}
