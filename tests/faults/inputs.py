"""How the inputs of the catalogue are made. Each function returns, or is, one that makes the input in a `Place`."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch

from nnunet_assft.active.settings import Settings
from nnunet_assft.comparison.arms import Comparison, parse_arms
from nnunet_assft.comparison.collection import CHECKSUMS
from nnunet_assft.comparison.spec import Shared, write_comparison
from nnunet_assft.network import PRESETS, build_network
from nnunet_assft.network.encoder_file import short, write_encoder
from nnunet_assft.runtime.files import sha256_file, sha256_of
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.volumes.dicom.key_file import KeyFile
from nnunet_assft.volumes.dicom.segmentation import SEGMENTATION
from tests.annotation.annotators import REFUSED as REFUSED_LABELS
from tests.annotation.annotators import Scene, save_itksnap
from tests.cli.annotate.experiment import KIDNEYS, image_of, truth
from tests.conftest import blob_case, write_volume
from tests.network import nnunet_model
from tests.volumes.damaged import REFUSED
from tests.volumes.dicom.series_files import affine_of, headers, save, scan, write_series

DATASET = "Dataset901_Blobs"
DEVICE = {"images": ["/dev/zero"], "label": "labelsTr/case_00.nii.gz"}


@dataclass(frozen=True)
class Place:
    """The folders of one row. root: of all the others. given: for files that the command line names. here: where the
    command runs. canary: what must stay empty."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / DATASET

    @property
    def results(self) -> Path:
        return self.root / "nnUNet_results" / DATASET

    @property
    def experiment(self) -> Path:
        return self.results / "assft/assft"

    @property
    def given(self) -> Path:
        return self.root / "given"

    @property
    def here(self) -> Path:
        return self.root / "here"

    @property
    def canary(self) -> Path:
        return self.root / "canary"


Make = Callable[[Place], object]


def nothing(place: Place) -> None:
    """The command line alone is wrong."""


# How inputs are made --------------------------------------------------------------------------------------------------


class RunsCode:
    """Pickled, it makes the file `ran` in a folder when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.canary / "ran"),)


def anew(file: Path, content: bytes) -> None:
    """Replace a file that may be a link."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def all_of(*makes: Make) -> Make:
    """One input after the other."""

    def make(place: Place) -> None:
        for each in makes:
            each(place)

    return make


def lost(*files: str) -> Make:
    """files: relative to the root."""

    def make(place: Place) -> None:
        for name in files:
            (place.root / name).unlink()

    return make


def holds(file: str, content: bytes, *others: str) -> Make:
    """file, others: relative to the root."""

    def make(place: Place) -> None:
        for name in (file, *others):
            anew(place.root / name, content)

    return make


def new_image(content: bytes) -> Make:
    """case_77, with a label, joins imagesTr."""

    def make(place: Place) -> None:
        anew(place.raw / "imagesTr/case_77_0000.nii.gz", content)
        shutil.copy(place.raw / "labelsTr/case_02.nii.gz", place.raw / "labelsTr/case_77.nii.gz")

    return make


def label_is(array: np.ndarray, case: str = "case_01") -> Make:
    """array: (z, y, x)."""
    return lambda place: write_volume(place.raw / f"labelsTr/{case}.nii.gz", array)


def dataset_json(**changes: Any) -> Make:
    """Change keys of dataset.json."""

    def make(place: Place) -> None:
        file = place.raw / "dataset.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return make


def dataset_json_is(content: bytes) -> Make:
    return lambda place: anew(place.raw / "dataset.json", content)


def not_annotated_is(content: bytes) -> Make:
    return lambda place: anew(place.raw / "not_annotated.json", content)


def listed_case(case: str) -> Make:
    """dataset.json lists the files of the cases, one of which has this id; {canary} stands for that folder."""

    def make(place: Place) -> None:
        names = [case.replace("{canary}", str(place.canary)), *(f"case_{i:02d}" for i in range(1, 8))]
        entries = {
            name: {"images": [f"imagesTr/case_{i:02d}_0000.nii.gz"], "label": f"labelsTr/case_{i:02d}.nii.gz"}
            for i, name in enumerate(names)
        }
        dataset_json(dataset=entries)(place)

    return make


def listed_entry(entry: Any) -> Make:
    return dataset_json(dataset={"case_00": entry})


def image(kind: str, file: str = "imagesTr/case_02_0000.nii.gz") -> Make:
    """A kind of `tests.volumes.damaged` in place of an image. file: in the raw dataset."""
    return lambda place: REFUSED[kind][0](place.raw / file)


def image_to_predict(kind: str) -> Make:
    def make(place: Place) -> None:
        place.given.mkdir()
        REFUSED[kind][0](place.given / "scan_0000.nii.gz")

    return make


def evil_pickle(place: Place) -> bytes:
    return pickle.dumps(RunsCode(place.canary))


def evil_checkpoint(place: Place) -> bytes:
    """A torch file whose pickle runs code."""
    stream = io.BytesIO()
    torch.save({"network_weights": RunsCode(place.canary)}, stream)
    return stream.getvalue()


def unfinished(place: Place, r: int) -> None:
    """Let round r and the later ones be not finished."""
    for later in range(r, 3):
        (place.experiment / f"round_{later:02d}.json").unlink()
        for step in (place.experiment / "steps").glob(f"round_{later:02d}_*"):
            step.unlink()


def evil_model(place: Place) -> None:
    """The checkpoint of round 0 runs code."""
    unfinished(place, 1)
    model = read_sealed(place.experiment / "round_00.json")["model"]
    shutil.rmtree(place.experiment / "records")  # so that its network is needed
    anew(place.results / model["checkpoint"], evil_checkpoint(place))


def model_elsewhere(place: Place) -> None:
    """The sealed round file names a checkpoint in another folder."""
    unfinished(place, 1)
    file = place.experiment / "round_00.json"
    content = read_sealed(file)
    anew(place.given / "evil.pth", evil_checkpoint(place))
    write_sealed(file, {**content, "model": {**content["model"], "checkpoint": "../../given/evil.pth"}})


def evil_initial_network(place: Place) -> None:
    anew(place.experiment / "initial_network.pth", evil_checkpoint(place))


def empty_step(place: Place) -> None:
    """Round 1 has to go on after its first stage, whose record is empty."""
    lost(*(f"nnUNet_results/{DATASET}/assft/assft/round_{r:02d}.json" for r in (1, 2)))(place)
    anew(place.experiment / "steps/round_01_supervised.json", b"")


def evil_properties(place: Place) -> None:
    for file in place.preprocessed.glob("assft_pool_*/*.pkl"):
        anew(file, evil_pickle(place))


def softmax(place: Place) -> None:
    """A folder with a saved softmax and its properties."""
    place.given.mkdir()
    np.savez_compressed(place.given / "a.npz", probabilities=np.full((3, 4, 4, 5), 1 / 3, np.float32))
    properties = {"bbox_used_for_cropping": [[0, 4], [0, 4], [0, 5]], "shape_before_cropping": (4, 4, 5)}
    (place.given / "a.pkl").write_bytes(pickle.dumps(properties))
    (place.given / "plans.json").write_text('{"transpose_forward": [0, 1, 2]}')


def softmax_with(properties: dict[str, Any] | bytes) -> Make:
    """A folder with a saved softmax, and other properties beside it, or what stands in place of them."""

    def make(place: Place) -> None:
        softmax(place)
        file = place.given / "a.pkl"
        good = pickle.loads(file.read_bytes())
        file.write_bytes(properties if isinstance(properties, bytes) else pickle.dumps({**good, **properties}))

    return make


def softmax_that_promises_96_gb(place: Place) -> None:
    """The header of the array says so; nothing follows it."""
    place.given.mkdir()
    with zipfile.ZipFile(place.given / "a.npz", "w") as archive, archive.open("probabilities.npy", "w") as stream:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (3, 2000, 2000, 2000)}
        np.lib.format.write_array_header_1_0(stream, shape)


def lost_softmax(place: Place) -> None:
    place.given.mkdir()
    (place.given / "a.npz").symlink_to("gone.npz")


def softmax_of_version_1(place: Place) -> None:
    place.given.mkdir()
    np.savez_compressed(place.given / "a.npz", softmax=np.full((3, 4, 4, 5), 1 / 3, np.float16))


def evil_softmax(place: Place) -> None:
    softmax(place)
    (place.given / "a.pkl").write_bytes(evil_pickle(place))


def sealed_change(file: str, **changes: Any) -> Make:
    """Change a sealed file and seal it again. file: relative to the experiment. Of an object, keys are changed."""

    def make(place: Place) -> None:
        target = place.experiment / file
        content = read_sealed(target)
        both = {key: value for key, value in changes.items() if isinstance(value, dict)}
        write_sealed(target, {**content, **changes, **{key: {**content[key], **value} for key, value in both.items()}})

    return make


def copied(source: str, target: str) -> Make:
    """A file has taken the place of another. Both: relative to the experiment."""
    return lambda place: anew(place.experiment / target, (place.experiment / source).read_bytes())


def folder_at(file: str) -> Make:
    """A folder in place of a file, relative to the root."""
    return all_of(lost(file), lambda place: (place.root / file).mkdir())


def of_3_gb(file: str) -> Make:
    """A file, relative to the root, gets this size, without taking room on the disk."""
    return lambda place: os.truncate(place.root / file, 3_000_000_000)


def provenance_is(cases: dict[str, object]) -> Make:
    """The record of the pseudo-labels of round 2 has other cases, and is sealed again."""

    def make(place: Place) -> None:
        file = place.raw / "assft/assft/round_02/provenance.json"
        write_sealed(file, {**read_sealed(file), "cases": cases})

    return make


def unsealed_change(file: str, **changes: Any) -> Make:
    """Change a sealed file and leave out the checksum, as version 0.1.0 did. file: relative to the experiment."""

    def make(place: Place) -> None:
        target = place.experiment / file
        anew(target, json.dumps({**read_sealed(target), **changes}).encode())

    return make


def later(change: Make) -> Make:
    """Change something after round 0."""

    def make(place: Place) -> None:
        unfinished(place, 1)
        change(place)

    return make


def pipe_at(file: str) -> Make:
    """A pipe in place of a file of the raw dataset, or of a folder with a softmax if the name begins with `given`."""

    def make(place: Place) -> None:
        target = (place.root if file.startswith("given") else place.raw) / file
        if target.suffix in (".npz", ".pkl"):
            softmax(place)
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        os.mkfifo(target)

    return make


def device_at(file: str) -> Make:
    """A link to a device that never ends in place of a file of the raw dataset."""

    def make(place: Place) -> None:
        (place.raw / file).unlink()
        (place.raw / file).symlink_to("/dev/zero")

    return make


def comparison_is(content: bytes) -> Make:
    return lambda place: anew(place.results / "assft_compare/compare/comparison.json", content)


def comparison(place: Place) -> None:
    """A comparison of which no run has begun."""
    pool, test = (tuple(f"case_{i:02d}" for i in range(*edges)) for edges in ((8,), (8, 11)))
    settings = Settings(preset="tiny").resolved(DATASET)
    known = Comparison(DATASET, "compare", parse_arms(["random"]), (0,), settings)
    write_comparison(known, Shared(1, pool, test, "imagesTs", {}))


def half_a_table(place: Place) -> None:
    """The runs of a comparison, of which results.csv was cut short."""
    comparison(place)
    folder = place.results / "assft_compare/compare"
    for name in ("results.csv", "runs.csv"):
        anew(folder / name, b"arm,seed,fold")
    write_sealed(folder / CHECKSUMS, {"results.csv": [sha256_of("the whole table")]})


def another_pretraining(place: Place) -> None:
    place.given.mkdir()
    write_sealed(place.given / "pretraining.json", {"settings": {"seed": 1}})


def started_from_a_model(place: Place) -> None:
    """The network of the experiment is that of a model."""
    settings = read_sealed(place.experiment / "experiment.json")["settings"]
    sealed_change("experiment.json", settings={**settings, "preset": "start", "start": "model"})(place)


def experiment_is(content: bytes, *, file: str = "experiment.json", r: int | None = None) -> Make:
    """Damage a file of the experiment. r: the first round that is not finished then."""

    def make(place: Place) -> None:
        if r is not None:
            unfinished(place, r)
        anew(place.experiment / file, content)

    return make


def links(place: Place) -> None:
    """A link to itself, and one to nothing."""
    place.given.mkdir()
    (place.given / "loop").symlink_to("loop")
    (place.given / "nowhere").symlink_to("gone")


def a_file(place: Place) -> None:
    place.given.write_bytes(b"")


def a_folder(place: Place) -> None:
    (place.given / "out").mkdir(parents=True)


def returned(write: Callable[[Path, sitk.Image, np.ndarray], object]) -> Make:
    """A returned label of case_03. write: called with the folder, the image, and a good label (z, y, x)."""

    def make(place: Place) -> None:
        place.given.mkdir()
        write(place.given, image_of(place.root, "case_03"), truth("case_03"))

    return make


DICM = b"\0" * 128 + b"DICM"  # how a DICOM file starts


def spoiled(kind: str) -> Make:
    """A label of case_03 as `tests.annotation.annotators` spoils it."""
    return returned(lambda folder, *scene: REFUSED_LABELS[kind][0](Scene(folder, "case_03", *scene, KIDNEYS, scene[1])))


def times(text: str) -> Make:
    """A good label of case_03, and a table of times, given/times.csv."""
    good = returned(lambda folder, image, label: save_itksnap(folder / "case_03.nii.gz", label, image))
    return all_of(good, lambda place: (place.given / "times.csv").write_text(text))


def series(*modalities: str, patients: int = 1, without: int | None = None) -> Make:
    """One DICOM series for each modality, of several patients or of one. without: number of a slice that is lost."""

    def make(place: Place) -> None:
        for n, modality in enumerate(modalities):
            patient = f"patient_{n % patients}"
            files = write_series(place.given, scan(n), affine_of(), n, modality=modality, patient=patient)
            if without is not None:
                files[without].unlink()

    return make


def segmentation_of_no_case(place: Place) -> None:
    """A returned DICOM SEG of a series that is not in the key file, root/key.json."""
    (data,) = headers(scan(shape=(4, 4, 1)), affine_of())
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SEGMENTATION
    data.Modality = "SEG"
    save(place.given, [data])
    KeyFile(place.root / "key.json").save()


def returned_dicom(content: bytes) -> Make:
    """A returned file that is called a DICOM file, and a key file, root/key.json."""

    def make(place: Place) -> None:
        anew(place.given / "a.dcm", content)
        KeyFile(place.root / "key.json").save()

    return make


def shifted(folder: Path, image: sitk.Image, label: np.ndarray) -> None:
    image.SetOrigin([mm + 40 for mm in image.GetOrigin()])
    save_itksnap(folder / "case_03.nii.gz", label, image)


def link_to_passwd(place: Place) -> None:
    place.given.mkdir()
    (place.given / "case_03.nii.gz").symlink_to("/etc/passwd")


def promises_8_gb(folder: Path, *_: object) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((2000, 2000, 2000))
    (folder / "case_03.nii").write_bytes(header.binaryblock[:344] + b"n+1\0" + b"\0" * 10_004)


def detached(data_file: str, suffix: str = "nrrd") -> Make:
    """The header of a returned label says that its voxels are in another file."""
    text = {
        "nrrd": "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 24 26 18\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (-3,5,7.5)\nencoding: raw\n"
        f"data file: {data_file}\n\n",
        "mha": "ObjectType = Image\nNDims = 3\nDimSize = 24 26 18\nElementType = MET_UCHAR\n"
        f"ElementDataFile = {data_file}\n",
    }[suffix]
    return returned(lambda folder, *_: (folder / f"case_03.{suffix}").write_text(text))


def pipe(place: Place) -> None:
    detached("../pipe")(place)
    os.mkfifo(place.root / "pipe")


def text_header(name: str, change: Callable[[bytes], bytes]) -> Make:
    """A returned label with a header in text that was changed, which ITK itself may not survive."""

    def write(folder: Path, image: sitk.Image, label: np.ndarray) -> None:
        file = folder / f"case_03.{name}"
        volume = sitk.GetImageFromArray(label)
        volume.CopyInformation(image)
        sitk.WriteImage(volume, str(file))
        before = file.read_bytes()
        file.write_bytes(change(before))
        assert file.read_bytes() != before

    return returned(write)


def images(ending: str, change: Callable[[bytes], bytes]) -> Make:
    """A raw dataset of another format, and one image with a changed header."""

    def make(place: Place) -> None:
        dataset_json(file_ending=f".{ending}")(place)
        for file in [*place.raw.glob("*/*.nii.gz")]:
            sitk.WriteImage(sitk.ReadImage(str(file)), str(file).replace(".nii.gz", f".{ending}"))
            file.unlink()
        file = place.raw / f"imagesTr/case_02_0000.{ending}"
        before = file.read_bytes()
        file.write_bytes(change(before))
        assert file.read_bytes() != before

    return make


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


def gipl_of_2000(content: bytes) -> bytes:
    return (2000).to_bytes(2, "big") * 3 + content[6:]


def other_label_of_round_1(place: Place) -> None:
    """A pseudo-label of round 1 is gone, and a label that the round was trained on is another one."""
    next(place.raw.glob("assft/assft/round_01/pseudo_labels/*.nii.gz")).unlink()
    for case in read_sealed(place.experiment / "round_01.json")["labelled"]:
        write_volume(place.raw / f"labelsTr/{case}.nii.gz", blob_case(77)[1])


def label_that_is_4d(place: Place) -> None:
    file = place.raw / "labelsTr"
    for label in file.iterdir():
        volume = nibabel.load(label)
        array = np.asarray(volume.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.stack([array] * 2, -1), volume.affine), label)


def other_image(place: Place) -> None:
    """An image is replaced by another one with an older time."""
    unfinished(place, 1)
    file = place.raw / "imagesTr/case_03_0000.nii.gz"
    write_volume(file, blob_case(77)[0])
    os.utime(file, (1e9, 1e9))


def missing_test_image(place: Place) -> None:
    (place.raw / "imagesTs/case_09_0000.nii.gz").unlink()


def twin(place: Place) -> None:
    """A second case whose id differs in case only, which some disks cannot hold beside the first."""
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(place.raw / folder / f"case_03{ending}", place.raw / folder / f"Case_03{ending}")


def download(**files: bytes) -> Make:
    def make(place: Place) -> None:
        for name, content in files.items():
            anew(place.given / name.replace("_json", ".json"), content)

    return make


def two_channels(place: Place) -> None:
    for channel in ("0000", "0001"):
        write_volume(place.given / f"scan_{channel}.nii.gz", blob_case(22)[0])


def model(change: Callable[[dict[str, Any]], object] = lambda content: None, *, folds: int = 1) -> Make:
    """A model that nnU-Net has trained, in given/model. change: is applied to the content of its checkpoint."""

    def make(place: Place) -> None:
        file = nnunet_model.save(place.given / "model", change)
        for fold in range(1, folds):
            shutil.copytree(file.parent, file.parent.with_name(f"fold_{fold}"))

    return make


def planned_with(content: dict[str, Any]) -> dict[str, Any]:
    """The configuration in a checkpoint of nnU-Net."""
    configuration: dict[str, Any] = content["init_args"]["plans"]["configurations"]["3d_fullres"]
    return configuration


def evil_encoder(place: Place) -> None:
    anew(place.given / "encoder.pth", evil_checkpoint(place))


def encoder_of_another_network(place: Place) -> None:
    content = io.BytesIO()
    torch.save({"network_weights": {"encoder.stages.0.blocks.0.conv1.norm.weight": torch.ones(32)}}, content)
    anew(place.given / "encoder.pth", content.getvalue())


def no_encoder(place: Place) -> None:
    """A file of an encoder that is refused, beside an image that cannot be read: the file is looked at first."""
    image("noise")(place)
    anew(place.given / "encoder.pth", b"no encoder")


def own_encoder(preset: str, *seen: str) -> Make:
    """The file given/encoder.safetensors, as `nnUNetv2_assft_pretrain` writes it. seen: images of the raw dataset that
    it was trained on."""

    def make(place: Place) -> None:
        architecture = PRESETS[preset].architecture
        shown = {"channels": ["MRI"], "normalization": [], "spacing": [1.0] * 3, "patch_size": [32] * 3}
        header = {"method": "mae", "preset": preset, "architecture": architecture, "input": shown}
        training = {"n_images": 1, "steps": 1, "batch_size": 2, "seed": 0, "loss": 0.5}
        images = [short(sha256_of([sha256_file(place.raw / file)])) for file in seen]
        header |= {"training": training | {"images": images}, "dataset": "Dataset902_Other"}
        write_encoder(place.given / "encoder.safetensors", build_network(architecture, 1, 1).encoder, header)

    return make


def label_elsewhere(place: Place) -> None:
    """dataset.json says that a label which an annotator draws is outside of the dataset."""
    entries = {
        f"case_{i:02d}": {"images": [f"imagesTr/case_{i:02d}_0000.nii.gz"], "label": f"labelsTr/case_{i:02d}.nii.gz"}
        for i in range(8)
    }
    entries["case_03"]["label"] = str(place.canary / "case_03.nii.gz")
    dataset_json(dataset=entries)(place)
    returned(lambda folder, image, label: save_itksnap(folder / "case_03.nii.gz", label, image))(place)
