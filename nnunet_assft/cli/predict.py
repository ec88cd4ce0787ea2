"""nnUNetv2_assft_predict: run nnU-Net's prediction with the model of a round, without nnUNet_extTrainer."""

from __future__ import annotations

import argparse
import sys

from nnunet_assft.cli.common import add_device, file_name, load_experiment, make_parser, number, round_of, run
from nnunet_assft.cli.engine_options import add_engine_options, choose_where
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import printable


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
    from tqdm import tqdm

    from nnunet_assft.active.scoring.new_images import Prediction, PredictionOptions
    from nnunet_assft.active.scoring.new_inputs import Part, dicom_inputs, image_inputs, predict_inputs
    from nnunet_assft.runtime.writable import require_folder
    from nnunet_assft.volumes.raw_dataset import refuse_folders_of_datasets

    if args.part_id >= args.num_parts:
        parser().error(f"argument -part_id: {args.part_id}; expected 0 to {args.num_parts - 1} with this -num_parts")
    refuse_folders_of_datasets(args.o, "-o")
    experiment = load_experiment(args)
    done = round_of(experiment, args.r)
    device, engine = choose_where(args)
    if engine.name != "here" and args.num_parts > 1:
        parser().error("argument -num_parts: the engine divides the cases by itself; see --parts in --list_engines")
    dataset_json = experiment.raw_dataset().dataset_json
    part = Part(args.o, args.num_parts, args.part_id, args.continue_prediction, args.save_probabilities)
    inputs = (dicom_inputs if args.dicom else image_inputs)(args.i, dataset_json, part)
    if not inputs.names and not inputs.unusable:
        print("This part contains no case that is left to predict.")
        return
    require_folder(args.o, "-o")
    if inputs.names:
        print(f"Model: round {done.round} of experiment {experiment.name!r}, {done.model.checkpoint}. Output: {args.o}")
    options = PredictionOptions(
        step_size=args.step_size,
        use_mirroring=not args.disable_tta,
        save_probabilities=args.save_probabilities,
        preprocessing=args.npp,
        export=args.nps,
    )

    def say(line: str) -> None:
        tqdm.write(f"nnUNetv2_assft_predict: {printable(line)}", file=sys.stderr)

    how = Prediction(experiment, done.model, device, args.o, options)
    refused = predict_inputs(how, engine, inputs, dataset_json, say)
    if refused:
        n_cases = len(inputs.names) + len(inputs.unusable)
        raise AssftError(f"{len(refused)} of {n_cases} cases could not be predicted. The lines above say why.")


def main(argv: list[str] | None = None) -> None:
    run(predict, parser(), argv)
