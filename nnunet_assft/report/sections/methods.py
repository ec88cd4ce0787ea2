"""A paragraph for the methods section of a paper, made from what the experiment has recorded."""

from __future__ import annotations

from nnunet_assft.active.options import PSEUDO, SUPERVISED
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.network.presets import ENCODERS
from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.base import Section, network_name
from nnunet_assft.runtime.text import count

REFERENCES = (
    "Isensee et al. Nature Methods 18, 203-211 (2021), for nnU-Net.",
    "Yang, Marcus, Sotiras. arXiv 2509.10784, for ASSFT, if the strategy is assft or a part of it.",
)


def section(material: Material) -> Section:
    """Return sentences that can be copied, and the references that belong to them."""
    return Section("methods", "Methods, to be copied", (paragraph(material), " ".join(REFERENCES)))


def paragraph(material: Material) -> str:
    """Return the paragraph. It states what was done and leaves the reasons to the author."""
    experiment, settings, last = material.experiment, material.experiment.settings, material.rounds[-1]
    training, row, versions = settings.training, STRATEGIES[settings.strategy], experiment.versions
    n_start, n_labelled = len(material.rounds[0].labelled), len(last.labelled)
    looked_at = len(set(last.labelled).intersection(experiment.scope(last.round).looked_at))
    encoder, report = "random weights", experiment.encoder_report
    if settings.start is not None:
        encoder = "the weights of a trained model"
    elif report is not None:
        known = report.get("encoder") in ENCODERS
        encoder = (
            f"the pre-trained encoder of {ENCODERS[report['encoder']].source}" if known else "a pre-trained encoder"
        )
    annotated = "by annotators" if settings.annotator == "human" else "with the reference labels of the dataset"
    sentences = [
        f"From a pool of {count(n_labelled + len(last.unlabelled), 'scan')}, {n_labelled} were annotated {annotated} "
        f"in {count(last.round, 'round')} of up to {experiment.per_round(last.round, 'scan')} after a first "
        f"{'one' if n_start == 1 else n_start}"
        + (f", {looked_at} of the {n_labelled} by a second look at pseudo-labels." if looked_at else "."),
        f"They were chosen with the strategy {settings.strategy} ({row.description}; {row.source}).",
        f"The network ({network_name(material)}) started from {encoder} and was trained with nnU-Net "
        f"{versions.get('nnunetv2', '')} and nnunet_assft {versions.get('nnunet_assft', '')}: AdamW, initial learning "
        f"rate {training['initial_lr']:g}, {training['one_shot_epochs']} epochs on the first "
        f"scan{'' if n_start == 1 else 's'} and then {training['epochs']} per stage, of "
        f"{training['iterations_per_epoch']} iterations.",
    ]
    if settings.second_stage == PSEUDO:
        sentences.append(
            f"In a second stage of each round, selected unlabelled scans were added with the segmentations of the "
            f"network as labels, {len(last.pseudo_labelled)} in the last round."
        )
    elif settings.second_stage == SUPERVISED:
        sentences.append("In a second stage of each round, the network was trained further on the same scans.")
    if options := experiment.options.as_typed():
        sentences.append(f"Options: {options}.")
    n_cases = last.dice["n_cases"]
    sentences.append(
        f"The Dice was measured on {count(n_cases, 'test case')} that no stage was trained on."
        if n_cases
        else "No test cases with labels were available, so no Dice was measured."
    )
    return " ".join(sentences)
