"""nnUNetv2_assft_predict: run nnU-Net's prediction with the model of a round, without nnUNet_extTrainer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_assft.cli.common import (
    add_device,
    choose_device,
    file_name,
    load_experiment,
    make_parser,
    number,
    round_of,
    run,
)
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import printable

if TYPE_CHECKING:
    from nnunet_assft.volumes.image_files import ImageFiles


def parser() -> argparse.ArgumentParser:
    p = make_parser("predict", "Run nnU-Net's prediction with the model of a finished round.")
    p.add_argument(
        "-i", type=file_name, required=True, metavar="FOLDER", help="folder of images named CASE_0000.nii.gz"
    )
    p.add_argument("-o", type=file_name, required=True, metavar="FOLDER", help="folder for the segmentations")
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
    return p


def predict(args: argparse.Namespace) -> None:
    """Predict all images of a folder, or the part of them that this call is responsible for.

    An image that cannot be used is one line on stderr, and the others are predicted. Raises `AssftError` at the end if
    there was one.
    """
    from tqdm import tqdm

    from nnunet_assft.active.scoring.new_images import Processes, open_predictor, predict_images
    from nnunet_assft.runtime.processes import let_workers_die_with_us
    from nnunet_assft.runtime.writable import require_folder

    if args.part_id >= args.num_parts:
        parser().error(f"argument -part_id: {args.part_id}; expected 0 to {args.num_parts - 1} with this -num_parts")
    experiment = load_experiment(args)
    done = round_of(experiment, args.r)
    predictor = open_predictor(
        experiment, done.model, choose_device(args.device), args.step_size, use_mirroring=not args.disable_tta
    )
    file_ending = str(predictor.dataset_json["file_ending"])
    images = list_cases(args.i, predictor.dataset_json)
    cases = cases_of_part(images, args)
    unusable = {**images.misnamed, **images.incomplete} if args.part_id == 0 else {}
    if not cases and not unusable:
        print("This part contains no case that is left to predict.")
        return
    require_folder(args.o, "-o")
    let_workers_die_with_us()
    refused: list[str] = []

    def refuse(case: str, error: AssftError) -> None:
        refused.append(case)
        old = args.o / f"{case}{file_ending}"
        earlier = f" {old} is from an earlier call." if old.is_file() else ""
        tqdm.write(f"nnUNetv2_assft_predict: {case} is not predicted: {error}.{earlier}", file=sys.stderr)

    for name, problem in unusable.items():
        refuse(name, AssftError(f"it {problem}"))
    for name in images.left_out if args.part_id == 0 else ():
        tqdm.write(
            f"nnUNetv2_assft_predict: {printable(name)} is left out, because it does not end with {file_ending}.",
            file=sys.stderr,
        )
    print(f"Model: round {done.round} of experiment {experiment.name!r}, {done.model.checkpoint}. Output: {args.o}")
    processes, probabilities = Processes(args.npp, args.nps), args.save_probabilities
    if cases:
        predict_images(predictor, cases, args.o, processes, save_probabilities=probabilities, refused=refuse)
    if refused:
        n_cases = len(cases) + len(unusable)
        raise AssftError(f"{len(refused)} of {n_cases} cases could not be predicted. The lines above say why.")


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
