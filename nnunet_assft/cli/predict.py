"""nnUNetv2_assft_predict: nnU-Net's prediction with the model of a round; no environment variable for our classes."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_assft.cli.common import add_device, choose_device, load_experiment, make_parser, run


def parser() -> argparse.ArgumentParser:
    p = make_parser("predict", "nnU-Net's prediction with the model of a finished round.")
    p.add_argument("-i", required=True, metavar="FOLDER", help="images, named CASE_0000.nii.gz")
    p.add_argument("-o", required=True, metavar="FOLDER", help="where the segmentations go")
    p.add_argument("-r", type=int, metavar="R", help="round (default: the last finished one)")
    p.add_argument("-step_size", type=float, default=0.5, metavar="S", help="sliding window step, in patches")
    p.add_argument("--disable_tta", action="store_true", help="no mirroring")
    p.add_argument("--save_probabilities", action="store_true", help="also write softmax .npz")
    p.add_argument("--continue_prediction", action="store_true", help="leave existing segmentations alone")
    p.add_argument("-npp", type=int, default=3, metavar="N", help="processes for preprocessing; 0: none")
    p.add_argument("-nps", type=int, default=3, metavar="N", help="processes for export; 0: none")
    p.add_argument("-num_parts", type=int, default=1, metavar="N", help="share the cases out to N calls")
    p.add_argument("-part_id", type=int, default=0, metavar="I", help="which part this call does, from 0")
    add_device(p)
    return p


def predict(args: argparse.Namespace) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

    from nnunet_assft.active.state import finished_rounds
    from nnunet_assft.errors import AssftError
    from nnunet_assft.nnunet_names import register

    experiment = load_experiment(args)
    done = finished_rounds(experiment)
    r = len(done) - 1 if args.r is None else args.r
    if not 0 <= r < len(done):
        raise AssftError(
            f"Round {r} is not finished; {len(done)} of {experiment.n_rounds + 1} rounds are. See nnUNetv2_assft_status."
        )
    if not 0 <= args.part_id < args.num_parts:
        raise AssftError(
            f"-part_id {args.part_id} with -num_parts {args.num_parts}; expected 0 to {args.num_parts - 1}."
        )
    register()
    predictor = nnUNetPredictor(
        tile_step_size=args.step_size, use_mirroring=not args.disable_tta, device=choose_device(args.device)
    )
    predictor.initialize_from_trained_model_folder(str(experiment.paths.model_folder(done[r].model.stage)), (r,))
    # sharing out here works with -npp 0 -nps 0 too, where nnU-Net's sequential path ignores it
    cases = create_lists_from_splitted_dataset_folder(args.i, predictor.dataset_json["file_ending"])
    if not cases or not all(cases):  # nnU-Net makes a case without files of an image without a channel in its name
        found = "images that are not" if cases else "no image"
        raise AssftError(
            f"{args.i} holds {found} named CASE_0000{predictor.dataset_json['file_ending']}; 0000 is the channel. "
            "Link or copy the images under such names into a folder of their own."
        )
    cases = cases[args.part_id :: args.num_parts]
    if not cases:
        print("This part has no case.")
        return
    Path(args.o).mkdir(parents=True, exist_ok=True)
    ending = len(f"_0000{predictor.dataset_json['file_ending']}")
    targets = [str(Path(args.o) / Path(files[0]).name[:-ending]) for files in cases]
    overwrite = not args.continue_prediction
    if args.npp == 0 and args.nps == 0:
        predictor.predict_from_files_sequential(cases, targets, args.save_probabilities, overwrite)
    else:
        predictor.predict_from_files(
            cases, targets, args.save_probabilities, overwrite, max(1, args.npp), max(1, args.nps)
        )


def main(argv: list[str] | None = None) -> None:
    run(predict, parser(), argv)
