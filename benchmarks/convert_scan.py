"""Benchmark of the scan of a download as large as AbdomenAtlas. Run benchmarks/convert_scan.py [--cases 9262].

It writes tiny cases, each a folder with ct.nii.gz and combined_labels.nii.gz (or one mask per structure with --masks),
then runs `nnUNetv2_assft_convert abdomen_atlas --dry_run` on them. Only headers are read, so the size of the volumes
does not matter, whereas a cold disk or a network file system does. It prints the seconds, the milliseconds per case,
and the peak memory of the largest process (the total is at most that times the number of processes).
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
from common import empty_folders

from nnunet_assft.dataset_conversion.datasets import DATASETS

COMMAND = "from nnunet_assft.cli.convert import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the time and the memory of a scan.")
    parser.add_argument("--cases", type=int, default=DATASETS["abdomen_atlas"].expected_labels, help="number of cases")
    parser.add_argument("--masks", action="store_true", help="one mask per structure instead of combined labels")
    parser.add_argument("-np", type=int, default=2, help="number of processes of the scan")
    parser.add_argument("--apply", action="store_true", help="also convert the cases")
    args = parser.parse_args()
    with empty_folders() as root:
        start = time.perf_counter()
        n_files = write_cases(root / "download", args.cases, masks=args.masks)
        print(
            f"{args.cases} cases, {n_files} files, written in {time.perf_counter() - start:.0f} s; {args.np} processes"
        )
        for words in ("--dry_run", "")[: 1 + args.apply]:
            measure([*words.split(), "-np", str(args.np)], root / "download", args.cases)


def write_cases(root: Path, n: int, *, masks: bool) -> int:
    """Write n case folders in the layout of AbdomenAtlas, and return the number of files."""
    image = np.full((8, 8, 8), -1000, np.int16)
    image[0] = 300
    label = np.zeros((8, 8, 8), np.uint8)
    label[4] = 1
    for name, array in (("ct", image), ("label", label)):
        root.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), root / f"{name}.nii.gz")
    names = (
        [f"segmentations/{name}.nii.gz" for name in DATASETS["abdomen_atlas"].labels]
        if masks
        else ["combined_labels.nii.gz"]
    )
    for i in range(1, n + 1):
        case = root / f"BDMAP_{i:08d}"
        (case / "segmentations").mkdir(parents=True)
        shutil.copyfile(root / "ct.nii.gz", case / "ct.nii.gz")
        for name in names:
            shutil.copyfile(root / "label.nii.gz", case / name)
    return n * (1 + len(names))


def measure(options: list[str], root: Path, n: int) -> None:
    """Run the command on the download, and print its time and memory."""
    start = time.perf_counter()
    command = [sys.executable, "-c", COMMAND, "abdomen_atlas", "-i", str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if "cases planned" not in done.stdout and "cases converted" not in done.stdout:
        sys.exit(done.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{' '.join(options):24} {seconds:6.1f} s  {1000 * seconds / n:6.2f} ms per case  "
        f"peak of one process {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
