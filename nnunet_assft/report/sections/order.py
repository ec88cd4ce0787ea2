"""The sections in their order on the page."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

from nnunet_assft.report.material import Material
from nnunet_assft.report.sections import (
    annotation,
    cases,
    comparison,
    embeddings,
    learning_curve,
    methods,
    provenance,
    pseudo_labels,
    qualitative,
    query_scores,
    structures,
    test_cases,
    training,
    viewer,
)
from nnunet_assft.report.sections.base import Section

# Each function makes a section from the material, or returns None if the section is not part of this report.
SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    learning_curve.section,
    structures.section,
    test_cases.section,
    annotation.section,
    query_scores.section,
    cases.section,
    viewer.section,
    embeddings.section,
    pseudo_labels.section,
    training.section,
    comparison.section,
    qualitative.section,
    methods.section,
    provenance.section,
)


def build_sections(material: Material) -> list[Section]:
    """Build every section of the page, in order."""
    built = [build(material) for build in tqdm(SECTIONS, desc="sections", unit="section", leave=False)]
    return [section for section in built if section is not None]
