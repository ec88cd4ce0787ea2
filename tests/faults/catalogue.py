"""The catalogue of bad inputs: the command that meets each of them, and what it then says.

`test_catalogue.py` runs every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.conftest import LABELS
from tests.faults import inputs as i
from tests.faults.inputs import Make
from tests.volumes.damaged import REFUSED


@dataclass(frozen=True)
class Row:
    """A bad input, and what becomes of it.

    name: of the input. start: what is there before, a key of STARTS of the test. make: makes the input. command: the
    command line, without `nnUNetv2_assft_`; {root}, {raw}, {given} and {canary} in it are folders of `Place`. line: the
    essential part of the first line on stderr, which for wrong usage stands below that of the usage; of stdout if the
    exit status is 0. code: the exit status. more: number of lines that follow. environment: variables that are changed.
    """

    name: str
    start: str
    make: Make
    command: str
    line: str
    code: int = 1
    more: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


LONG = "x" * 300
NESTED = b"[" * 100_000
ROUND_0, ROUND_1 = "round -d 901 -r 0 -device cpu", "round -d 901 -r 1 -device cpu"
SCORE = "score -i {given} -r 1 -R 3 -o {root}/out/scores.csv"
NAME = "consists of letters from a to z or A to Z, digits, _ and -"


def planning(name: str, make: Make, line: str, *options: str, **more: object) -> Row:
    """A dataset that `plan` refuses."""
    return Row(name, "raw", make, " ".join(["plan -d 901", *options]), line, **more)  # type: ignore[arg-type]


def option(command: str, line: str, *, start: str = "raw", code: int = 2) -> Row:
    """A command line that is wrong, whatever the files are."""
    return Row(command if len(command) < 60 else f"{command[:40]}...", start, i.nothing, command, line, code)


VARIABLES = tuple(
    Row(f"{name} {what}", "raw", i.links, command, line, environment={name: value})
    for name, what, value, command, line in (
        (
            "nnUNet_preprocessed",
            "empty",
            "",
            "plan -d 901",
            "The environment variable nnUNet_preprocessed is empty. Set",
        ),
        ("nnUNet_results", "empty", "", "plan -d 901", "The environment variable nnUNet_results is empty. Set"),
        ("nnUNet_preprocessed", "a file", "/etc/hostname", "plan -d 901", "is a file; expected a folder"),
        ("nnUNet_results", "a file", "/etc/hostname", "plan -d 901", "is a file; expected a folder"),
        ("nnUNet_preprocessed", "a loop of links", "{given}/loop", "plan -d 901", "Too many levels of symbolic links"),
        ("nnUNet_results", "a loop of links", "{given}/loop", "plan -d 901", "Too many levels of symbolic links"),
        ("nnUNet_results", "not writable", "/sys/x", "plan -d 901", "cannot be written to ("),
        ("nnUNet_preprocessed", "a loop of links, later", "{given}/loop", "round -d 901 -r 0", "Too many levels of"),
        ("nnUNet_n_proc_DA", "no number", "many", "plan -d 901", "nnUNet_n_proc_DA is 'many'; expected a whole number"),
    )
)

COMMAND_LINES = (
    option("plan -d ٩٠١", "Dataset ٩٠١ was not found", code=1),
    option("report -d 901 -e ''", f"The experiment name '' is empty. An experiment name {NAME}", code=1),
    option("compare -d 901 -e ''", f"The experiment name '' is empty. An experiment name {NAME}", code=1),
    option("plan -d 901 -e=-x", "The experiment name '-x' starts with - (U+002D)", code=1),
    *(option(f"{c} -d 901 -e {LONG}", "has 300 bytes", code=1) for c in ("plan", "status", "report", "compare")),
    *(option(f"{c} -d 901 -e 'a\nb'", "contains U+000A", code=1) for c in ("status", "report")),
    option("plan -d 901 --rounds 99999999999999999999", "expected a whole number from 1 to 1000"),
    *(
        option(f"plan -d 901 --budget '{text}'", f"'{text}'; expected a number of cases (2) or a fraction of the pool")
        for text in ("", "0", "٥%", "many")
    ),
    option("plan -d 901 --epochs 10000000000", "expected a whole number from 1 to 1000000"),
    *(
        option(f"plan -d 901 --initial_lr={text}", f"--initial_lr: '{text}'; expected a number above 0 and at most 1")
        for text in ("0", "-1", "1e30", "nan", "inf")
    ),
    option("export -d 901 -o a.zip --onnx ./b/../a.zip", "and -o a.zip are the same file. Choose another name", code=1),
    option("export -d 901 -o a.zip --onnx a.zip/b", "and -o a.zip cannot lie in each other, as both are files", code=1),
    option("score -i a -r 1 -R 3 -o b.csv --embeddings b.csv", "and --embeddings b.csv are the same file", code=1),
    option("plan -d 901 --spacing 1 0 1", "--spacing: '0'; expected a number above 0 and at most 1000"),
    option("plan -d 901 --patch_size 32 0 32", "--patch_size: '0'; expected a whole number from 1 to 4096"),
    option(
        "plan -d 901 -e other --option prior_input=contract", "needs trained weights, and the network starts", code=1
    ),
    *(
        option(f"{command}={text}", f"'{text}'; expected a whole number from 0 to 4294967295")
        for command in ("plan -d 901 --seed", "compare -d 901 --seeds", "demo --seed")
        for text in ("-1", "1180591620717411303424")
    ),
    *(
        option(f"{command} ''", f"argument {command.split()[-1]}: ''; expected the name of a file or folder")
        for command in (
            "plan -d 901 --test_split",
            "plan -d 901 --encoder",
            "predict -d 901 -i a -o",
            "predict -d 901 -o b -i",
            "report -d 901 -o",
            "export -d 901 -o",
            "export -d 901 -o a.zip --onnx",
        )
    ),
    option("compare -d 901 --seeds 0 1 0 1", "argument --seeds: seeds 0, 1 given twice; give each seed once"),
    option("predict -d 901 -i a -o b -num_parts 2 -part_id 2", "argument -part_id: 2; expected 0 to 1"),
    *(
        option(f"convert check -i x --tolerance_mm {values}", f"--tolerance_mm: {values}; expected two")
        for values in ("nan nan", "5 1", "-1 nan", "-1 1", "0 inf", "voxel 1", "٣ 4")
    ),
    option("predict -d 901 -i a -o b -npp -5", "-npp"),
    *(option(f"predict -d 901 -i a -o b -step_size {text}", "-step_size") for text in ("0", "-1", "nan", "5")),
    option("annotate review -d 901 -o {root}/out/x -n 1", "planned with --annotator oracle", start="trained", code=1),
    option("annotate review -d 901 -o {root}/out/x", "Round 0 has no pseudo-labelled case", start="waiting", code=1),
    option("annotate import -d 901 x --minutes nan", "minutes 'nan'; expected a number", start="waiting", code=1),
    *(
        option(f"score -i a -o b -r {r} -R 3", f"argument -r: {r}; expected a round from 1 to the 3 of -R")
        for r in (0, 4)
    ),
)

TEST_SPLIT = tuple(
    planning(f"--test_split FILE: {name}", i.holds("given/ids", content), line, "--test_split {given}/ids")
    for name, content, line in (
        ("nested brackets", NESTED, "contains [ (U+005B)"),
        ("not UTF-8", b"\xff\xfe\x00", "is not a text in UTF-8. Save it as UTF-8, one case id per line"),
        ("empty", b"", "names no case; expected ids such as case_00, one per line"),
        ("other cases", b"case_77", "names 1 case outside of imagesTr (case_77)"),
    )
)

LABELLED = (
    planning("--labelled existing of an oracle", i.nothing, "every label is in labelsTr", "--labelled existing"),
    planning("--labelled of a device", i.nothing, "/dev/zero: neither a file nor the word", "--labelled /dev/zero"),
    planning("--labelled without a name", i.nothing, "''; expected the name of a file", "--labelled ''", code=2),
    planning("human, all labelled", i.nothing, "so there is nothing to query", "--annotator human"),
    *(
        planning(f"--labelled FILE: {name}", i.holds("given/ids", content), line, "--labelled {given}/ids")
        for name, content, line in (
            ("nested brackets", NESTED, "contains [ (U+005B)"),
            ("empty", b"", "names no case; expected ids such as case_00, one per line"),
            ("a test case", b"case_08", "names 1 case outside of the pool (case_08)"),
        )
    ),
    planning(
        "a consent to no label", i.nothing, "--accept names case_77; expected cases to start with", "--accept case_77"
    ),
)

EXTEND = (
    option("extend -d 901 --budget 0", "'0'; expected a number of cases (2) or a fraction of the pool"),
    option("extend -d 901 --withdraw", "argument --withdraw: expected at least one argument"),
    *(
        Row(f"extend {words}", "trained", i.nothing, f"extend -d 901 {words}", line)
        for words, line in (
            ("--rounds 1", "--rounds 1: round 2 has begun or is finished; expected 2 or more"),
            ("--withdraw case_7", "--withdraw names case_7; neither the experiment nor the dataset has such a case"),
            ("--withdraw ../case_01", "--withdraw names ../case_01; neither"),
            ("--test case_01", "--test names case_01; expected cases that are new"),
            ("--test case_7", "--test names case_7; there is no such image"),
        )
    ),
    *(
        Row(f"extend: a new image {name}", "planned", i.new_image(content), "extend -d 901", line)
        for name, content, line in (
            ("empty", b"", "1 of 12 images cannot be used (case_77: "),
            ("a text", b"no image", "1 of 12 images cannot be used (case_77: "),
        )
    ),
    *(
        Row(f"history.json {name}", "planned", i.experiment_is(content, file="history.json"), command, line)
        for name, content, line in (
            ("empty", b"", "history.json is damaged (it is empty)"),
            ("an empty object", b"{}", "history.json is damaged ('schema_version' is missing)"),
            ("of strange changes", b'{"schema_version": 1, "changes": [3]}', "history.json is damaged ("),
            ("of a later version", b'{"schema_version": 2, "changes": []}', "has schema version 2; expected 1"),
        )
        for command in ("status -d 901", "extend -d 901")
    ),
)

DATASET_JSON = (
    *(
        planning(f"dataset.json: {name}", i.dataset_json_is(content), line)
        for name, content, line in (
            ("null", b"null", "the content is None; expected {"),
            ("a number", b"3", "the content is 3; expected {"),
            ("nested brackets", NESTED, "its brackets are nested too deeply"),
            ("empty", b"", "it is empty. Expected a JSON object"),
            ("not UTF-8", b'{"name": "\xff"}', "it is not a text in UTF-8 (byte 10); save it as UTF-8"),
        )
    ),
    *(
        planning(f"dataset.json: {name}", i.dataset_json(**changes), line)
        for name, changes, line in (
            (
                "unknown reader",
                {"overwrite_image_reader_writer": "X"},
                "overwrite_image_reader_writer is 'X'; expected",
            ),
            ("labels a list", {"labels": ["a"]}, "labels is ['a']; expected for example"),
            ("labels null", {"labels": None}, "labels is None; expected for example"),
            ("channel_names a list", {"channel_names": ["CT"]}, "channel_names is ['CT']; expected for example"),
            ("channel_names null", {"channel_names": None}, "channel_names is None; expected for example"),
            ("channel name a number", {"channel_names": {"0": 3}}, "the name of channel 0 is 3; expected a text"),
            ("file_ending a number", {"file_ending": 3}, "file_ending is 3; expected a text that starts with a dot"),
            ("dataset a list", {"dataset": ["a"]}, "dataset is ['a']; expected for example"),
            ("dataset null", {"dataset": None}, "dataset is None; expected for example"),
            ("quote in a label name", {"labels": {**LABELS, 'a"b': 3}}, "the label name 'a\"b' contains \" (U+0022)"),
            ("newline in a label name", {"labels": {**LABELS, "a\nb": 3}}, "the label name 'a\\nb' contains U+000A"),
        )
    ),
    *(
        planning(f"dataset.json: entry {name}", i.listed_entry(entry), "the entry of case case_00 in dataset is")
        for name, entry in (
            ("a string", "a"),
            ("without images", {"label": "b.nii.gz"}),
            ("without label", {"images": ["a.nii.gz"]}),
            ("images a number", {"images": 3, "label": "b.nii.gz"}),
        )
    ),
    planning("dataset.json: a formula as a label name", i.dataset_json(labels={**LABELS, "=1+1": 3}), "starts with ="),
    planning("dataset.json: an image that is a device", i.listed_entry(i.DEVICE), "dev/zero is a pipe or a device"),
    Row("dataset.json: nested brackets: check", "raw", i.dataset_json_is(NESTED), "convert check -d 901", "nested too"),
)

CASE_IDS = (
    *(
        planning(f"case id {case[:20]!r}", i.listed_case(case), f"{line}. A case id consists of letters and digits")
        for case, line in (
            ("{canary}/evil2", "contains / (U+002F)"),
            ("../../../../canary/evil", "contains / (U+002F)"),
            ("..", "starts with . (U+002E)"),
            ("a b é", "contains a blank (U+0020)"),
            ("-rf", "starts with - (U+002D)"),
            ("line\nbreak", "contains U+000A"),
            ("con?*", "contains ? (U+003F)"),
            ("a/b", "contains / (U+002F)"),
            ("", "is empty"),
            ("=1+1", "contains = (U+003D)"),
            ("nul\0x", "contains U+0000"),
            (LONG, "has 300 bytes"),
        )
    ),
    Row("case id absolute: run", "raw", i.listed_case("{canary}/evil"), "run -d 901", "contains / (U+002F)"),
    Row("case id '../..': run", "raw", i.listed_case("../.."), "run -d 901", "contains / (U+002F)"),
    planning("case ids that differ in case", i.twin, "differs from 'Case_03' in upper and lower case only"),
)

NOT_ANNOTATED = tuple(
    Row(f"not_annotated.json: {name}: {command}", "raw", i.not_annotated_is(content), f"{command} -d 901", line)
    for command in ("plan", "convert check")
    for name, content, line in (
        ("another case", b'{"case_77": ["ball"]}', "'case_77': the dataset has no such case"),
        ("another structure", b'{"case_01": ["Ball"]}', "'case_01': 'Ball' is not a structure; expected ball, box"),
        ("no list", b"[]", "holds []; expected for example"),
        ("cut short", b'{"case_01"', "not_annotated.json cannot be read"),
    )
)

IMAGES = (
    *(
        planning(f"image: {kind}", i.image(kind), REFUSED[kind][1])
        for kind in (
            "complex",
            *(f"spacing {mm}" for mm in (0, "nan", "inf", -1, "1e+30", "1e-06", 500)),
            "RGB",
            "time",
            "a gzip bomb",
            "a header of 2000^3 voxels",
        )
    ),
    Row("a test image is missing", "planned", i.missing_test_image, ROUND_0, "lacks the images of 1 case that"),
    Row("label: 4D", "planned", i.label_that_is_4d, ROUND_0, "voxels, expected three axes"),
)

PREDICT = "predict -d 901 -device cpu -npp 0 -nps 0 -o {root}/out -i {given}"
PREDICTION = (
    *(
        Row(f"predict: {kind}", "trained", i.image_to_predict(kind), PREDICT, REFUSED[kind][1], more=1)
        for kind in ("2D", "half of the gzip", "NaN", "text", "a header of 2000^3 voxels")
    ),
    Row("predict: two channels", "trained", i.two_channels, PREDICT, "scan is not predicted: it has 2 image", more=1),
    Row("predict: no folder", "trained", i.nothing, PREDICT, "given does not exist. Give a folder of images"),
    Row("predict: a file", "trained", i.a_file, PREDICT, "given is a file. Give a folder of images"),
)

NO_CODE = "it is damaged, or it holds more than tensors and numbers, which could run code"
CODE_IN_FILES = (
    Row("code in checkpoint_final.pth: round", "trained", i.evil_model, ROUND_1, NO_CODE),
    Row("code in checkpoint_final.pth: predict", "trained", i.evil_model, f"{PREDICT[:-8]}{{raw}}/imagesTs", NO_CODE),
    Row("code in initial_network.pth", "planned", i.evil_initial_network, ROUND_0, "round 0", 0),
    Row("code in CASE.pkl of the pool", "planned", i.evil_properties, ROUND_0, "round 0", 0),
    Row(
        "code in CASE.pkl of a softmax",
        "nothing",
        i.evil_softmax,
        SCORE,
        "it names posix.mkdir, which could run code",
        more=1,
    ),
    Row(
        "code in --encoder",
        "raw",
        i.evil_encoder,
        "plan -d 901 --encoder {given}/encoder.pth",
        "encoder.pth holds objects other than tensors, which could run code when loaded; expected tensors only.",
    ),
    Row(
        "--encoder of another network",
        "raw",
        i.encoder_of_another_network,
        "plan -d 901 --encoder {given}/encoder.pth",
        "which this network cannot take. Use one of the presets resenc_l, resenc_m, resenc_tiny.",
    ),
    Row(
        "code in --start",
        "raw",
        i.evil_encoder,
        "plan -d 901 --start {given}/encoder.pth",
        "encoder.pth holds objects other than tensors, which could run code when loaded; expected tensors only.",
    ),
    Row(
        "--start of an encoder",
        "raw",
        i.encoder_of_another_network,
        "plan -d 901 --start {given}/encoder.pth",
        "encoder.pth has no init_args; expected a checkpoint that nnU-Net v2 has written. Give an encoder alone with",
    ),
    Row("a checkpoint outside of the results", "trained", i.model_elsewhere, ROUND_1, "leads out of"),
)

CONTENTS = (
    ("empty", b"", "it is empty"),
    ("a list", b"[]", "it holds a list; expected a JSON object"),
    ("not JSON", b"{x", "Expecting property name enclosed in double quotes"),
)
DAMAGED = (
    *(
        Row(f"experiment.json {name}: {command[:6]}", "planned", i.experiment_is(content), command, f"damaged ({line}")
        for name, content, line in CONTENTS
        for command in ("status -d 901", ROUND_0)
    ),
    *(
        Row(
            f"round_00.json {name}: status",
            "trained",
            i.experiment_is(content, file="round_00.json"),
            "status -d 901",
            line,
        )
        for name, content, line in (*CONTENTS, ("an empty object", b"{}", "round_00.json has no 'round'"))
    ),
    *(
        Row(
            f"round_00.json {name}: round",
            "trained",
            i.experiment_is(content, file="round_00.json", r=1),
            ROUND_1,
            "round 1",
            0,
        )
        for name, content, _ in (*CONTENTS, ("an empty object", b"{}", ""))
    ),
    Row(
        "experiment.json with another key",
        "planned",
        i.sealed_change("experiment.json", new_key=1),
        "status -d 901",
        "experiment.json is damaged (it has the unknown key 'new_key'; expected",
    ),
    *(
        Row(f"comparison.json {name}", "raw", i.comparison_is(content), "compare -d 901 --preset tiny", line)
        for name, content, line in (*CONTENTS, ("an empty object", b"{}", "is damaged ('settings' is missing)"))
    ),
    Row(
        "readings null",
        "waiting",
        i.experiment_is(b'{"readings": null}', file="annotations/case_03.json"),
        "annotate status -d 901",
        "case_03.json is damaged",
    ),
    Row(
        "experiment.json of another form",
        "planned",
        i.experiment_is(b'{"schema_version": 2}'),
        "status -d 901",
        "experiment.json is damaged ('encoder' is missing)",
    ),
    Row(
        "round_00.json of another form",
        "trained",
        i.unsealed_change("round_00.json", queried=3),
        "status -d 901",
        "round_00.json is damaged ('int' object is not iterable)",
    ),
    *(
        Row(f"{name} after planning", "trained", i.later(i.dataset_json(labels=labels)), ROUND_1, "has other labels or")
        for name, labels in (
            ("labels renumbered", {"background": 0, "ball": 2, "box": 1}),
            ("a label added", {**LABELS, "cup": 3}),
        )
    ),
    Row("an image was replaced", "trained", i.other_image, ROUND_1, "The image case_03 changed after experiment"),
)

IMPORT = "annotate import -d 901 {given}"
ELSEWHERE = "its header says that its voxels are in another file, which is not opened"
RETURNED = (
    Row("returned: shifted", "waiting", i.returned(i.shifted), IMPORT, "it is shifted by"),
    Row("returned: a header of 2000^3 voxels", "waiting", i.returned(i.promises_8_gb), IMPORT, "its header"),
    Row("returned: the voxels are in a pipe", "waiting", i.pipe, IMPORT, ELSEWHERE),
    *(
        Row(f"returned: the voxels are in {file} ({kind})", "waiting", i.detached(file, kind), IMPORT, ELSEWHERE)
        for file in ("/etc/passwd", "/dev/zero")
        for kind in ("nrrd", "mha")
    ),
    Row("a label of an annotator outside of the dataset", "waiting", i.label_elsewhere, IMPORT, "which is not in"),
)

CRASHES = {
    "thousands of characters in kinds": ("nrrd", i.replaced(b"kinds: domain", b"kinds: " + b"domain" * 2000)),
    "no axes": ("nrrd", i.replaced(b"dimension: 3", b"dimension: -1")),
    "NDims = -1": ("mha", i.replaced(b"NDims = 3", b"NDims = -1")),
    "NDims = 1000": ("mha", i.replaced(b"NDims = 3", b"NDims = 1000")),
}
TEXT_HEADERS = (
    *(
        Row(f"returned .{ending}: {name}", "waiting", i.text_header(ending, change), IMPORT, "case_03")
        for name, (ending, change) in CRASHES.items()
    ),
    *(
        planning(f"image .{ending}: {name}", i.images(ending, change), "case_02")
        for name, (ending, change) in CRASHES.items()
    ),
    planning(
        "image .gipl: a header of 2000^3 voxels",
        i.images("gipl", i.gipl_of_2000),
        "case_02: cannot be read (its header promises 32,000,000,000 bytes of voxels (2000 x 2000 x 2000), the file",
    ),
)

FOLDER_OPTIONS = (
    ("predict -d 901 -i {raw}/imagesTs -device cpu", "trained"),
    ("annotate export -d 901", "waiting"),
    ("demo", "nothing"),
    ("pretrain -d 901 -device cpu", "planned"),
)
FILE_OPTIONS = (
    ("report -d 901", "trained"),
    ("score -i {given} -r 1 -R 3", "nothing"),
    ("export -d 901", "trained"),
)
IT = "a pipe or a device"
ENDLESS = (  # what is no file, and would be waited for or read for ever
    planning("--test_split of a device", i.nothing, "neither a file nor a fraction", "--test_split /dev/zero"),
    planning("--encoder of a device", i.nothing, "/dev/zero is not a file", "--encoder /dev/zero"),
    planning("--start of a device", i.nothing, "/dev/zero is not a file", "--start /dev/zero"),
    planning("--start of a folder", i.nothing, "has no fold_*/checkpoint_final.pth but", "--start {raw}"),
    planning("--encoder of a hub", i.nothing, "If MIC/ResEncL is the id of a model on a hub", "--encoder MIC/ResEncL"),
    planning("--encoder_format alone", i.nothing, "there is none. Give --encoder as well.", "--encoder_format ct_fm"),
    planning("--encoder_format unknown", i.nothing, "'vit' does not exist", "--encoder a --encoder_format vit"),
    planning("--start and --encoder", i.nothing, "both say where the encoder comes from", "--start a --encoder b"),
    Row(
        "--times of a device",
        "waiting",
        i.nothing,
        f"{IMPORT} --times /dev/zero",
        "cannot be read: it is a pipe or a device. Expected",
    ),
    Row(
        "--split_file of a device",
        "nothing",
        i.a_folder,
        "convert amos_ct -i {given} --split_file /dev/zero",
        "--split_file /dev/zero cannot be read: it is a pipe or a device. Expected JSON with the lists",
    ),
    Row("--embeddings of a device", "nothing", i.softmax, f"{SCORE} --embeddings /dev/zero", f"{IT}; expected an npz"),
    Row("a pipe in place of a softmax", "nothing", i.pipe_at("given/a.npz"), SCORE, "given holds no CASE.npz or CASE"),
    Row("a pipe in place of CASE.pkl", "nothing", i.pipe_at("given/a.pkl"), SCORE, "Not cropped: 1 of 1 cases", 0),
    Row(
        "a pipe to predict",
        "trained",
        i.pipe_at("given/scan_0000.nii.gz"),
        PREDICT,
        f"scan_0000.nii.gz is {IT}",
        more=1,
    ),
    planning("a pipe in place of dataset.json", i.pipe_at("dataset.json"), "Dataset901_Blobs has no dataset.json"),
    *(
        planning(f"a {what} in place of an image", make("imagesTr/case_02_0000.nii.gz"), f"case_02_0000.nii.gz is {IT}")
        for what, make in (("pipe", i.pipe_at), ("link to a device", i.device_at))
    ),
    *(
        Row(
            f"a {what} in place of a label",
            "planned",
            make("labelsTr/case_02.nii.gz"),
            ROUND_0,
            f"it is {IT}. Expected",
        )
        for what, make in (("pipe", i.pipe_at), ("link to a device", i.device_at))
    ),
)

OUTPUTS = (
    *(
        Row(f"{command.split()[0]} -o {path}", start, i.links, f"{command} -o {path}", line)
        for command, start in FOLDER_OPTIONS
        for path, line in (
            ("/etc/hostname", "-o /etc/hostname is a file; expected a folder. Correct that, or choose another"),
            ("/proc/x", "-o /proc/x cannot be written to (no file or folder can be made in /proc). Correct that"),
            ("/etc/hostname/x", "-o /etc/hostname/x cannot be used (Not a directory). Correct that, or choose another"),
            ("{given}/loop", "loop cannot be used (Too many levels of symbolic links). Correct that, or choose"),
            ("{given}/nowhere", "nowhere is a symbolic link to gone, which does not exist. Correct that, or choose"),
        )
    ),
    *(
        Row(f"{command.split()[0]} -o {path}", start, i.a_folder, f"{command} -o {path}", line)
        for command, start in FILE_OPTIONS
        for path, line in (
            ("{given}/out", "out is a folder; expected the name of a file. Choose another name"),
            ("/etc/hostname/x", "-o /etc/hostname/x cannot be used (Not a directory). Choose another name"),
            ("/proc/x", "-o /proc/x"),
            ("/proc/x/y", "-o /proc/x/y: the folder /proc/x cannot be written to (no file or folder can be made in"),
        )
    ),
    Row(
        "export -o of another file",
        "trained",
        i.holds("given/scan.nii.gz", b"a scan"),
        "export -d 901 -o {given}/scan.nii.gz",
        "scan.nii.gz exists and is no zip file. Choose another name.",
    ),
    Row(
        "export --onnx of a folder",
        "trained",
        i.a_folder,
        "export -d 901 -o {root}/out/model.zip --onnx {given}/out",
        "out is a folder; expected the name of a file. Choose another name.",
    ),
    Row(
        "export of a round that is not finished",
        "trained",
        i.nothing,
        "export -d 901 -r 7 -o {root}/out/model.zip",
        "Round 7 of experiment 'assft' is not finished; 3 of 3 rounds are.",
    ),
    Row(
        "plan --encoder of no encoder", "raw", i.no_encoder, "plan -d 901 --encoder {given}/encoder.pth", "encoder.pth"
    ),
)

KEYS = f"{IMPORT} --key_file"
PRETRAIN = "pretrain -d 901 -device cpu"
PRETRAINING = (
    option(f"{PRETRAIN} --method vae", "argument --method: invalid choice: 'vae' (choose from"),
    *(
        option(f"{PRETRAIN} --{name} {value}", f"argument --{name}: '{value}'; expected {expected}")
        for name, value, expected in (
            ("batch_size", "0", "a whole number from 1 to 10000"),
            ("epochs", "1.5", "a whole number from 1 to 1000000"),
            ("initial_lr", "0", "a number above 0 and at most 1"),
        )
    ),
    option(f"{PRETRAIN} --images ''", "argument --images: ''; expected the name of a file or folder"),
    option(PRETRAIN, "Dataset901_Blobs has no experiment 'assft'", code=1),
    *(
        Row(f"pretrain --images: {name}", "planned", make, f"{PRETRAIN} --images {folder}", line)
        for name, make, folder, line in (
            ("no folder", i.nothing, "{given}", "given does not exist. Name a folder of images such as CASE_0000.nii"),
            ("a file", i.a_file, "{given}", "given is a file; expected a folder. Name a folder of images"),
            ("no image", i.a_folder, "{given}", "given holds no image named CASE_0000.nii.gz; it holds 'out'"),
            ("a name", i.holds("given/a.nii.gz", b""), "{given}", "'a.nii.gz' has no channel number; expected a name"),
            (
                "no NIfTI",
                i.holds("given/a_0000.nii.gz", b""),
                "{given}",
                "1 of 1 images cannot be used (a: it is empty or holds",
            ),
            (
                "test images",
                i.nothing,
                "{raw}/imagesTs",
                "holds the test images case_08, case_09, case_10 of experiment",
            ),
        )
    ),
    Row("pretrain -o: another content", "planned", i.a_folder, f"{PRETRAIN} -o {{given}}", "given holds other files."),
    planning(
        "--encoder of another preset",
        i.encoder_of_resenc_tiny,
        "encoder.safetensors was pre-trained with the preset 'resenc_tiny', whose encoder is another one. Use --preset",
        "--encoder {given}/encoder.safetensors --preset tiny",
    ),
)

NIFTI = "convert nifti -i {given} -d 902 --channels CT"
OF_NIFTI = (
    Row(
        "a folder without NIfTI files",
        "nothing",
        i.holds("given/a.nrrd", b"x"),
        f"{NIFTI} --labels liver",
        "holds no file that ends with .nii.gz or .nii, but 1 other file",
    ),
    Row(
        "labels with other names than the images",
        "nothing",
        i.holds("given/labels/a-seg.nii.gz", b"x", "given/a.nii.gz"),
        f"{NIFTI} -l {{given}}/labels --labels liver",
        "the first label is 'a-seg', the first case 'a'",
    ),
    Row(
        "no folder of labels", "nothing", i.a_folder, f"{NIFTI} -l {{given}}/no --labels liver", "Give a folder with -l"
    ),
    Row("a value for one structure only", "nothing", i.a_folder, f"{NIFTI} --labels a=1,b", "for every structure or"),
    Row("a channel named twice", "nothing", i.a_folder, f"{NIFTI},ct --labels a", "a channel is named twice"),
    Row(
        "two structures of one name", "nothing", i.holds("given/a.nii", b"x"), f"{NIFTI} --labels a,A", "differ only in"
    ),
    option("convert nifti -i x -d 902 --labels liver", "nifti needs --channels"),
)

DICOM = "convert dicom -i {given} -d 902 --labels liver --key_file"
OF_DICOM = (
    Row("a folder without DICOM", "nothing", i.holds("given/a.dcm", b"x"), f"{DICOM} {{root}}/out/key", "among 1 file"),
    Row(
        "a key file inside of the dataset",
        "raw",
        i.a_folder,
        "convert dicom -i {given} -d 901 --labels liver --key_file {raw}/keys/key.json",
        "is inside the dataset's folder",
    ),
    Row("another file as key file", "nothing", i.a_folder, f"{DICOM} /etc/hostname", "is no key file that this"),
    Row("a device as key file", "nothing", i.a_folder, f"{DICOM} /dev/zero", "is no key file that this command wrote"),
    Row("a key file that cannot be", "nothing", i.a_folder, f"{DICOM} /sys/x/key", "--key_file /sys/x/key: the folder"),
    Row(
        "two structures of one name for DICOM",
        "nothing",
        i.a_folder,
        "convert dicom -i {given} -d 902 --labels liver Liver --key_file {root}/out/key",
        "--labels",
    ),
    Row(
        "no key file for an import",
        "waiting",
        i.a_folder,
        f"{IMPORT} --key_file {{root}}/no",
        "no does not exist. Give",
    ),
    Row(
        "a device as key file for an import", "waiting", i.a_folder, f"{IMPORT} --key_file /dev/zero", "is no key file"
    ),
    *(
        Row(
            f"returned DICOM: {name}",
            "waiting",
            i.returned_dicom(content),
            f"{IMPORT} --key_file {{root}}/key.json",
            line,
        )
        for name, content, line in (
            ("no DICOM", b"x" * 200, "it is called a DICOM file, but is none"),
            ("damaged", i.DICM + b"\xff" * 300, "it is DICOM of the kind 'unknown'; expected a DICOM SEG"),
            ("cut off", i.DICM + b"\x02\x00\x00\x00UL\x04\x00", "it is"),
        )
    ),
    Row(
        "a folder without DICOM for a prediction",
        "trained",
        i.a_folder,
        "predict -d 901 -i {given} -o {root}/out/o --dicom -device cpu",
        "No DICOM image was found among 0 files",
    ),
)

ROWS = (
    *VARIABLES,
    *COMMAND_LINES,
    *TEST_SPLIT,
    *LABELLED,
    *EXTEND,
    *DATASET_JSON,
    *CASE_IDS,
    *NOT_ANNOTATED,
    *IMAGES,
    *PREDICTION,
    *CODE_IN_FILES,
    *DAMAGED,
    *RETURNED,
    *TEXT_HEADERS,
    *ENDLESS,
    *OUTPUTS,
    *PRETRAINING,
    *OF_NIFTI,
    *OF_DICOM,
)
