"""`dataset_conversion/` lies at the top level of the repository and is installed as `nnunet_assft.dataset_conversion`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nnunet_assft", "nnunet_assft.*"]), "nnunet_assft.dataset_conversion"],
    package_dir={"nnunet_assft.dataset_conversion": "dataset_conversion"},
)
