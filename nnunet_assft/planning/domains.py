"""The table of the five domains of the paper (sections 4.1-4.3), and a generic one for any other dataset."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_assft.runtime.tables import Table


@dataclass(frozen=True)
class Domain:
    """The values that the paper sets for a target domain.

    dataset: folder name by which `--domain auto` recognises the dataset. patch_size: voxels (z, y, x), None for
    nnU-Net's own choice. rounds: R. budget: N_B, as a share of the pool or a number of cases. epochs: per stage of the
    rounds r >= 1.
    """

    dataset: str | None
    patch_size: tuple[int, int, int] | None
    rounds: int
    budget: str
    epochs: int
    description: str


ONE_SHOT_EPOCHS = 100

DOMAINS: Table[Domain] = Table(
    "nnunet_assft.domains",
    Domain,
    {
        "amos_ct": Domain(
            "Dataset218_AMOS2022_postChallenge_task1", (96, 160, 160), 5, "5%", 400, "AMOS2022-CT, 15 structures"
        ),
        "flare21": Domain("Dataset803_FLARE21", (96, 192, 160), 5, "5%", 400, "FLARE 2021, 4 structures"),
        "abdomen_atlas": Domain(
            "Dataset804_AbdomenAtlas1_1", (96, 128, 160), 2, "5%", 800, "Abdomen Atlas, 25 structures"
        ),
        "amos_mri": Domain("Dataset802_AMOS2022MRI", (48, 160, 224), 6, "5%", 400, "AMOS2022-MRI, 13 structures"),
        "abdominal_mri": Domain(
            "Dataset805_MRAnnotatorAbdomen", (64, 192, 192), 3, "2", 400, "Abdominal MRI, 8 structures"
        ),
        "generic": Domain(None, None, 5, "5%", 400, "any other dataset, with the patch size that nnU-Net chooses"),
    },
)


def resolve_domain(name: str, dataset_name: str) -> str:
    """Return the name of a row of DOMAINS; `auto` is resolved by the folder name of the dataset, or to `generic`."""
    if name != "auto":
        return name
    return next((key for key, domain in DOMAINS.items() if domain.dataset == dataset_name), "generic")
