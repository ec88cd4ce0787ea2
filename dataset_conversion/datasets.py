"""The datasets that can be converted, one row each. All dataset-specific settings live in this table.

The module imports neither torch nor numpy, so that the help of the command, which lists the table, is fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_assft.dataset_conversion.labels import BACKGROUND
from nnunet_assft.dataset_conversion.layouts.amos import amos
from nnunet_assft.dataset_conversion.layouts.case_folders import case_folders
from nnunet_assft.dataset_conversion.layouts.msd import msd
from nnunet_assft.dataset_conversion.layouts.named_files import named_files
from nnunet_assft.dataset_conversion.source_cases import Sources
from nnunet_assft.runtime.tables import Table

CT, MRI = "CT", "MRI"  # channel names; nnU-Net chooses the normalisation by them
READER = "NibabelIOWithReorient"  # reorients to RAS, and reads headers that ITK refuses
CONVERTED_FROM = "converted_from"  # in dataset.json: DICOM or NIfTI, of which images need not have a label
DICOM, NIFTI = "DICOM", "NIfTI"


@dataclass(frozen=True)
class DatasetRow:
    """A dataset and how its download becomes an nnU-Net dataset.

    id, name: parts of the folder name Dataset{id}_{name}; an id of 0 means that it comes from the download or from -d.
    channels: names of the image channels. labels: the structures in the order of their ids, from 1. layout: the
    function that finds the cases in the folders of a download. split: a key of `splits.SPLITS`. image, label: file
    names without ending, as regular expressions with the group `case`. dropped: structures that follow `labels` in the
    source and become background. n_test: number of test cases of the split. case_numbers: the numbers of the cases of
    this modality, or None if the download has only one modality. expected_labels, expected_cases: published numbers of
    labels, and of labels with an image. labels_without_images: whether the download has labels without an image, so
    that such a label is not an error. unlabelled: whether images without a label are cases, which somebody will
    annotate.
    """

    id: int
    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    layout: Layout
    split: str
    description: str
    reference: str
    release: str
    licence: str
    citation: str
    image: str = ""
    label: str = ""
    dropped: tuple[str, ...] = ()
    n_test: int = 0
    case_numbers: range | None = None
    expected_labels: int | None = None
    expected_cases: int | None = None
    labels_without_images: bool = False
    unlabelled: bool = False

    @property
    def folder(self) -> str:
        return f"Dataset{self.id:03d}_{self.name}"

    @property
    def target_labels(self) -> dict[str, int]:
        """The ids of the converted dataset, background included."""
        return {name: value for value, name in enumerate((BACKGROUND, *self.labels))}

    @property
    def source_labels(self) -> dict[str, int]:
        """The documented ids of the download, which are used if the download contains no table of its own."""
        return {name: value for value, name in enumerate((BACKGROUND, *self.labels, *self.dropped))}


Layout = Callable[[DatasetRow, list[Path]], Sources]  # absolute folders of a download -> its cases

AMOS_STRUCTURES = (
    "spleen",
    "right kidney",
    "left kidney",
    "gall bladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate/uterus",
)
ABDOMEN_ATLAS_STRUCTURES = (
    "aorta",
    "gall_bladder",
    "kidney_left",
    "kidney_right",
    "liver",
    "pancreas",
    "postcava",
    "spleen",
    "stomach",
    "adrenal_gland_left",
    "adrenal_gland_right",
    "bladder",
    "celiac_trunk",
    "colon",
    "duodenum",
    "esophagus",
    "femur_left",
    "femur_right",
    "hepatic_vessel",
    "intestine",
    "lung_left",
    "lung_right",
    "portal_vein_and_splenic_vein",
    "prostate",
    "rectum",
)
AMOS_FIRST_MR_CASE = 500  # according to the readme of AMOS; the cases before it are CT
AMOS_LICENCE = (
    "Zenodo record: CC BY 4.0; dataset.json of the download: CC-BY-SA 4.0; OpenReview page: a CC BY-NC licence"
)
AMOS_CITATION = (
    "Ji et al. AMOS: A Large-Scale Abdominal Multi-Organ Benchmark for Versatile Medical Image Segmentation. "
    "NeurIPS Datasets and Benchmarks (2022)"
)

DATASETS: Table[DatasetRow] = Table(
    "nnunet_assft.datasets",
    DatasetRow,
    {
        "amos_ct": DatasetRow(
            id=218,
            name="AMOS2022_postChallenge_task1",
            channels=(CT,),
            labels=AMOS_STRUCTURES,
            layout=amos,
            image=r"(?P<case>amos_\d{4})",
            label=r"(?P<case>amos_\d{4})",
            case_numbers=range(AMOS_FIRST_MR_CASE),
            split="official",
            expected_labels=300,
            expected_cases=300,
            description="AMOS 2022 task 1: abdominal CT, 15 structures; official training cases as pool, official "
            "validation as test",
            reference="https://amos22.grand-challenge.org/",
            release="https://zenodo.org/record/7262581",
            licence=AMOS_LICENCE,
            citation=AMOS_CITATION,
        ),
        "amos_mri": DatasetRow(
            id=802,
            name="AMOS2022MRI",
            channels=(MRI,),
            labels=AMOS_STRUCTURES[:13],
            dropped=AMOS_STRUCTURES[13:],
            layout=amos,
            image=r"(?P<case>amos_\d{4})",
            label=r"(?P<case>amos_\d{4})",
            case_numbers=range(AMOS_FIRST_MR_CASE, 10_000),
            split="official",
            expected_labels=60,
            expected_cases=60,
            description="AMOS 2022: abdominal MR, 13 structures; bladder and prostate/uterus, which two MR cases have, "
            "are background",
            reference="https://amos22.grand-challenge.org/",
            release="https://zenodo.org/record/7262581",
            licence=AMOS_LICENCE,
            citation=AMOS_CITATION,
        ),
        "flare21": DatasetRow(
            id=803,
            name="FLARE21",
            channels=(CT,),
            labels=("liver", "kidney", "spleen", "pancreas"),
            layout=named_files,
            image=r"(?P<case>(train|validation)_\d{3})_0000",
            label=r"(?P<case>train_\d{3})",
            split="random",
            n_test=72,
            expected_labels=361,
            expected_cases=361,
            description="FLARE 2021: abdominal CT, 4 structures",
            reference="https://flare.grand-challenge.org/",
            release="https://zenodo.org/record/5903672",
            licence="CC BY-NC-SA 4.0 as a mirror states; the part from MSD: CC-BY-SA 4.0; labels of AbdomenCT-1K: "
            "research only",
            citation="Ma et al. Fast and Low-GPU-memory abdomen CT organ segmentation: The FLARE challenge. "
            "Medical Image Analysis 82, 102616 (2022)",
        ),
        "abdomen_atlas": DatasetRow(
            id=804,
            name="AbdomenAtlas1_1",
            channels=(CT,),
            labels=ABDOMEN_ATLAS_STRUCTURES,
            layout=case_folders,
            image=r"(?P<case>BDMAP_\d{8})",
            split="hash",
            n_test=500,
            expected_labels=9262,
            expected_cases=5195,
            labels_without_images=True,
            description="AbdomenAtlas 1.1 Mini: abdominal CT, 25 structures",
            reference="https://github.com/MrGiovanni/AbdomenAtlas",
            release="AbdomenAtlas/_AbdomenAtlas1.1Mini",
            licence="CC BY-NC-SA 4.0; research only, no redistribution",
            citation="Li et al. AbdomenAtlas: A large-scale, detailed-annotated, & multi-center dataset for efficient "
            "transfer learning and open algorithmic benchmarking. Medical Image Analysis 97, 103285 (2024)",
        ),
        "abdominal_mri": DatasetRow(
            id=805,
            name="MRAnnotatorAbdomen",
            channels=(MRI,),
            layout=named_files,
            labels=(
                "spleen",
                "kidney_right",
                "kidney_left",
                "gallbladder",
                "liver",
                "aorta",
                "inferior_vena_cava",
                "pancreas",
            ),
            image=r"(?P<case>.+?)(_0000)?",
            label=r"(?P<case>.+)",
            split="random",
            n_test=10,
            expected_labels=30,
            expected_cases=30,
            description="MRAnnotator abdominal MR, 8 structures",
            reference="https://github.com/lzl199704/MRAnnotator",
            release="on request from RadImageNet",
            licence="not stated for the images: see the terms of your copy",
            citation="Zhou et al. MRAnnotator: Multi-Anatomy and Many-Sequence MRI Segmentation of Forty-four "
            "Structures. Radiology Advances (2024), doi:10.1093/radadv/umae035",
        ),
        "msd": DatasetRow(  # the folder of the task and its dataset.json supply the id, name, labels and so on
            id=0,
            name="",
            channels=(),
            labels=(),
            layout=msd,
            split="all",
            description="",
            reference="http://medicaldecathlon.com/",
            release="",
            licence="CC-BY-SA 4.0",
            citation="Antonelli et al. The Medical Segmentation Decathlon. Nature Communications 13, 4128 (2022)",
        ),
    },
)
