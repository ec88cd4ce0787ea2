"""The specification of a comparison: arms, seeds, and the settings that all runs share. Stored in comparison.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nnunet_assft.active.settings import STARTS, Settings
from nnunet_assft.active.state import options_of_version_2, written_by
from nnunet_assft.active.training.initial_network import differing, sha256_of_start
from nnunet_assft.comparison.arms import EPOCHS, Comparison, arm_of
from nnunet_assft.comparison.arms.base import PATIENCE
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.sealed import read_sealed, rebuilt, understanding, write_sealed
from nnunet_assft.runtime.text import some

SCHEMA_VERSION = 3


@dataclass(frozen=True)
class Shared:
    """What all runs have in common apart from their settings, taken from the plan of the first experiment.

    pretrained: path -> checksum of the encoders and models from which networks start, wherever they have been.
    """

    n_query: int
    pool: tuple[str, ...]
    test: tuple[str, ...]
    test_source: str
    versions: dict[str, str]
    pretrained: dict[str, str] = field(default_factory=dict)


KEYS_OF_VERSION_1 = {"n_rounds", "training", "estimate", *(row.name for row in fields(Settings))}
KEYS = {
    *("schema_version", "dataset", "name", "arms", "match", "test_folds", "seeds", "settings", "experiments"),
    "encoders",
    "device",  # in files of earlier versions
    *(row.name for row in fields(Shared)),
}
REMEDY = (
    "Restore it, or move it away and run nnUNetv2_assft_compare with the options of the comparison; finished runs are "
    "kept."
)


def plan_shared(comparison: Comparison) -> Shared:
    """Plan the first experiment of each fold, unless it is planned already, and return what all runs have in common:
    the pool of fold 0, and the test cases of all folds."""
    planned = [part.first_strategy.experiment(part, part.seeds[0]) for part in comparison.folds]
    first, test = planned[0], tuple(sorted(case for experiment in planned for case in experiment.test))
    source = first.test_source + (f", {comparison.test_folds} disjoint folds" if comparison.test_folds > 1 else "")
    return Shared(first.n_query, first.pool, test, source, first.versions, _checksums(comparison))


def _starts(comparison: Comparison) -> list[str]:
    """Return the paths of the encoders and models from which networks start."""
    return [path for path in (comparison.settings.pretrained, *comparison.encoders.values()) if path]


def _checksums(comparison: Comparison) -> dict[str, str]:
    """Return path -> checksum of the encoders and models of a comparison that are there."""
    return {path: sha256 for path in _starts(comparison) if (sha256 := sha256_of_start(path))}


def _recorded_checksums(comparison: Comparison, shared: Shared) -> dict[str, str]:
    """Return path -> checksum of the encoders and models of comparison.json. A file of an earlier version has none, but
    the experiments of its runs have."""
    if all(path in shared.pretrained for path in _starts(comparison)):
        return shared.pretrained
    experiments = [
        arm.load_experiment_or_none(comparison, seed) for arm in comparison.strategies for seed in comparison.seeds
    ]
    of_experiments = {
        experiment.settings.pretrained: experiment.encoder_report["sha256"]
        for experiment in experiments
        if experiment and experiment.settings.pretrained and experiment.encoder_report
    }
    return {**of_experiments, **shared.pretrained}


def write_comparison(comparison: Comparison, shared: Shared) -> None:
    """Write comparison.json. Seeds and arms that it lists already are kept, as another command may be running them.

    Raises `AssftError` if it has other settings.
    """
    with only_process(comparison.lock_file, f"comparison {comparison.name!r}", patience=PATIENCE):
        _write_comparison(*_with_known_runs(comparison, shared))


def _with_known_runs(comparison: Comparison, shared: Shared) -> tuple[Comparison, Shared]:
    """Add the seeds and arms of comparison.json to a comparison, and the places where its encoders have been."""
    if not comparison.file.is_file():
        return comparison, shared
    require_same_settings(comparison)
    known, known_shared = read_comparison(comparison.file)
    shared = replace(shared, pretrained={**_recorded_checksums(known, known_shared), **shared.pretrained})
    seeds, arms = sorted({*known.seeds, *comparison.seeds}), dict.fromkeys([*known.arms, *comparison.arms])
    encoders = {**known.encoders, **comparison.encoders}
    return replace(comparison, seeds=tuple(seeds), arms=tuple(arms), encoders=encoders), shared


def require_same_settings(comparison: Comparison, *, with_folds: bool = False) -> None:
    """Raise `AssftError` if the runs of comparison.json, which must exist, were made with other settings than these,
    because their results would be mixed, or if the file was copied from another comparison.

    with_folds: also for another number of folds; without it, folds may be added.
    """
    known, shared = read_comparison(comparison.file)
    if (known.dataset, known.name) != (comparison.dataset, comparison.name):
        raise AssftError(
            f"{comparison.file} is that of comparison {known.name!r} of {known.dataset}. A comparison cannot be "
            "renamed or copied. Move the copy out of nnUNet_results, or give the folder its old name."
        )
    changed = known.settings.resolved(known.dataset).differences(comparison.settings)
    for name in ("match", "test_folds") if with_folds else ("match",):
        changed[name] = getattr(known, name), getattr(comparison, name)
    changed["test_split"] = known.settings.test_split, comparison.settings.test_split
    changed |= _other_starts(known, comparison, _recorded_checksums(known, shared))
    shown = [f"{name} was {was}, now {now}" for name, (was, now) in changed.items() if was != now]
    if shown:
        raise AssftError(
            f"Comparison {known.name!r} of {known.dataset} exists with other settings ({some(shown, 3)}). Leave these "
            "options out, or start another comparison with -e."
        )


def _other_starts(
    known: Comparison, comparison: Comparison, recorded: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """Return name -> (path there, what is wanted here) of every encoder or model of both comparisons, and twice the
    path there if it is the same. recorded: path -> checksum."""
    pairs = {name: (getattr(known.settings, name), getattr(comparison.settings, name)) for name in STARTS}
    both = known.encoders.keys() & comparison.encoders.keys()
    pairs |= {f"encoder {name}": (known.encoders[name], comparison.encoders[name]) for name in sorted(both)}
    present = {**recorded, **_checksums(comparison)}
    return {
        name: (was, differing(was, now, recorded.get(was or ""), present.get(now or "")))
        for name, (was, now) in pairs.items()
    }


def _write_comparison(comparison: Comparison, shared: Shared) -> None:
    write_sealed(
        comparison.file,
        {
            "schema_version": SCHEMA_VERSION,
            "dataset": comparison.dataset,
            "name": comparison.name,
            "arms": [arm.id for arm in comparison.arms],
            "match": comparison.match,
            "test_folds": comparison.test_folds,
            "seeds": comparison.seeds,
            "settings": asdict(comparison.settings),
            "encoders": dict(comparison.encoders),
            **asdict(shared),
            "experiments": {
                arm.id: {
                    f"{seed}{part.of_fold}": part.paths(arm, seed).experiment
                    for part in comparison.folds
                    for seed in comparison.seeds
                }
                for arm in comparison.arms
                if arm.experiment_arm(comparison) == arm
            },
        },
    )


def read_comparison(file: Path) -> tuple[Comparison, Shared]:
    """Read comparison.json, as written by `write_comparison` of this or an earlier version.

    Raises `AssftError` for an unknown schema version, and `DamagedFileError` for a damaged file.
    """
    with understanding(file, REMEDY):
        return _from_content(read_sealed(file, KEYS | KEYS_OF_VERSION_1, remedy=REMEDY), file)


def _from_content(content: dict[str, Any], file: Path) -> tuple[Comparison, Shared]:
    version = content.get("schema_version", 1)
    if version == 1:
        content = _from_version_1(content)
    elif version == 2:
        content = {**content, "match": EPOCHS}
    elif version != SCHEMA_VERSION:
        raise AssftError(f"{file} has schema version {version}; expected {SCHEMA_VERSION}. {written_by(content)}")
    arms = tuple(arm_of(arm_id) for arm_id in rebuilt(list[str], content["arms"], "arms"))
    settings = Settings.from_json(content["settings"])
    comparison = Comparison(
        rebuilt(str, content["dataset"], "dataset"),
        rebuilt(str, content["name"], "name"),
        arms,
        rebuilt(tuple[int, ...], content["seeds"], "seeds"),
        settings,
        rebuilt(str, content["match"], "match"),
        rebuilt(int, content.get("test_folds", 1), "test_folds"),
        encoders=rebuilt(dict[str, str | None], content.get("encoders", {}), "encoders"),
    )
    shared = {row.name: content[row.name] for row in fields(Shared) if row.name in content or row.name != "pretrained"}
    return comparison, rebuilt(Shared, shared)


def _from_version_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert comparison.json of nnunet_assft 0.1.0, which holds the settings as typed and, beside them, with defaults
    filled in."""
    settings = {row.name: content["settings"][row.name] for row in fields(Settings) if row.name in content["settings"]}
    settings |= {
        "domain": content["domain"],
        "rounds": content["n_rounds"],
        "budget": content["budget"],
        "epochs": content["training"]["epochs"],
        "options": options_of_version_2(content),
    }
    return {**content, "settings": settings, "match": EPOCHS}
