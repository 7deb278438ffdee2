"""The scripts of the claims: which arms they train, what they share, what they say of made numbers, and smoke runs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scripts import load

from xray_det import storage
from xray_det.data.ingest import ingest_published
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError
from xray_det.evaluation.over_seeds import OverSeeds
from xray_det.labels.hierarchy import Hierarchy
from xray_det.orchestrate import study_command
from xray_det.orchestrate.claims import METRICS, experiment
from xray_det.orchestrate.study_record import Identity

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "orchestrate"))
from made_dataset import write_dataset  # noqa: E402

sampling, hybrid, ladder, loss_functions, long_tail = map(
    load, ("sampling", "hybrid", "ladder", "loss_functions", "long_tail")
)


def found(
    arms: Sequence[str], values: dict[str, Sequence[float]], metrics: Sequence[str] = tuple(METRICS)
) -> OverSeeds:
    """Arms whose metrics are all one number a seed; those without have 0.2. A dictionary gives numbers a metric."""
    numbers = [[[seed for _ in metrics] for seed in values.get(arm, (0.2, 0.2))] for arm in arms]
    return OverSeeds(arms=tuple(arms), metrics=tuple(metrics), values=np.array(numbers, np.float64))


@pytest.fixture(scope="module")
def keys() -> dict[str, dict[str, str]]:
    """Script -> arm -> key, on the small miniature with the schedule of the claims."""
    made = study_command.assigned(experiment(smoke=True), ("phases.0.epochs=12", "phases.0.drops=8"))
    patched = pytest.MonkeyPatch()
    patched.setattr(hybrid, "base", lambda *_: made)
    arms = {
        "sampling": sampling.arms(sampling.Args(), made),
        "hybrid": hybrid.table_4(hybrid.Args()),
        "ladder": ladder.arms(ladder.of_softmax(made)),
        "loss_functions": loss_functions.arms(made, repeat=0.125),
    }
    patched.undo()
    return {name: {title: Identity.of(arm(1)).key for title, arm in of.items()} for name, of in arms.items()}


@pytest.mark.medium
def test_tables_share_arms(keys: dict[str, dict[str, str]]) -> None:
    """Renders and ingests the small miniature, in seconds."""
    rules, table_4, rungs, losses = (keys[n] for n in ("sampling", "hybrid", "ladder", "loss_functions"))
    assert len(rules) == len(set(rules.values())) == 9
    assert len(table_4) == len(set(table_4.values())) == 11
    assert rules["natural"] == table_4["natural 12"] == losses["dist-CE, natural"]
    assert rules["lambda 1"] == table_4["class-aware 12"] == losses["dist-CE, class-aware"]
    assert rules["lambda 0.7"] == table_4["lambda 0.7 12"]
    assert rungs["baseline"] == losses["softmax, natural"]
    assert rungs["+ class-aware sampling"] == losses["softmax, class-aware"]
    assert rungs["+ concurrent softmax"] == losses["concurrent softmax, class-aware"]
    assert next(iter(table_4)) == "natural 12"
    assert [*table_4][-1] == "natural 12, then lambda 0.7 6"


def test_what_sampling_says() -> None:
    args = sampling.Args(lam=(0.0, 0.7, 1.0), cap=(100,))
    arms = ("natural", "cap 100", "lambda 0", "lambda 0.7", "lambda 1")
    said = sampling.verdicts(args, found(arms, {"lambda 0.7": (0.31, 0.30), "lambda 1": (0.30, 0.30)}))
    assert said[0].startswith("Soft-balance wins: holds. lambda 0.7 is +10.5 above natural order, the spread is +0.4.")
    assert said[0].endswith("Within the spread of the best: lambda 0.7.")
    assert said[1].startswith("Most in the tail: does not hold here. lambda 0.7 gains noisy head +10.5")
    assert said[2].startswith("A cap raises the tail: does not hold here. cap 100: tail +0.0, all +0.0;")
    # a gain that is smaller than what seeds do
    noisy = {"cap 100": (0.3, 0.1), "lambda 0": (0.1, 0.3), "lambda 0.7": (0.4, 0.1), "lambda 1": (0.1, 0.35)}
    said = sampling.verdicts(args, found(arms, noisy))
    assert said[0].startswith("Soft-balance wins: does not hold here. lambda 0.7 is +5.0 above natural order")
    assert said[0].endswith("Within the spread of the best: lambda 0, lambda 0.7, lambda 1.")
    # one seed says nothing
    said = sampling.verdicts(args, found(arms, {arm: (0.3,) if arm == "lambda 1" else (0.2,) for arm in arms}))
    assert [line.split(": ")[1].split(".")[0] for line in said] == ["cannot be told without a spread"] * 3
    # one that is in the tail alone
    values = found(arms, {"lambda 0.7": (0.21, 0.21)}).values
    values[3, :, list(METRICS).index("noisy tail")] = 0.5
    said = sampling.verdicts(args, OverSeeds(arms=arms, metrics=tuple(METRICS), values=values))
    assert said[1].startswith(
        "Most in the tail: holds. lambda 0.7 gains noisy head +1.0, noisy middle +1.0, noisy tail +30.0;"
    )
    # a lead of the tail that is smaller than what seeds do
    values[3, :, list(METRICS).index("noisy tail")] = 0.1, 0.5
    said = sampling.verdicts(args, OverSeeds(arms=arms, metrics=tuple(METRICS), values=values))
    assert said[1].startswith("Most in the tail: does not hold here. lambda 0.7 gains noisy head +1.0, noisy")


def test_what_hybrid_says() -> None:
    arms = [
        "natural 12", "natural 18",
        *(f"{rule} {n}" for rule in ("class-aware", "lambda 0.7") for n in (6, 12, 18)),
        *(f"natural 12, then {rule} 6" for rule in ("natural", "class-aware", "lambda 0.7")),
    ]  # fmt: skip
    values = {"class-aware 6": (0.35, 0.36), "lambda 0.7 12": (0.4, 0.4), "natural 12, then lambda 0.7 6": (0.5, 0.5)}
    first, second = hybrid.verdicts(found(arms, values))
    assert first.startswith(
        "Hybrid beats balanced from the start: holds. It is +30.0 above natural 12, then natural 6,"
    )
    assert "+14.5 above class-aware 6, +10.0 above lambda 0.7 12" in first
    assert second == "Balanced over-fits by length: holds. class-aware 18 is -15.5 against class-aware 6."
    values["natural 12, then natural 6"] = (0.5, 0.5)
    assert hybrid.verdicts(found(arms, values))[0].startswith("Hybrid beats balanced from the start: does not hold")


def test_phases_are_read_as_they_are_written(tmp_path: Path) -> None:
    from xray_det.data.sampling import Natural, SoftBalance
    from xray_det.train.phase import AdamW

    data = write_dataset(tmp_path / "squares", images=4)
    told = {"datasets": (data,), "val": (data,), "set": ("phases.1.lr=0.5", "batch=4")}
    arms = hybrid.own_arms(hybrid.Args(phases=("3", "2@0.5", "1@1"), control=True, **told))
    assert list(arms) == ["natural", "3, then 2@0.5, then 1@1"]
    natural, mixed = (arm(4) for arm in arms.values())
    assert [phase.epochs for phase in mixed.phases] == [3, 2, 1]
    assert [phase.sampling for phase in mixed.phases] == [Natural(), SoftBalance(lam=0.5), SoftBalance(lam=1.0)]
    assert [drop for phase in mixed.phases for drop in phase.drops] == pytest.approx([2, 4 / 3, 2 / 3])
    assert {phase.sampling for phase in natural.phases} == {Natural()}
    assert (mixed.phases[1].lr, mixed.batch, mixed.seed) == (0.5, 4, 4)
    assert hybrid.read_phase("4@0.3,0.9", mixed.phases[0]).sampling == SoftBalance(lam=(0.3, 0.9))
    for text, message in (("x@0.7", "does not begin with a number"), ("3@-1", "lambda"), ("3@much", "not allowed")):
        with pytest.raises(InputError, match=message):
            hybrid.read_phase(text, mixed.phases[0])
    # what --phases does not say is the file's
    storage.write_json(tmp_path / "mine.json", json.loads(json.dumps(_tree(mixed, AdamW()))))
    args = hybrid.Args(config=tmp_path / "mine.json", phases=("2", "2@0.3"))
    (arm,) = hybrid.own_arms(args).values()
    assert [type(phase.optimizer) for phase in arm(0).phases] == [AdamW, AdamW]


def _tree(made: Any, optimizer: Any) -> dict[str, Any]:
    from xray_det.config import to_dict

    return to_dict(replace(made, phases=(replace(made.phases[0], optimizer=optimizer),)))


def test_what_the_ladder_and_the_losses_say() -> None:
    said = ladder.verdicts(found(["baseline", "+ a", "+ b"], {"+ a": (0.3, 0.3), "+ b": (0.31, 0.29)}))
    assert said[0] == "+ a helps: holds. +10.0 on baseline; the spread is +1.2."
    assert said[1] == "+ b helps: does not hold here. +0.0 on + a; the spread is +1.2."
    names = [f"{loss}, {rule}" for rule in ("natural", "class-aware") for loss in loss_functions.losses(44)]
    names.append("dist-CE, repeat-factor")
    values = {
        "focal, class-aware": (0.1, 0.1),
        "concurrent softmax, class-aware": (0.3, 0.3),
        "dist-CE, repeat-factor": (0.25, 0.25),
    }
    natural, balanced, repeated, unrepaired, repaired = loss_functions.verdicts(found(names, values))
    assert natural.startswith("Natural, from dist-CE: BCE +0.0, EQL v2 +0.0,")
    assert balanced.startswith("Class-aware, from dist-CE: concurrent softmax +10.0, BCE +0.0,")
    assert ", focal -10.0;" in balanced
    assert repeated == "Repeat-factor, dist-CE: +5.0 on natural, +5.0 on class-aware."
    what = "concurrent softmax repairs look-alikes and missing leaves"
    assert unrepaired.startswith(
        f"Natural: {what}: does not hold here. Above softmax, noisy and clean: both +0.0 ± 0.0 and +0.0 ± 0.0;"
    )
    assert repaired.startswith(
        f"Class-aware: {what}: holds. Above softmax, noisy and clean: both +10.0 ± 0.0 and +10.0 ± 0.0; in tra"
    )
    some = ["softmax, natural", "focal, natural", "softmax, class-aware", "focal, class-aware"]
    assert loss_functions.verdicts(found(some, {"focal, natural": (0.3, 0.3)})) == [
        "Natural, from softmax: focal +10.0, softmax +0.0; the spread is +0.0.",
        "Class-aware, from softmax: focal +0.0, softmax +0.0; the spread is +0.0.",
    ]


def test_which_losses_are_tried(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "squares", images=4)
    args = loss_functions.Args(datasets=(data,), val=(data,))
    made = study_command.base(args, "losses")
    every = loss_functions.arms(made, 0.001)
    assert len(every) == 2 * 14 + 1
    assert next(iter(every)) == "dist-CE, natural"
    assert not [name for name in every if name.startswith("Co-BCE")]
    federated = every["federated, natural"](0).model.classification
    assert federated.classes == 1, "of three classes not all are drawn"
    some = loss_functions.arms(made, 0.001, ("softmax", "Seesaw"))
    assert [*some] == [f"{loss}, {rule}" for rule in ("natural", "class-aware") for loss in ("softmax", "Seesaw")]
    assert "dist-CE, repeat-factor" in loss_functions.arms(made, 0.001, ("BCE", "dist-CE"))
    with pytest.raises(InputError, match="there is no 'hinge'"):
        loss_functions.arms(made, 0.001, ("hinge",))
    # where classes are parts of others: what nobody verified is absent, but for parts
    manifest = Manifest.load(data)
    ids = [c.source_id for c in manifest.space.classes]
    replace(manifest, exhaustive=False, hierarchy=Hierarchy(parents=(), parts=((ids[0], ids[1]),))).save(data)
    parts = {name: arm(0) for name, arm in loss_functions.arms(made, 0.001).items()}
    assert [parts[f"{name}, natural"].data.unverified for name in ("BCE", "BCE, all absent", "Co-BCE")] == [
        "unknown", "absent", "absent_but_parts",
    ]  # fmt: skip
    assert parts["Co-BCE, class-aware"].model == parts["BCE, class-aware"].model


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_arms_of_the_long_tail_see_equally_many_images(shared_data: Path, tmp_path: Path) -> None:
    data = ingest_published([shared_data / "coco_tiny"], str(tmp_path / "shards"), progress=False).folder
    args = long_tail.Args(dataset=data, out=str(tmp_path))
    arms = {name: arm(1) for name, arm in long_tail.arms(long_tail.experiment(args)).items()}
    assert [*arms] == ["natural", "lambda 0.7", "class-aware", "hybrid"]
    assert {sum(phase.epochs for phase in arm.phases) for arm in arms.values()} == {long_tail.EPOCHS}
    assert arms["hybrid"].phases[0].sampling == arms["natural"].phases[0].sampling
    assert arms["hybrid"].phases[1].sampling == arms["lambda 0.7"].phases[0].sampling
    command = long_tail.experts_command(args, lambda seed: replace(arms["natural"], seed=seed))
    assert "--bands 30-43 " in command  # of the 43 classes with a box 14 are the tail
    assert len({word for word in command.split() if word.startswith(str(tmp_path))}) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("script", [ladder, long_tail], ids=lambda s: s.__name__)
def test_a_smoke_run(script: ModuleType, tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two arms, one of two phases with a loss that needs statistics, and on data of one's own."""
    told = {}
    if script is long_tail:
        told["dataset"] = ingest_published([shared_data / "coco_tiny"], str(tmp_path / "shards"), progress=False).folder
    args = script.Args(smoke=True, out=str(tmp_path), tracking="off", concurrent=2, **told)
    script.main(args)
    said = capsys.readouterr().out
    name = script.__name__.removeprefix("script_")
    assert f"{name}-smoke: 2 trainings, " in said
    (table,) = tmp_path.glob(f"{name}-smoke/*.md")
    rows = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert not [cell for row in rows[2:] for cell in row.split("|")[2:3] if cell.strip() == "-"]
    # again: nothing is trained
    script.main(args)
    assert f"{name}-smoke: 2 trainings, 0 to be made" in capsys.readouterr().out
