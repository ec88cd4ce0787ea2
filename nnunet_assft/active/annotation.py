"""Where labels of queried cases come from. Nothing of an unlabelled case's label is read before its query."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from nnunet_assft.active.nnunet_io import Context
from nnunet_assft.errors import WaitingForAnnotation


def annotate(context: Context, annotator: str, queried: Sequence[str]) -> None:
    """See to it that every queried case has a label that can be trained on.

    oracle: the label is in labelsTr since the start. human: it has to be put there. Raises `WaitingForAnnotation` if
    human labels are missing, `AssftError` for a label that cannot be trained on.
    """
    files = {case: context.dataset.label_file(case) for case in queried}
    missing = [case for case, file in files.items() if not file.is_file()]
    if annotator == "human" and missing:
        raise WaitingForAnnotation(
            f"waiting for the annotation of {len(missing)} of {len(queried)} cases: {', '.join(missing)}. "
            f"Save each as {context.dataset.folder / 'labelsTr'}/CASE{context.dataset.file_ending} and type the same command again."
        )
    for case, file in tqdm(files.items(), desc="checking labels", unit="case", leave=False):
        context.checked_label(case, file)
