"""The five domains of the paper (its sections 4.1-4.3) as a table. Any other dataset is planned from its images."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_assft.runtime.tables import Table


@dataclass(frozen=True)
class Domain:
    """What the paper fixes per target domain.

    dataset: nnU-Net folder name by which `--domain auto` recognises it; patch_size: voxels (z, y, x), None = nnU-Net's
    own patch logic; rounds: R; budget: N_B as share of the pool or as a count; epochs: per stage of rounds r >= 1.
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
        "generic": Domain(None, None, 5, "5%", 400, "any other dataset; patch size by nnU-Net's own logic"),
    },
)


def resolve_domain(name: str, dataset_name: str) -> str:
    """The row of DOMAINS for `name`; `auto` looks the dataset's folder name up and falls back to `generic`."""
    if name != "auto":
        return name
    return next((key for key, domain in DOMAINS.items() if domain.dataset == dataset_name), "generic")
