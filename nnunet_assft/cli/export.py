"""nnUNetv2_assft_export: write the model of a round for another machine, with a model card."""

from __future__ import annotations

import argparse

from nnunet_assft.cli.common import file_name, load_experiment, make_parser, number, round_of, run


def parser() -> argparse.ArgumentParser:
    p = make_parser("export", "Write the model of a finished round for stock nnU-Net on another machine.")
    p.add_argument(
        "-o",
        type=file_name,
        required=True,
        metavar="FILE",
        help="zip file to write, with a model card in it, for nnUNetv2_install_pretrained_model_from_zip",
    )
    p.add_argument("-r", type=number("r"), metavar="R", help="round (default: the last finished round)")
    p.add_argument(
        "--onnx",
        type=file_name,
        metavar="FILE",
        help="also write the network as ONNX and compare it with torch; needs the extra nnunet_assft[onnx]",
    )
    return p


def export(args: argparse.Namespace) -> None:
    """Write the zip file, and the ONNX file if it is wanted."""
    from nnunet_assft.handover.model_zip import require_zip, write_model_zip
    from nnunet_assft.runtime.files import sha256_file
    from nnunet_assft.runtime.writable import require_apart, require_file

    if args.onnx:
        require_apart(args.onnx, "--onnx", args.o, "-o")
    experiment = load_experiment(args)
    done = round_of(experiment, args.r)
    require_zip(args.o)
    if args.onnx:
        from nnunet_assft.handover.onnx_file import require_onnx

        require_file(args.onnx, "--onnx")
        require_onnx()
    card = write_model_zip(experiment, done, args.o)
    use = card["use"]
    print(f"Wrote {args.o} ({args.o.stat().st_size / 1e6:.1f} MB, sha256 {sha256_file(args.o)}).")
    print(f"It holds the model of {card['model']}. It needs {' and '.join(use['needs'])}.")
    print(f"Dice was measured on: {card['dice']['measured_on']}")
    print(f"On the other machine:\n  {use['install']}\n  {use['predict']}")
    if args.onnx:
        from nnunet_assft.handover.onnx_file import write_onnx

        checked = write_onnx(experiment, done, card, args.onnx)
        print(
            f"Wrote {args.onnx} ({args.onnx.stat().st_size / 1e6:.1f} MB). On a patch of noise, ONNX Runtime and torch "
            f"differ by at most {checked.difference:.1e} of the largest logit; {checked.same_class:.4%} of the voxels "
            "get the same structure."
        )


def main(argv: list[str] | None = None) -> None:
    run(export, parser(), argv)
