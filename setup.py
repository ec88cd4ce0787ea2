"""The folder `dataset_conversion/` of the repository is installed as `nnunet_assft.dataset_conversion`."""

from setuptools import find_packages, setup

NAME = "nnunet_assft.dataset_conversion"

setup(
    # in a checkout without symbolic links find_packages does not see dataset_conversion/ below nnunet_assft/
    packages=sorted(
        {*find_packages(include=["nnunet_assft", "nnunet_assft.*"]), NAME}
        | {f"{NAME}.{package}" for package in find_packages("dataset_conversion")}
    ),
    package_dir={NAME: "dataset_conversion"},
)
