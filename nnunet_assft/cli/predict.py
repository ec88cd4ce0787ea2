"""nnUNetv2_assft_predict: run nnU-Net's prediction with the model of a round, without nnUNet_extTrainer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_assft.cli.common import add_device, choose_device, load_experiment, make_parser, run
from nnunet_assft.errors import AssftError


def parser() -> argparse.ArgumentParser:
    p = make_parser("predict", "Run nnU-Net's prediction with the model of a finished round.")
    p.add_argument("-i", required=True, metavar="FOLDER", help="folder of images named CASE_0000.nii.gz")
    p.add_argument("-o", required=True, metavar="FOLDER", help="folder for the segmentations")
    p.add_argument("-r", type=int, metavar="R", help="round (default: the last finished round)")
    p.add_argument("-step_size", type=float, default=0.5, metavar="S", help="sliding-window step, in patches")
    p.add_argument("--disable_tta", action="store_true", help="predict without mirroring")
    p.add_argument("--save_probabilities", action="store_true", help="also write the softmax as .npz")
    p.add_argument("--continue_prediction", action="store_true", help="keep existing segmentations")
    p.add_argument("-npp", type=int, default=3, metavar="N", help="processes for preprocessing; 0: none")
    p.add_argument("-nps", type=int, default=3, metavar="N", help="processes for export; 0: none")
    p.add_argument("-num_parts", type=int, default=1, metavar="N", help="divide the cases among N calls")
    p.add_argument("-part_id", type=int, default=0, metavar="I", help="the part that this call predicts, from 0")
    add_device(p)
    return p


def predict(args: argparse.Namespace) -> None:
    """Predict all images of a folder, or the part of them that this call is responsible for.

    An image that cannot be used is one line on stderr, and the others are predicted. Raises `AssftError` at the end if
    there was one.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from tqdm import tqdm

    from nnunet_assft.active.scoring.new_images import Processes, predict_images
    from nnunet_assft.active.state import finished_rounds
    from nnunet_assft.trainers import assft_trainers  # noqa: F401 - the checkpoint names one of them

    experiment = load_experiment(args)
    done = finished_rounds(experiment)
    r = len(done) - 1 if args.r is None else args.r
    if not 0 <= r < len(done):
        raise AssftError(
            f"Round {r} is not finished; {len(done)} of {experiment.n_rounds + 1} rounds are. "
            "Run nnUNetv2_assft_status to see the next command."
        )
    if not 0 <= args.part_id < args.num_parts:
        raise AssftError(
            f"-part_id {args.part_id} with -num_parts {args.num_parts}; expected 0 to {args.num_parts - 1}."
        )
    predictor = nnUNetPredictor(
        tile_step_size=args.step_size, use_mirroring=not args.disable_tta, device=choose_device(args.device)
    )
    predictor.initialize_from_trained_model_folder(str(experiment.paths.model_folder(done[r].model.stage)), (r,))
    file_ending = predictor.dataset_json["file_ending"]
    output = Path(args.o)
    if output.exists() and not output.is_dir():
        raise AssftError(f"-o {output} is a file; expected a folder. Give another one.")
    cases = cases_of_part(args, output, file_ending)
    if not cases:
        print("This part contains no case that is left to predict.")
        return
    output.mkdir(parents=True, exist_ok=True)
    refused: list[str] = []

    def refuse(case: str, error: AssftError) -> None:
        refused.append(case)
        old = output / f"{case}{file_ending}"
        earlier = f" {old} is from an earlier call." if old.is_file() else ""
        tqdm.write(f"nnUNetv2_assft_predict: {case} is not predicted: {error}.{earlier}", file=sys.stderr)

    processes = Processes(args.npp, args.nps)
    predict_images(predictor, cases, output, processes, save_probabilities=args.save_probabilities, refused=refuse)
    if refused:
        raise AssftError(f"{len(refused)} of {len(cases)} cases could not be predicted. The lines above say why.")


def cases_of_part(args: argparse.Namespace, output: Path, file_ending: str) -> dict[str, tuple[Path, ...]]:
    """Return case -> its image files, for the cases that this call is to predict."""
    from nnunet_assft.active.scoring.new_images import is_predicted

    n = len(f"_0000{file_ending}")
    listed = [(Path(files[0]).name[:-n], tuple(map(Path, files))) for files in list_cases(args.i, file_ending)]
    part = dict(listed[args.part_id :: args.num_parts])
    if not args.continue_prediction:
        return part
    return {
        case: files
        for case, files in part.items()
        if not is_predicted(output, case, file_ending, probabilities=args.save_probabilities)
    }


def list_cases(folder: str, file_ending: str) -> list[list[str]]:
    """Return the image files of every case in a folder, one per channel.

    Raises `AssftError` if there is no image or a name has no channel number.
    """
    from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

    cases: list[list[str]] = create_lists_from_splitted_dataset_folder(folder, file_ending)
    if not cases or not all(cases):  # nnU-Net lists an image without a channel in its name as a case without files
        found = "images that are not" if cases else "no image"
        raise AssftError(
            f"{folder} holds {found} named CASE_0000{file_ending}; 0000 is the channel. "
            "Link or copy the images under such names into a separate folder."
        )
    return cases


def main(argv: list[str] | None = None) -> None:
    run(predict, parser(), argv)
