"""Experts for rare classes (paper 003): a general detector goes on as detectors of some classes; then all together.

    python experiments/experts.py quickstart --run experts
    python experiments/experts.py ~/xray_det/runs/o365 --run experts --bands 151-300 301-365 --test ~/data/o365@test
    python experiments/experts.py quickstart --run experts --set phases.0.epochs=4 phases.0.lr=0.0005
    python experiments/experts.py --longer --from-scratch        # the claim, on the miniature of the claims

GENERAL is a run's name or folder, or a weights folder. Its classes are ranked by training instances. An expert learns
those of a band of ranks, from the general detector's weights, on the images that hold one of them: the general
detector's last phase once more (--set changes it). Bands are 151-300 and 301-365 for 365 classes as in the paper, else
the middle and the last third. Experts are trained side by side as far as the cluster has room.

Then the detections of all are combined: `own`, a class belongs to the expert that learned it, otherwise to the general
detector; `union`, all detections, then suppression class by class; `wbf`, weighted boxes fusion. The table has a row a
detector and combination, measured on *all* images of --test (or of the validation data), not only on those that hold
rare classes: over the classes that the detector has AP, AP of each band of ranks, how many have an AP of 0, and how
many rose and fell against the general detector. The combination is chosen by the validation data, never by --test;
without --test the table says that it was chosen on the same images.

Two controls: --longer trains the general detector on, on all images, for as many images as the experts saw together, in
whole epochs and at least one; --from-scratch trains the experts by the same phases but not from the general detector.

Several general detectors (one training with several seeds) each get experts of their own, in the folders RUN-0, RUN-1,
…, and one table more: means over them, differences with their spread, and whether experts raised their bands.

Without GENERAL the claim is tried: the natural training of xray_det/orchestrate/claims.py, with each of --seeds seeds,
is the general detector, made first unless it is there; experts have half its learning rate, as all that goes on from
another training there has. Fixed before anything was measured: the bands are the middle and the last third of the 44
classes, the experts' epochs the general detector's 12. "Raises its band" holds where the expert's AP in its band is
above the general detector's and both controls' by more than the spread: the standard deviation, over seeds, of the
difference between two detectors of one seed, all pairs together.

Start the same command again after whatever happened; finished trainings and detections are kept, a finished table is
printed at once.

Cost: the experts' epochs, which are as long as their images are many; then every detector predicts the images once. The
claim on two cores: 8 minutes for the two general trainings, 19 for their experts and controls.
Expect: a band's AP rises where the general detector had seen its classes too seldom; that of `own` in a band is its
expert's, and other classes stay as they are.

Result of the claim (trained at commit 591f565; experiments/results/experts.md): AP on the noise that was trained on,
mean of two seeds, in parentheses the gain over the general detector:

                       all classes    ranks 1-15      16-29          30-44
    general            44.0           58.8            39.9           33.0
    expert 16-29                                      68.5 (+28.7)
    expert 30-44                                                     47.5 (+14.6)
    longer             58.3 (+14.3)   68.8 (+10.1)    57.8 (+17.9)   48.3 (+15.3)
    own                58.1 (+14.1)   58.8 (+0.0)     68.5 (+28.7)   47.5 (+14.6)
    wbf                58.0 (+14.0)   58.8 (+0.0)     69.0 (+29.1)   47.0 (+14.0)
    from scratch                                      11.9 (-28.0)    5.6 (-27.3)

Experts raise their band: holds for 16-29, which is 10.8 above the general detector that was trained as much longer;
does not hold for 30-44, 0.7 below it (spread 3.1 and 1.8). All together gain 14.1 on the general detector and nothing
on the longer one (-0.2): more training may be the greater part of such a gain. `own` raises 26 of the 44 classes and
lowers 3 with either seed, the longer training raises 40 and 41. A head start is needed: from scratch experts end far
below. Paper 003 (Objects365, without a control that trains as long): the expert for ranks 301-365 takes them from
18.4 to 29.5, and the whole goes from 29.6 to 29.9 with it and to 30.7 with that for 151-300.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from xray_det import storage
from xray_det.errors import InputError
from xray_det.orchestrate.command_line import Placed, assigned, choose, read_ranks
from xray_det.orchestrate.study_command import RESULTS, beyond, called, called_by, points

if TYPE_CHECKING:
    from rich.console import Console

    from xray_det.data.annotations import Selection
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.experts import Band, Scores
    from xray_det.orchestrate.results import Row

#: In the run folder, written last: what was measured, and what was asked.
RESULT = "experts.json"
#: Names of detectors: that with which experts begin, and the control that goes on with it.
GENERAL, LONGER = "general", "longer"


@dataclass(frozen=True, kw_only=True)
class Args(Placed):
    """Which detector, and what of it."""

    general: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="GENERAL …")] = ()
    """The detector to begin with: a run's name or folder, or a weights folder; or one for each of several seeds."""
    bands: tuple[str, ...] = ()
    """FIRST-LAST …, ranks by training instances."""
    val: tuple[str, ...] = ()
    """Datasets to choose on, FOLDER or FOLDER@SPLIT; the general detector's own unless given."""
    test: tuple[str, ...] = ()
    """Datasets to report on; those to choose on unless given."""
    set: tuple[str, ...] = ()
    """PATH=VALUE … of the experts' experiment, for example phases.0.lr=0.001."""
    longer: bool = False
    """Also train the general detector on for as long as the experts together."""
    from_scratch: bool = False
    """Also train the experts without the general detector's weights."""
    max_concurrent: int | None = None
    """Trainings side by side; as many as the cluster has room for unless given."""
    gpus_per_worker: float = 1.0
    """Below 1, trainings share a GPU."""
    mlflow_experiment: str = "experts"
    """Name of the MLflow experiment."""
    seeds: int = 2
    """General detectors that are made where none is given."""
    smoke: bool = False
    """Where none is given: one of a few images and steps."""
    results: str | None = None
    """Folder for the table over several general detectors, RUN.md; experiments/results where they are made, else the
    runs' own."""


def main(args: Args) -> None:
    """Train, combine, measure, print; what is done is not done again."""
    from xray_det.display import terminal

    console, name = terminal(), called(args, "experts", smoke=args.smoke)
    if not args.general:
        args = of_the_claims(args, console)
    if len(args.general) == 1:
        experts_of(args, args.general[0], name, console)
        return
    found = [experts_of(args, one, f"{name}-{number}", console) for number, one in enumerate(args.general)]
    runs = args.out or storage.join(storage.home(), "runs")
    text, address = over_seeds(found), storage.join(args.results or runs, f"{name}.md")
    storage.write_bytes(address, text.encode())
    from rich.text import Text

    from xray_det.display import lines

    console.print(Text(lines(text)), f"table: {address}", sep="\n", soft_wrap=True)


def of_the_claims(args: Args, console: "Console") -> Args:
    """With the natural trainings of the claims as general detectors."""
    from xray_det.orchestrate import claims
    from xray_det.orchestrate.study import Study, Training, run_study, seeded

    general, seeds = claims.experiment(smoke=args.smoke), 1 if args.smoke else args.seeds
    out = storage.join(args.out or storage.join(storage.home(), "runs"), "studies")
    study = Study(
        name="general",
        arms={"natural": seeded(general)},
        seeds=seeds,
        metrics=claims.METRICS,
        epoch_s=claims.EPOCH_S,
    )
    here = storage.join(out, "general")  # a record elsewhere does not hold the weights
    run_study(study, out=out, results=here, command=called_by(), tracking=args.tracking, console=console)
    made = [Training.of("natural", replace(general, seed=seed), out).experiment.folder for seed in range(seeds)]
    lr = f"phases.0.lr={general.phases[0].lr / 2:g}"
    results = args.results or (None if args.smoke else str(RESULTS))
    return replace(args, general=tuple(made), set=(lr, *args.set), results=results)


def experts_of(args: Args, general: str, name: str, console: "Console") -> dict[str, Any]:
    """One general detector's experts, and what they were measured at."""
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.experts import choose_bands

    experiment = configure(args, general, name)
    bands = choose_bands(prepare(experiment), [read_ranks("--bands", text) for text in args.bands])
    for band in bands:
        most, least = band.instances
        console.print(f"expert {band.label}: {len(band.names)} classes of {most} to {least} training instances")
    test = reported_on(args.test, experiment)
    asked = {"test": list(args.test), "longer": args.longer, "from_scratch": args.from_scratch}
    trained = train_all(args, experiment, bands, console)
    address = storage.join(experiment.folder, RESULT)
    if not storage.exists(address) or storage.read_json(address)["asked"] != asked:
        result = measured(experiment, bands, trained, test)
        storage.write_json(address, {"asked": asked, **result})
        track(experiment.folder, result)
    found: dict[str, Any] = storage.read_json(address)
    conclude(found, console)
    console.print(f"folder    {experiment.folder}", soft_wrap=True)
    return found


def configure(args: Args, general: str, name: str) -> "Experiment":
    """The experts' experiment, but for their classes."""
    from xray_det.data.manifest import VALIDATION
    from xray_det.orchestrate.experts import expert_experiment, find_weights

    experiment = expert_experiment(find_weights(general), name)
    experiment = replace(experiment, out=args.out or "")
    if args.val:
        val = tuple(choose(text, VALIDATION) for text in args.val)
        experiment = replace(experiment, data=replace(experiment.data, val=val))
    return assigned(experiment, args.set).absolute()


def reported_on(texts: Sequence[str], experiment: "Experiment") -> "tuple[Selection, ...]":
    """The images of --test.

    Raises:
        InputError: a dataset and split of them is one that the combination is chosen on.
    """
    from xray_det.data.manifest import Manifest

    test = tuple(choose(text, ("test", "val")) for text in texts)
    chosen = [(Manifest.load(one.folder).fingerprint, one.split) for one in experiment.data.val]
    for text, one in zip(texts, test, strict=True):
        reported = Manifest.load(one.folder).fingerprint
        splits = [split for content, split in chosen if content == reported]
        if one.split in splits or None in splits or (splits and one.split is None):
            problem = f"its images (split {one.split or 'all'}) are those that the combination is chosen on"
            raise InputError(f"--test {text}", problem, "Give other images, or --val FOLDER@SPLIT to choose on others")
    return test


def train_all(
    args: Args, experiment: "Experiment", bands: "Sequence[Band]", console: "Console"
) -> "dict[str, dict[str, Row]]":
    """The experts, and the controls that are asked for: kind -> detector's name -> its training."""
    classes = {band.label: band.names for band in bands}
    going_on = as_long(experiment, bands) if args.longer else None  # first: it may be impossible
    trained = {"experts": train_each(args, experiment, classes, console)}
    if going_on is not None:
        trained[LONGER] = train_each(args, going_on, {LONGER: experiment.data.classes}, console)
    if args.from_scratch:
        scratch = replace(experiment, name=f"{experiment.name}-scratch", start_from=None)
        trained["scratch"] = train_each(args, scratch, classes, console)
    return trained


def as_long(experiment: "Experiment", bands: "Sequence[Band]") -> "Experiment":
    """The phases on all images, in whole epochs as long as the experts' together."""
    from xray_det.orchestrate import search
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.experts import drawn_images

    experts = [replace(experiment, data=replace(experiment.data, classes=band.names)) for band in bands]
    share = sum(drawn_images(prepare(e)) for e in experts) / drawn_images(prepare(experiment))
    return replace(search.shortened(experiment, share, 0), name=f"{experiment.name}-longer")


def train_each(
    args: Args, experiment: "Experiment", classes: "Mapping[str, tuple[str, ...] | None]", console: "Console"
) -> "dict[str, Row]":
    """A training for each set of classes, as many side by side as there is room for."""
    from xray_det.orchestrate.arms import Arms
    from xray_det.orchestrate.sweep import sweep

    values = {name: None if names is None else list(names) for name, names in classes.items()}
    found = sweep(
        Arms(experiment=experiment, space={"data.classes": list(values.values())}),
        tracking=args.tracking,
        mlflow_experiment=args.mlflow_experiment,
        max_concurrent=args.max_concurrent,
        gpus_per_worker=args.gpus_per_worker,
        console=console,
    )
    rows = {name: next(r for r in found.rows if r.values["data.classes"] == value) for name, value in values.items()}
    if failed := next((row for row in rows.values() if not row.weights), None):
        raise InputError(failed.folder, f"has no result: {failed.reason}", "Mend it and remove the experts' folder")
    return rows


def measured(
    experiment: "Experiment",
    bands: "Sequence[Band]",
    trained: "dict[str, dict[str, Row]]",
    test: "tuple[Selection, ...]",
) -> dict[str, Any]:
    """Everything on the images to choose on, and on those to report on."""
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.experts import best_combination, instance_counts, score_all

    assert experiment.start_from is not None
    names = {(kind, name): name if kind == LONGER else f"{kind} {name}" for kind in trained for name in trained[kind]}
    weights = {names[kind, name]: row.weights for kind, rows in trained.items() for name, row in rows.items()}
    detectors = {GENERAL: experiment.start_from, **weights}
    images = {"val": experiment.data.val, **({"test": test} if test else {})}
    scores: dict[str, list[Scores]] = {
        kind: score_all(
            detectors,
            [names["experts", band.label] for band in bands],
            selections,
            storage.join(experiment.folder, "detections", kind),
            experiment=experiment,
            bands=bands,
            counts=instance_counts(prepare(experiment)),
        )
        for kind, selections in images.items()
    }
    return {
        "weights": detectors,
        "cost": {names[kind, name]: dict(row.cost) for kind, rows in trained.items() for name, row in rows.items()},
        "chosen": best_combination(scores["val"]),
        "scores": {kind: [one.to_json() for one in found] for kind, found in scores.items()},
    }


def track(folder: str, result: dict[str, Any]) -> None:
    """The numbers and a figure a dataset, to the experts' MLflow run."""
    from xray_det.tracking.journal import Journal
    from xray_det.tracking.resend import resend

    with Journal(folder, "experts") as journal:
        for kind, found in result["scores"].items():
            for one in map(read_scores, found):
                figure = by_rank(one)
                journal.figure(f"by_rank_{kind}_{one.key.replace('/', '_')}", figure)
                for detector in one.ap:
                    gained = one.gains(detector)
                    numbers = {"AP": gained.ap, **{f"AP_{band}": value for band, value in gained.bands.items()}}
                    counts = {"zero": gained.zero, "rose": gained.rose, "fell": gained.fell}
                    name = f"{kind}/{one.key}/{detector.replace(' ', '_')}"
                    journal.log({f"{name}/{key}": value for key, value in {**numbers, **counts}.items()}, step=0)
        journal.tags({"chosen": result["chosen"]})
        journal.json("experts", result)
    resend(folder, patience_s=60)


def by_rank(scores: "Scores") -> Any:
    """Average precision against rank, a line a detector."""
    from xray_det.evaluation.figures import classes_by_frequency
    from xray_det.evaluation.measured import ClassRow

    return classes_by_frequency(
        {
            detector: [
                ClassRow(name=name, count=count, ap=value)
                for name, count, value in zip(scores.names, scores.counts, values, strict=True)
            ]
            for detector, values in scores.ap.items()
        }
    )


def general_first(detector: str) -> tuple[bool, str]:
    """JSON keeps no order."""
    return detector != GENERAL, detector


def others_first(band: str) -> tuple[bool, str]:
    return band != "others", band


def read_scores(value: dict[str, Any]) -> "Scores":
    from xray_det.orchestrate.experts import Scores

    return Scores(**value)


def conclude(result: dict[str, Any], console: "Console") -> None:
    """A table a dataset of the images reported on."""
    from xray_det.display import Table

    reported = "test" if "test" in result["scores"] else "val"
    for scores in map(read_scores, result["scores"][reported]):
        title = f"{scores.key}, all {reported} images"
        bands = sorted(scores.bands, key=others_first)
        table = Table("detector", "AP", *bands, "AP 0", "rose", "fell", title=title)
        for column in table.columns[1:]:
            column.justify = "right"
        for detector in sorted(scores.ap, key=general_first):
            gained = scores.gains(detector)
            values = (gained.ap, *(gained.bands[band] for band in bands))
            cells = ["-" if value != value else f"{100 * value:.1f}" for value in values]
            counts = [str(gained.rose), str(gained.fell)] if detector != GENERAL else ["", ""]
            mark = " (chosen)" if detector == result["chosen"] else ""
            table.add_row(f"{detector}{mark}", *cells, f"{gained.zero} of {gained.classes}", *counts)
        console.print(table)
    if reported == "val":
        console.print(f"{result['chosen']} was chosen on these images: its lead over the others flatters it")


# Over several general detectors


def over_seeds(results: "Sequence[Mapping[str, Any]]") -> str:
    """A table a dataset of the images reported on, and whether the experts raised their bands."""
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.tracking.environment import commit

    parts, reported = ["# experts"], "test" if "test" in results[0]["scores"] else "val"
    for seeds in zip(*(map(read_scores, result["scores"][reported]) for result in results), strict=True):
        measured = {name: [numbers(one, name) for one in seeds] for name in sorted(seeds[0].ap, key=general_first)}
        columns = {name: name for name in measured["general"][0]}
        found = OverSeeds.of(measured, columns)
        parts += [f"{seeds[0].key}, all {reported} images", found.markdown(), moved(seeds), *verdicts(found)]
    chosen = ", ".join(result["chosen"] for result in results)
    where = "" if reported == "test" else " (on these images, which flatters them)"
    parts.append(
        f"{len(results)} general detectors; combinations chosen: {chosen}{where}; `{called_by()}` at commit {commit()}"
    )
    return "\n\n".join(parts) + "\n"


def moved(seeds: "Sequence[Scores]") -> str:
    """How many classes rose, fell, and have an AP of 0, of the detectors of all classes; a number a general one."""
    told = []
    every = [name for name in sorted(seeds[0].ap, key=general_first) if of_all_classes(seeds[0], name)]
    for name in every[1:]:
        gained = [one.gains(name) for one in seeds]
        rose, fell, zero = (" and ".join(str(getattr(g, what)) for g in gained) for what in ("rose", "fell", "zero"))
        told.append(f"{name} {rose} rose, {fell} fell, {zero} at 0")
    at_zero = " and ".join(str(one.gains(GENERAL).zero) for one in seeds)
    return f"Classes, of {len(seeds[0].names)}: general {at_zero} at 0; {'; '.join(told)}."


def numbers(scores: "Scores", detector: str) -> dict[str, float]:
    """AP, where the detector has all classes, and of each band."""
    gained = scores.gains(detector)
    overall = gained.ap if of_all_classes(scores, detector) else float("nan")
    return {"AP": overall, **{band: gained.bands[band] for band in sorted(gained.bands, key=others_first)}}


def of_all_classes(scores: "Scores", detector: str) -> bool:
    return scores.gains(detector).classes == scores.gains(GENERAL).classes


def verdicts(found: "OverSeeds") -> list[str]:
    """Whether each expert is better in its band than the general detector, and than those controls that were made, by
    more than the spread; and what the combinations gain."""
    overall, _, *bands = found.metrics
    lines = []
    for band in bands:
        spread = found.spread(band)
        rivals = [name for name in (GENERAL, LONGER, f"scratch {band}") if name in found.arms]
        ahead = {name: found.difference(band, f"experts {band}", name)[0] for name in rivals}
        told = ", ".join(f"{points(gain)} above {name}" for name, gain in ahead.items())
        held = beyond(spread, *ahead.values())
        lines.append(f"Expert {band} raises its band: {held}. It is {told}; the spread is {points(spread)}.")
    gains = {name: found.difference(overall, name)[0] for name in ("own", "union", "wbf")}
    held = beyond(found.spread(overall), max(gains.values()))
    told = ", ".join(f"{name} {points(gain)}" for name, gain in gains.items())
    lines.append(f"Together they raise the whole: {held}. {told}; the spread is {points(found.spread(overall))}.")
    return lines


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"experts.py: {error}")
