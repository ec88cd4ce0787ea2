"""The SNOMED CT codes by which a DICOM segmentation says what a segment is. Pure: names in, codes out."""

from __future__ import annotations

import re
from typing import NamedTuple


class Code(NamedTuple):
    """A code of SNOMED CT and its meaning in English."""

    value: str
    meaning: str


class Meaning(NamedTuple):
    """What a segment is. side: left or right, None if the name does not say."""

    category: Code
    kind: Code
    side: Code | None


ANATOMY = Code("91723000", "Anatomical Structure")
CHANGE = Code("49755003", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "Tissue")  # what 3D Slicer calls a segment that nobody has described
SIDES = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}
CHANGES = {
    **dict.fromkeys(("tumor", "tumour", "neoplasm", "cancer"), Code("108369006", "Neoplasm")),
    "lesion": Code("52988006", "Lesion"),
    "mass": Code("4147007", "Mass"),
    "cyst": Code("367643001", "Cyst"),
    "nodule": Code("27925004", "Nodule"),
    **dict.fromkeys(("edema", "oedema"), Code("79654002", "Edema")),
    "necrosis": Code("6574001", "Necrosis"),
}
STRUCTURES = {
    "adrenal gland": Code("23451007", "Adrenal gland"),
    "aorta": Code("15825003", "Aorta"),
    **dict.fromkeys(("bladder", "urinary bladder"), Code("89837001", "Bladder")),
    "bone": Code("272673000", "Bone"),
    "brain": Code("12738006", "Brain"),
    "colon": Code("71854001", "Colon"),
    "duodenum": Code("38848004", "Duodenum"),
    **dict.fromkeys(("esophagus", "oesophagus"), Code("32849002", "Esophagus")),
    **dict.fromkeys(("gallbladder", "gall bladder"), Code("28231008", "Gallbladder")),
    "heart": Code("80891009", "Heart"),
    "hippocampus": Code("5366008", "Hippocampus"),
    **dict.fromkeys(("inferior vena cava", "postcava", "ivc"), Code("64131007", "Inferior vena cava")),
    "kidney": Code("64033007", "Kidney"),
    "liver": Code("10200004", "Liver"),
    "lung": Code("39607008", "Lung"),
    "pancreas": Code("15776009", "Pancreas"),
    "portal vein": Code("32764006", "Portal vein"),
    "prostate": Code("41216001", "Prostate"),
    "rectum": Code("34402009", "Rectum"),
    "small intestine": Code("30315005", "Small intestine"),
    "spinal cord": Code("2748008", "Spinal cord"),
    "spleen": Code("78961009", "Spleen"),
    "stomach": Code("69695003", "Stomach"),
    "trachea": Code("44567001", "Trachea"),
    "uterus": Code("35039007", "Uterus"),
}


def meaning_of(name: str) -> Meaning:
    """Return what a structure of this name is; TISSUE if the tables do not have it. The name itself is kept beside it,
    so that nothing is lost."""
    words = [word for word in re.split(r"[\s_-]+", name.strip().casefold()) if word]
    sides = [word for word in words if word in SIDES]
    rest = " ".join(word for word in words if word not in SIDES)
    side = SIDES[sides[0]] if len(sides) == 1 else None
    if rest in STRUCTURES:
        return Meaning(ANATOMY, STRUCTURES[rest], side)
    if rest in CHANGES:
        return Meaning(CHANGE, CHANGES[rest], side)
    return Meaning(TISSUE, TISSUE, None)
