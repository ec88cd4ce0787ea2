"""The catalogue of bad inputs: the command that meets each of them, and what it then says.

`test_catalogue.py` runs every row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tests.conftest import LABELS, SHAPE
from tests.faults import inputs as i
from tests.faults.inputs import Make
from tests.volumes.damaged import POINTER, REFUSED


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
RAW, RESULTS = "nnUNet_raw/Dataset901_Blobs", "nnUNet_results/Dataset901_Blobs"
SITE_FILE = "nnUNet_results/nnunet_assft_cluster.json"
REVIEW = "annotate review -d 901 -o {root}/out/x"
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
        (
            "nnUNet_results",
            "a folder of two",
            "{given}/../nnUNet_preprocessed/",
            "plan -d 901",
            "are the same folder, ",
        ),
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
    option("plan -d 901 --spacing 1 0 1", "--spacing: '0'; expected a number from 0.002 to 1000"),
    option("plan -d 901 --patch_size 32 0 32", "--patch_size: '0'; expected a whole number from 1 to 4096"),
    option(
        "plan -d 901 --patch_size 4096 4096 4096", "--patch_size has 68,719,476,736 voxels; expected at most", code=1
    ),
    option("plan -d 901 --spacing 1e-9 1 1", "--spacing: '1e-9'; expected a number from 0.002 to 1000"),
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
    option("status -d 901 -device cpu", "argument -device: this command has none; those that train or predict have it"),
    option("plan -d 901 --epoch 3", "unrecognized arguments: --epoch 3. Did you mean --epochs?"),
    option(
        "round -d 901 -r 0 -device tpu", "argument -device: 'tpu'; expected cuda, cuda:1 (or another number), cpu or"
    ),
    option("round -d 901 -r 0 -device cuda:999", "-device cuda:999, but torch finds", start="planned", code=1),
    option("compare -d 901 --gpus 2", "argument --gpus: a run of a comparison uses one GPU; see --engine"),
    option(
        "predict -d 901 -i a -o b -num_parts 2 --engine local",
        "argument -num_parts: the engine divides the cases by itself",
        start="trained",
    ),
    *(
        option(f"plan -d 901 --option {text}", f"--option {line}", code=1)
        for text, line in (
            ("x=1", "'x=1': expected NAME=VALUE with one of the names first_case, prior_input"),
            ("tau_c=-1", "tau_c=-1: expected a number, at least 1e-06"),
            ("selection=best", "selection=best: expected one of"),
            ("tau_c=1 --option tau_c=2", "tau_c is given twice; give it once."),
        )
    ),
    option("plan -d 901 --option ignore_margin=1", "The option ignore_margin needs an ignore label, but", code=1),
    option("annotate review -d 901 -o {root}/out/x -n 1", "planned with --annotator oracle", start="trained", code=1),
    option(REVIEW, "Round 0 has no pseudo-labelled case", start="waiting", code=1),
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

WITHOUT_LABEL = i.lost(f"{RAW}/labelsTr/case_02.nii.gz")
SPLIT = (
    planning(
        "--spacing without a voxel left",
        i.nothing,
        "nnU-Net finds no network for these images: cannot convert float infinity to integer. Correct --spacing",
        "--preset tiny --spacing 1000 1000 1000",
    ),
    planning("a label is missing", WITHOUT_LABEL, "There is no label file for 1 case of Dataset901_Blobs (case_02)."),
    planning(
        "a label of a test case is missing",
        i.all_of(WITHOUT_LABEL, i.holds("given/ids", b"case_02")),
        "There is no label for 1 test case (case_02), and annotators are asked for test cases of imagesTs only.",
        "--annotator human --test_split {given}/ids",
    ),
    planning(
        "--test_split 1.5", i.nothing, "--test_split 1.5: expected a fraction between 0 and 1", "--test_split 1.5"
    ),
    planning("--test_split 0.25@4", i.nothing, "8 cases have 4 folds of 2 test cases; expected", "--test_split 0.25@4"),
    planning("a pool of one case", i.nothing, "pool of Dataset901_Blobs has 1 case; expected", "--test_split 0.9"),
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
        "--labelled FILE: no label",
        i.all_of(WITHOUT_LABEL, i.holds("given/ids", b"case_02")),
        "names 1 case without a label file (case_02).",
        "--annotator human --labelled {given}/ids",
    ),
    planning(
        "a first case beside labels",
        WITHOUT_LABEL,
        "first_case=typical has no effect, because round 0 trains on the 7 cases labelled already.",
        "--annotator human --option first_case=typical",
    ),
    *(
        planning(f"a label to start with: {name}", i.all_of(WITHOUT_LABEL, make), line, "--annotator human")
        for name, make, line in (
            (
                "nothing",
                i.holds(f"{RAW}/labelsTr/case_01.nii.gz", b""),
                "1 label of the 7 to start",
            ),
            (
                "empty",
                i.label_is(np.zeros(SHAPE, np.uint8)),
                "Your consent is needed for 1 label of the 7 to start with",
            ),
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
    Row(
        "extend --withdraw and --test of one case",
        "trained",
        i.nothing,
        "extend -d 901 --withdraw case_01 --test case_01",
        "--withdraw and --test both name case_01. Name a case once.",
    ),
    Row(
        "extend: a new image without a label",
        "planned",
        i.all_of(i.new_image(b""), i.lost(f"{RAW}/labelsTr/case_77.nii.gz")),
        "extend -d 901",
        "There is no label file for 1 new case of Dataset901_Blobs (case_77). A test case needs one",
    ),
    Row(
        "history.json is lost",
        "planned",
        i.sealed_change("experiment.json", n_changes=1),
        "status -d 901",
        "history.json lacks 1 recorded change. Restore it from a backup.",
    ),
    Row(
        "the record of an earlier round is lost",
        "trained",
        i.lost(f"{RESULTS}/assft/assft/round_00.json"),
        "extend -d 901",
        "The record of round 0 is lost, but later rounds are finished. Run nnUNetv2_assft_round -d 901 -r 0 to make",
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

ORDER = (  # commands that come too early, or too late
    Row("a round that does not exist", "planned", i.nothing, "round -d 901 -r 5", "Round 5 does not exist: experiment"),
    Row("a round before its time", "planned", i.nothing, ROUND_1, "Round 1 starts from round 0, which is not finished"),
    Row("report of nothing", "planned", i.nothing, "report -d 901", "has no finished round, so there is nothing to"),
    Row(
        "no annotation yet",
        "waiting",
        i.lost(f"{RESULTS}/assft/assft/round_00.json"),
        REVIEW,
        "no pseudo-labels yet. Run nnUNetv2_assft_round -d 901 -r 0 first.",
    ),
    Row(
        "a plan with other settings",
        "planned",
        i.nothing,
        "plan -d 901 --preset tiny --epochs 7",
        "exists with other settings (rounds was 2, now 5; budget was 2, now 5%; epochs was 2, now 7",
    ),
    Row(
        "nobody has drawn a structure",
        "planned",
        i.not_annotated_is(json.dumps({f"case_{n:02d}": ["ball"] for n in range(8)}).encode()),
        ROUND_0,
        "ball is annotated in none of the labelled cases (case_",
    ),
    Row(
        "a round that cannot be made again",
        "trained",
        i.other_label_of_round_1,
        "round -d 901 -r 1",
        "does not match its record. It cannot be made again, because the label of case case_",
    ),
)

ENGINES = tuple(
    Row(name, "planned", make, f"{ROUND_0} {options}".strip(), line, environment=environment)
    for name, make, options, line, environment in (
        ("--engine unknown", i.nothing, "--engine pbs", "There is no engine 'pbs'. Choose one of here, local", {}),
        ("--engine without a name", i.nothing, "--engine ''", "There is no engine ''. Choose one of here, local", {}),
        ("--slurm without a value", i.nothing, "--slurm gpu", "--slurm gpu: expected KEY=VALUE,... such as", {}),
        (
            "no SLURM",
            i.nothing,
            "--engine slurm",
            "round: error: This machine has no scontrol. Run the command",
            {"PATH": "/none"},
        ),
        (
            "engine file: none",
            i.nothing,
            "--engine_file {given}",
            "given cannot be read (No such file or directory). Expected a JSON object",
            {},
        ),
        ("engine file: no JSON", i.holds(SITE_FILE, b"engine: slurm"), "", "cannot be read (", {}),
        (
            "engine file: an unknown key",
            i.holds(SITE_FILE, b'{"jobs": 2}'),
            "",
            "holds {'jobs': 2}. Expected a JSON",
            {},
        ),
    )
)

COMPARISONS = (
    *(
        option(f"compare -d 901 {options}", line, code=1)
        for options, line in (
            ("--strategies best", "--strategies 'best' does not exist; the choices are paper, all, "),
            ("--strategies nnunet", "It is one of --references: nnunet, "),
            ("--strategies random+best", "--strategies 'random+best': expected random+pseudo, random+supervised"),
            (
                "--strategies random random+supervised",
                "--strategies random and random+supervised are the same arm with --match",
            ),
            ("--references best", "--references 'best' does not exist; the choices are nnunet, "),
            ("--strategies random --references nnunet@assft", "trains on the labelled cases of assft, which is not"),
            ("--test_folds 2", "--test_folds 2 needs the size of a fold. Give it as a fraction of imagesTr"),
            ("--encoders a/x.pth b/x.pth", "--encoders names two files 'x', which would give their arms one name."),
            ("--option second_stage=none", "--option second_stage is set by --match in a comparison. Choose it"),
            ("--collect", "Dataset901_Blobs has no comparison 'compare': "),
        )
    ),
    Row(
        "compare --collect of no run",
        "raw",
        i.comparison,
        "compare -d 901 --collect",
        "Comparison 'compare' of Dataset901_Blobs has no finished round. Run it without --collect.",
    ),
    Row(
        "compare --collect with other settings",
        "raw",
        i.comparison,
        "compare -d 901 --collect --epochs 7",
        "exists with other settings (epochs was 400, now 7). Leave these options out, or start another comparison with "
        "-e.",
    ),
    Row(
        "report --compare of no run",
        "trained",
        i.comparison,
        "report -d 901 --compare compare",
        "has no results.csv and no runs.csv. Run nnUNetv2_assft_compare first, or leave out --compare.",
    ),
    Row(
        "results.csv of a comparison was cut short",
        "trained",
        i.half_a_table,
        "report -d 901 --compare compare",
        "results.csv does not match its checksum. Restore it, or remove it and run nnUNetv2_assft_compare",
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
            ("of nnU-Net v1", b'{"modality": {"0": "CT"}, "labels": {}}', "nnUNetv2_convert_old_nnUNet_dataset"),
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
            (
                "names and numbers exchanged",
                {"labels": {"0": "background", "1": "ball"}},
                "names and numbers are exchanged in labels",
            ),
            (
                "no background",
                {"labels": {"ball": 1, "box": 2}},
                'the labels are ball 1, box 2. Expected "background": 0',
            ),
            ("a gap in the labels", {"labels": {"background": 0, "ball": 1, "box": 3}}, "then 1, 2, ... without gaps."),
            (
                "ignore is not the last",
                {"labels": {"background": 0, "ignore": 1, "box": 2}},
                "the ignore label is 1; nnU-Net needs it to be",
            ),
            (
                "regions",
                {"labels": {"background": 0, "whole": [1, 2], "box": 2}},
                "describes a region-based dataset (label 'whole'",
            ),
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
    *(
        planning(f"image: {name}", i.holds(f"{RAW}/imagesTr/{file}", b"x"), line)
        for name, file, line in (
            (
                "without a channel",
                "extra.nii.gz",
                "'extra.nii.gz' has no channel number; expected a name such as CASE_0000.nii",
            ),
            ("of another ending", "extra_0000.NII.GZ", "ends with .NII.GZ; rename it to end with .nii.gz."),
            (
                "with a channel more",
                "case_02_0001.nii.gz",
                "case case_02 has 2 image files; expected 1, one per channel (MRI): ",
            ),
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
    Row(
        "predict: other names",
        "trained",
        i.holds("given/scan.nrrd", b""),
        PREDICT,
        "holds no image named CASE_0000.nii.gz; it holds 'scan.nrrd'",
    ),
    Row(
        "predict --dicom: a file",
        "trained",
        i.a_file,
        f"{PREDICT} --dicom",
        "given is not a folder. Give the folder of",
    ),
    Row(
        "predict --dicom: CT",
        "trained",
        i.series("CT"),
        f"{PREDICT} --dicom",
        "it is CT; expected MR, because the channel of the model is called",
        more=1,
    ),
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
        "plan -d 901 --encoder {given}/encoder.pth --preset tiny",
        "encoder.pth holds objects other than tensors, which could run code when loaded; expected tensors only.",
    ),
    Row(
        "--encoder of another network",
        "raw",
        i.encoder_of_another_network,
        "plan -d 901 --encoder {given}/encoder.pth --preset tiny",
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
    *(
        planning(f"--start {name}", make, line, "--start {given}/model", *options)
        for name, make, line, *options in (
            (
                "of two folds",
                i.model(folds=2),
                "has the models of 2 folds (fold_0, fold_1); a network starts from one.",
            ),
            (
                "for slices",
                i.model(lambda c: i.planned_with(c).update(patch_size=[32, 32])),
                "checkpoint_final.pth is a model of the configuration 3d_fullres, for slices; expected one for",
            ),
            (
                "of another class",
                i.model(lambda c: i.planned_with(c)["architecture"].update(network_class_name="os.Net")),
                "is a model of the network Net; expected one of",
            ),
            (
                "with code in its layers",
                i.model(lambda c: i.planned_with(c)["architecture"]["arch_kwargs"].update(norm_op="os.system")),
                "has plans that name layers outside of torch (os.system), which are not imported.",
            ),
            (
                "without plans",
                i.model(lambda c: c["init_args"].pop("plans")),
                "model/plans.json does not exist. Put the file there.",
            ),
            (
                "with a weight missing",
                i.model(lambda c: c["network_weights"].popitem()),
                "does not fit the network that its plans describe: ",
            ),
            (
                "that cannot be built",
                i.model(lambda c: i.planned_with(c)["architecture"]["arch_kwargs"].update(n_stages=0)),
                "describe cannot be built (",
            ),
            ("of another preset", i.model(), "No preset is this network; leave out --preset", "--preset tiny"),
        )
    ),
    *(
        planning(f"--encoder {name}", make, line, options)
        for name, make, line, options in (
            (
                "of a folder",
                i.a_folder,
                "is not a file but a folder, with no files.",
                "--encoder {given} --preset tiny",
            ),
            (
                "of a pointer",
                i.holds("given/a.pth", POINTER),
                "a.pth is no encoder file: it is a pointer of Git LFS and not the file itself.",
                "--encoder {given}/a.pth --preset tiny",
            ),
            (
                "without its header",
                i.evil_encoder,
                "has written. Give such a file, or leave out --encoder_format.",
                "--encoder {given}/encoder.pth --encoder_format nnunet_assft --preset tiny",
            ),
            (
                "for another network",
                i.encoder_of_another_network,
                "ct_fm weights exist only for a",
                "--encoder {given}/encoder.pth --encoder_format ct_fm --preset resenc_tiny",
            ),
            (
                "that has seen a test case",
                i.own_encoder("tiny", "imagesTs/case_09_0000.nii.gz"),
                "was pre-trained on the images of 1 test case of experiment 'assft' (case_09), and cannot be judged by",
                "--encoder {given}/encoder.safetensors --preset tiny",
            ),
        )
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
        for name, content, line in (
            *CONTENTS,
            ("an empty object", b"{}", "round_00.json is damaged (the content has no 'round')"),
        )
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
        "round_00.json is damaged (queried is 3; expected a list)",
    ),
    *(
        Row(f"experiment.json with {name}", "trained", i.sealed_change("experiment.json", **changes), command, line)
        for name, changes, line in (
            ("a case id that leads out", {"pool": ["../../x"]}, "damaged (the case id '../../x' contains / (U+002F))"),
            ("a list of checksums", {"checksums": [3]}, "damaged (checksums is [3]; expected an object with keys)"),
            ("a text as a report", {"encoder_report": "x"}, "damaged (encoder_report is 'x'; expected an object"),
            ("an unknown domain", {"settings": {"domain": "x"}}, "damaged (--domain 'x' does not exist; the choices"),
        )
        for command in ("status -d 901", "export -d 901 -o {root}/out/model.zip")
    ),
    *(
        Row(f"round_00.json with {name}", "trained", i.sealed_change("round_00.json", **changes), "status -d 901", line)
        for name, changes, line in (
            ("a Dice of cases that is none", {"dice": {"per_case": [3]}}, "round_00.json is damaged (per_case is [3];"),
            ("a strange stage", {"model": {"stage": "x"}}, "round_00.json is damaged (the model is that of a stage"),
        )
    ),
    Row(
        "a round file in the place of another: status",
        "trained",
        i.copied("round_02.json", "round_01.json"),
        "status -d 901",
        "round_01.json is damaged (it is that of round 2). Run nnUNetv2_assft_round -d 901 -r 1 to make it again.",
    ),
    Row(
        "a round file in the place of another: run",
        "trained",
        i.copied("round_01.json", "round_02.json"),
        "run -d 901 -device cpu",
        "round 2: queried",
        0,
    ),
    Row(
        "a folder in the place of splits.json",
        "trained",
        i.folder_at(f"{RESULTS}/assft/assft/splits.json"),
        "run -d 901 -device cpu",
        "splits.json is a folder; a file of this name has to be written. Move the folder away and run the same command",
    ),
    Row(
        "experiment.json of 3 GB",
        "planned",
        i.of_3_gb(f"{RESULTS}/assft/assft/experiment.json"),
        "status -d 901",
        "experiment.json is damaged (it has 3,000,000,000 bytes; expected at most 268,435,456)",
    ),
    Row(
        "experiment.json is lost, planned again with other settings",
        "trained",
        i.lost(f"{RESULTS}/assft/assft/experiment.json"),
        "plan -d 901 --preset tiny --epochs 7",
        "holds finished rounds that were planned with other settings (their plan is another one). Give the options",
    ),
    Row(
        "provenance.json without its cases",
        "trained",
        i.provenance_is({}),
        "run -d 901 -device cpu",
        "round 2: queried",
        0,
    ),
    Row("the record of a stage is empty", "trained", i.empty_step, ROUND_1, "round 1", 0),
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
    *(
        Row(f"returned: {kind}", "waiting", i.spoiled(kind), IMPORT, line)
        for kind, line in (
            ("mask of 0 and 255", "it is a mask of 0 and 255, not a label map; expected"),
            ("segment with an unknown name", "segment 'Segment_1' is not a structure of the dataset; expected"),
            ("two segments of one name", "two segments are called 'kidney_left' ("),
            ("overlapping segments", "the segments 'kidney_left' and 'kidney_right' overlap in"),
            ("values of no segment", "voxels belong to no segment of the file"),
        )
    ),
    *(
        Row(f"returned: {name}", "waiting", make, IMPORT, line)
        for name, make, line in (
            ("nothing", i.a_folder, "given holds no label; expected files named CASE"),
            ("no folder", i.a_file, "given is not a folder. Give the work folder, or a folder that holds"),
            ("another case", i.holds("given/case_00.nii.gz", b""), "nobody is asked for this case; expected case_01,"),
            ("another channel", i.holds("given/case_03_0000.nii", b""), "Did you mean case_03? Then rename it."),
            ("an unknown case", i.holds("given/case_99.nii.gz", b""), "the dataset has no case 'case_99'; expected"),
            (
                "DICOM",
                i.holds("given/case_03.dcm", i.DICM),
                "it is DICOM; expected a file that ends with .seg.nrrd, .nrrd,",
            ),
            ("an archive", i.holds("given/labels.zip", b"PK"), "it is an archive that must be unpacked; expected"),
            ("a link out of the folder", i.link_to_passwd, "it is a link that leads out of"),
            ("an empty file", i.holds("given/case_03.nii.gz", b""), "the file cannot be read ("),
        )
    ),
    *(
        Row(f"--not_annotated {names}", "waiting", i.a_folder, f"{IMPORT} --not_annotated {names}", line)
        for names, line in (
            ("liver", "--not_annotated: 'liver' is not a structure; expected kidney_right, kidney_left."),
            ("kidney_left kidney_right", "--not_annotated: it names every structure, so nothing is annotated"),
        )
    ),
    *(
        Row(f"annotate {options}", "waiting", i.a_folder, f"annotate {options}", line)
        for options, line in (
            (
                "export -d 901 -o {root}/out/x --annotators ann Ann",
                "--annotators ann Ann: expected names that differ in",
            ),
            (
                "export -d 901 -o {root}/out/x --double_read 1",
                "--double_read needs at least two names after --annotators.",
            ),
            ("export -d 901 -o {given}", "given is not empty and is not a work folder. Give an empty folder with -o."),
            (
                "import -d 901 {given} --accept_geometry case_7",
                "--accept_geometry names case_7; the experiment has no such",
            ),
        )
    ),
    Row(
        "--accept of no case", "waiting", i.a_folder, f"{IMPORT} --accept case_7", "--accept names case_7; the dataset"
    ),
    Row("a label of an annotator outside of the dataset", "waiting", i.label_elsewhere, IMPORT, "which is not in"),
)

HEADER = "case,annotator,minutes,decision\n"
TIMES = tuple(
    Row(f"--times: {name}", "waiting", i.times(table), f"{IMPORT} --times {{given}}/times.csv", line)
    for name, table, line in (
        ("empty", "", "times.csv has no columns; expected the columns case,"),
        ("other columns", "patient,time\n", "times.csv has 'patient', 'time'; expected the columns case,"),
        ("a case twice", f"{HEADER}case_03,,1\ncase_03,,2\n", "times.csv, line 3: case_03 is listed twice."),
        (
            "no case",
            f"{HEADER},ann,1\n",
            "times.csv, line 2: no case is named. Expected one line per case and annotator.",
        ),
        ("an unknown case", f"{HEADER}case_77,,1\n", "--times names case_77; the dataset has no such case. Expected"),
        ("a decimal comma", f"{HEADER}case_03,,1,5,fix\n", "line 2: 5 cells; expected 4, as in the first line."),
        (
            "minutes in words",
            f"{HEADER}case_03,,five\n",
            "line 2: minutes 'five'; expected a number such as 25 or 12.5.",
        ),
        ("an unknown decision", f"{HEADER}case_03,,1,ok\n", "line 2: decision 'ok'; expected accept, fix, reject or"),
        ("accept of nothing", f"{HEADER}case_01,,1,accept\n", "case_01: there is no pre-segmentation to accept."),
        ("fix of nothing", f"{HEADER}case_01,,1,fix\n", "case_01: its decision is fix, but no label was returned."),
        ("a case of nobody", f"{HEADER}case_04,,1,accept\n", "case_04: nobody is asked for this case, so its decision"),
    )
)

CRASHES = {
    "thousands of characters in kinds": ("nrrd", i.replaced(b"kinds: domain", b"kinds: " + b"domain" * 2000)),
    "no axes": ("nrrd", i.replaced(b"dimension: 3", b"dimension: -1")),
    "NDims = 4": ("mha", i.replaced(b"NDims = 3", b"NDims = 4")),
    "sizes in words": ("mha", i.replaced(b"DimSize = 24 26 18", b"DimSize = a b c")),
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
    planning("--encoder of a device", i.nothing, "/dev/zero is not a file", "--encoder /dev/zero --preset tiny"),
    planning("--start of a device", i.nothing, "/dev/zero is not a file", "--start /dev/zero"),
    planning("--start of a folder", i.nothing, "has no fold_*/checkpoint_final.pth but", "--start {raw}"),
    planning(
        "--encoder of a hub",
        i.nothing,
        "If MIC/ResEncL is the id of a model on a hub",
        "--encoder MIC/ResEncL --preset tiny",
    ),
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
    Row(
        "a softmax that is a link to nothing", "nothing", i.lost_softmax, SCORE, "a symbolic link to gone.npz,", more=1
    ),
    Row(
        "a softmax that promises 96 GB",
        "nothing",
        i.softmax_that_promises_96_gb,
        SCORE,
        "the header of probabilities.npy promises 96,000,000,000 bytes, and at most 128 are there",
        more=1,
    ),
    *(
        Row(f"the properties of a softmax: {name}", "nothing", i.softmax_with(properties), SCORE, line, more=1)
        for name, properties, line in (
            ("infinite", {"bbox_used_for_cropping": [[0, float("inf")]] * 3}, "cannot convert float infinity to"),
            ("8 TB", b"\x80\x04\x8e" + (8 * 10**12).to_bytes(8, "little"), "there is not enough memory for it"),
        )
    ),
    Row(
        "a newline in its name", "nothing", i.holds("given/a\nb.npz", b"x"), SCORE, "score: a\\nb: not a compl", more=1
    ),
    Row("a softmax of nnU-Net v1", "nothing", i.softmax_of_version_1, SCORE, "the array is called softmax, as", more=1),
    Row(
        "plans.json beside a softmax",
        "nothing",
        i.all_of(i.softmax, i.holds("given/plans.json", b'{"transpose_forward": ["z"]}')),
        SCORE,
        "plans.json has no readable transpose_forward; expected the plans that nnUNetv2_predict wrote there.",
    ),
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
        "demo -o of another dataset",
        "nothing",
        i.holds("out/nnUNet_raw/Dataset900_Phantom/dataset.json", b"{x"),
        "demo -o {root}/out",
        "dataset.json cannot be read (",
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
    option(
        f"{PRETRAIN} --gpus 2 --batch_size 3",
        "--batch_size 3 cannot be divided among 2 GPUs. Give a multiple of 2.",
        start="planned",
        code=1,
    ),
    Row(
        "pretrain: another pre-training",
        "planned",
        i.another_pretraining,
        f"{PRETRAIN} -o {{given}}",
        "given holds another pre-training (--seed was 1, now 0; another architecture; another input and 1 more).",
    ),
    Row(
        "pretrain: a network that is trained",
        "planned",
        i.started_from_a_model,
        PRETRAIN,
        "Experiment 'assft' has the network of a model (--start), which is trained already.",
    ),
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
        i.own_encoder("resenc_tiny"),
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
    Row(
        "no usable image",
        "nothing",
        i.holds("given/a.nii", b""),
        f"{NIFTI} --labels a",
        "No case can be converted, and",
    ),
    Row("a structure named twice", "nothing", i.a_folder, f"{NIFTI} --labels a,a", "a structure is named twice."),
    *(
        Row(f"-i of {name}", "nothing", make, f"convert nifti -i {folder} -d 902 --channels CT --labels a", line)
        for name, make, folder, line in (
            ("an archive", i.holds("given/a.zip", b"PK"), "{given}/a.zip", "a.zip is an archive. Unpack it and give"),
            ("a file", i.a_file, "{given}", "given is not a folder. Give a folder with -i; an archive has to be"),
        )
    ),
    *(
        option(f"convert nifti -i {{raw}}/imagesTr -d {name} --channels CT --labels a", line, code=1)
        for name, line in (
            ("0", "The dataset is '0'; expected -d with an id from 1 to 999 or Dataset218_NAME."),
            ("901", "Dataset901_Blobs has the id of Dataset901_NIfTI; expected no other dataset with this id."),
            (
                "Dataset901_Blobs",
                "imagesTr is in the dataset folder that would be written. Give the folder of the",
            ),
        )
    ),
    option("convert amos_ct -i x --labels a", "argument --labels: only dicom and nifti take it"),
    option("convert amos_ct -i x --key_file a", "argument --key_file: only dicom takes it"),
    option("convert dicom -i x --mode copy", "argument --mode: dicom does not take it"),
    option("convert check", "check takes one dataset: -i FOLDER or -d ID"),
    option("convert check -d 7", "-d 7: 0 datasets of this id or name in", code=1),
    option("convert nifti --verify_only -d 901", "so there is nothing to verify. Convert the dataset first.", code=1),
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
    *(
        Row(f"series: {name}", "nothing", make, f"{DICOM} {{root}}/out/key {options}".strip(), line)
        for name, make, options, line in (
            ("a gap", i.series("CT", without=2), "", "only the key file was written. The first reason: dcm_"),
            ("two of a patient", i.series("CT", "CT"), "", "2 series in 2 studies can be used: dcm_"),
            (
                "CT and MR",
                i.series("CT", "MR", patients=2),
                "",
                "The series are of two modalities, CT (1) and MR (1); expected one",
            ),
            ("--series of a device", i.series("CT"), "--series /dev/zero", f"cannot be read (it is {IT}"),
            (
                "--series of a patient",
                i.all_of(i.series("CT"), i.holds("ids", b"MEIER")),
                "--series {root}/ids",
                "ids has no case id of the key file in line 1; expected one case id per line",
            ),
        )
    ),
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
    Row(
        "returned DICOM: of no case",
        "waiting",
        i.segmentation_of_no_case,
        f"{IMPORT} --key_file {{root}}/key.json",
        "it is a DICOM SEG of a series that is not in the key file, or of several series; expected one of a case",
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
    *SPLIT,
    *LABELLED,
    *EXTEND,
    *ORDER,
    *ENGINES,
    *COMPARISONS,
    *DATASET_JSON,
    *CASE_IDS,
    *NOT_ANNOTATED,
    *IMAGES,
    *PREDICTION,
    *CODE_IN_FILES,
    *DAMAGED,
    *RETURNED,
    *TIMES,
    *TEXT_HEADERS,
    *ENDLESS,
    *OUTPUTS,
    *PRETRAINING,
    *OF_NIFTI,
    *OF_DICOM,
)
