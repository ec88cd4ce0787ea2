"""nnUNetv2_assft_predict: run nnU-Net's prediction with the model of a round, without nnUNet_extTrainer."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_assft.cli.common import add_device, file_name, load_experiment, make_parser, number, round_of, run
from nnunet_assft.cli.engine_options import add_engine_options, choose_where
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import printable

if TYPE_CHECKING:
    from nnunet_assft.active.scoring.new_images import Prediction, PredictionOptions
    from nnunet_assft.cluster.engines import Engine
    from nnunet_assft.volumes.dicom.stack import Stack
    from nnunet_assft.volumes.image_files import ImageFiles


def parser() -> argparse.ArgumentParser:
    p = make_parser("predict", "Run nnU-Net's prediction with the model of a finished round.")
    p.add_argument(
        "-i",
        type=file_name,
        required=True,
        metavar="FOLDER",
        help="folder of images named CASE_0000.nii.gz; with --dicom, of DICOM series",
    )
    p.add_argument("-o", type=file_name, required=True, metavar="FOLDER", help="folder for the segmentations")
    p.add_argument(
        "--dicom",
        action="store_true",
        help="predict every CT or MR series below -i, and also write each segmentation as DICOM SEG",
    )
    p.add_argument("-r", type=number("r"), metavar="R", help="round (default: the last finished round)")
    p.add_argument(
        "-step_size", type=number("step_size"), default=0.5, metavar="S", help="sliding-window step, in patches"
    )
    p.add_argument("--disable_tta", action="store_true", help="predict without mirroring")
    p.add_argument("--save_probabilities", action="store_true", help="also write the softmax as .npz")
    p.add_argument("--continue_prediction", action="store_true", help="keep existing segmentations")
    p.add_argument("-npp", type=number("npp"), default=3, metavar="N", help="processes for preprocessing; 0: none")
    p.add_argument("-nps", type=number("nps"), default=3, metavar="N", help="processes for export; 0: none")
    p.add_argument(
        "-num_parts", type=number("num_parts"), default=1, metavar="N", help="divide the cases among N calls"
    )
    p.add_argument(
        "-part_id", type=number("part_id"), default=0, metavar="I", help="the part that this call predicts, from 0"
    )
    add_device(p)
    add_engine_options(p, trains=False)
    return p


def predict(args: argparse.Namespace) -> None:
    """Predict all images of a folder, or the part of them that this call is responsible for.

    An image that cannot be used is one line on stderr, and the others are predicted. Raises `AssftError` at the end if
    there was one.
    """
    from nnunet_assft.active.scoring.new_images import Prediction
    from nnunet_assft.runtime.writable import require_folder

    if args.part_id >= args.num_parts:
        parser().error(f"argument -part_id: {args.part_id}; expected 0 to {args.num_parts - 1} with this -num_parts")
    experiment = load_experiment(args)
    done = round_of(experiment, args.r)
    device, engine = choose_where(args)
    if engine.name != "here" and args.num_parts > 1:
        parser().error("argument -num_parts: the engine divides the cases by itself; see --parts in --list_engines")
    dataset_json = experiment.raw_dataset().dataset_json
    inputs = dicom_inputs(args, dataset_json) if args.dicom else image_inputs(args, dataset_json)
    if not inputs.names and not inputs.unusable:
        print("This part contains no case that is left to predict.")
        return
    require_folder(args.o, "-o")
    if inputs.names:
        print(f"Model: round {done.round} of experiment {experiment.name!r}, {done.model.checkpoint}. Output: {args.o}")
    how = Prediction(experiment, done.model, device, args.o, options_of(args))
    refused = predict_inputs(args, how, engine, inputs, dataset_json)
    if refused:
        n_cases = len(inputs.names) + len(inputs.unusable)
        raise AssftError(f"{len(refused)} of {n_cases} cases could not be predicted. The lines above say why.")


@dataclass
class Inputs:
    """What a call is to predict.

    files: case -> its image files, which are there already. series: SeriesInstanceUID -> a series that becomes an image
    first, and whose segmentation is also written as DICOM. unusable: other inputs, and why they cannot be predicted.
    remarks: lines about files that are left out.
    """

    files: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    series: dict[str, Stack] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [*self.files, *self.series]


def image_inputs(args: argparse.Namespace, dataset_json: dict[str, Any]) -> Inputs:
    """Return the images of a folder that this call is to predict. dataset_json: that of the model."""
    images = list_cases(args.i, dataset_json)
    ending = f"because it does not end with {dataset_json['file_ending']}"
    return Inputs(
        files=cases_of_part(images, args),
        unusable={**images.misnamed, **images.incomplete} if args.part_id == 0 else {},
        remarks=[f"{name} is left out, {ending}." for name in images.left_out] if args.part_id == 0 else [],
    )


def dicom_inputs(args: argparse.Namespace, dataset_json: dict[str, Any]) -> Inputs:
    """Return the series below a folder that this call is to predict. dataset_json: that of the model."""
    from nnunet_assft.active.scoring.new_images import is_predicted
    from nnunet_assft.volumes.dicom.folder import ENDING, require_one_channel, series_below
    from nnunet_assft.volumes.dicom.writing import require_highdicom

    require_highdicom()
    require_one_channel(dataset_json)
    if not args.i.is_dir():
        raise AssftError(f"-i {args.i} is no folder. Give the folder of a DICOM export.")
    found = series_below(args.i, dataset_json)
    part = sorted(found.usable)[args.part_id :: args.num_parts]

    def is_done(uid: str) -> bool:
        written = (args.o / f"{uid}.dcm").is_file()
        return written and is_predicted(args.o, uid, ENDING, probabilities=args.save_probabilities)

    return Inputs(
        series={uid: found.usable[uid] for uid in part if not (args.continue_prediction and is_done(uid))},
        unusable=found.refused if args.part_id == 0 else {},
        remarks=[f"{uid} is left out: {why}." for uid, why in found.left_out.items()] if args.part_id == 0 else [],
    )


def predict_inputs(
    args: argparse.Namespace, how: Prediction, engine: Engine, inputs: Inputs, dataset_json: dict[str, Any]
) -> list[str]:
    """Predict what can be predicted, and print a line about the rest. Returns the names of what could not be.

    dataset_json: that of the model.
    """
    from tqdm import tqdm

    from nnunet_assft.active.scoring.new_images import predict_images
    from nnunet_assft.runtime.cases import for_each_case
    from nnunet_assft.runtime.partial import private_path
    from nnunet_assft.volumes.dicom.folder import write_image

    refused: list[str] = []

    def refuse(case: str, error: AssftError) -> None:
        refused.append(case)
        old = args.o / f"{case}{dataset_json['file_ending']}"
        earlier = f" {old} is from an earlier call." if old.is_file() else ""
        tqdm.write(f"nnUNetv2_assft_predict: {case} is not predicted: {error}.{earlier}", file=sys.stderr)

    for name, problem in inputs.unusable.items():
        refuse(name, AssftError(problem if args.dicom else f"it {problem}"))
    for remark in inputs.remarks:
        tqdm.write(f"nnUNetv2_assft_predict: {printable(remark)}", file=sys.stderr)
    unreadable: dict[str, AssftError] = {}
    unwritable: dict[str, AssftError] = {}
    # beside the segmentations, where jobs of an engine find it
    beside = private_path(how.folder / "series") if inputs.series else nullcontext(how.folder)
    with beside as folder:

        def image(uid: str) -> tuple[Path]:
            return (write_image(folder, uid, inputs.series[uid]),)

        images = for_each_case(image, list(inputs.series), desc="reading series", failures=unreadable)
        for uid, error in unreadable.items():
            refuse(uid, error)
        if files := {**inputs.files, **images}:
            predict_images(how, files, refuse, engine)

    def dicom(uid: str) -> None:
        write_as_dicom(args.o, uid, inputs.series[uid], dataset_json["labels"])

    for_each_case(dicom, [uid for uid in images if uid not in refused], desc="writing DICOM", failures=unwritable)
    for uid, error in unwritable.items():
        tqdm.write(f"nnUNetv2_assft_predict: {uid} is predicted, but not as DICOM: {error}", file=sys.stderr)
    return [*refused, *unwritable]


def write_as_dicom(folder: Path, uid: str, series: Stack, labels: dict[str, int]) -> None:
    """Write the segmentation of a series, which is in the folder, as UID.dcm beside it."""
    import SimpleITK as sitk

    from nnunet_assft.volumes.dicom.folder import ENDING
    from nnunet_assft.volumes.dicom.writing import write_dicom_segmentation

    label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{uid}{ENDING}")))
    write_dicom_segmentation(folder / f"{uid}.dcm", series, label, labels)


def options_of(args: argparse.Namespace) -> PredictionOptions:
    """Return how images are predicted, in nnU-Net's terms."""
    from nnunet_assft.active.scoring.new_images import PredictionOptions

    return PredictionOptions(
        step_size=args.step_size,
        use_mirroring=not args.disable_tta,
        save_probabilities=args.save_probabilities,
        preprocessing=args.npp,
        export=args.nps,
    )


def cases_of_part(images: ImageFiles, args: argparse.Namespace) -> dict[str, tuple[Path, ...]]:
    """Return case -> its image files, for the cases that this call is to predict."""
    from nnunet_assft.active.scoring.new_images import is_predicted

    part = {case: images.cases[case] for case in list(images.cases)[args.part_id :: args.num_parts]}
    if not args.continue_prediction:
        return part
    return {
        case: files
        for case, files in part.items()
        if not is_predicted(args.o, case, images.file_ending, probabilities=args.save_probabilities)
    }


def list_cases(folder: Path, dataset_json: dict[str, Any]) -> ImageFiles:
    """List the images of a folder. dataset_json: that of the model. Raises `AssftError` if there is none."""
    from nnunet_assft.volumes.image_files import list_images
    from nnunet_assft.volumes.raw_dataset import channels_of

    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise AssftError(f"-i {folder} {found}. Give a folder of images named CASE_0000{dataset_json['file_ending']}.")
    images = list_images(folder, dataset_json["file_ending"], channels_of(dataset_json), any_id=True)
    if images.is_empty:
        raise AssftError(
            f"{images.describe_emptiness()} 0000 is the channel. Link or copy the images under such names into a "
            "separate folder."
        )
    return images


def main(argv: list[str] | None = None) -> None:
    run(predict, parser(), argv)
