"""train.py: what the command line makes of an experiment, without training."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import load

from xray_det import storage
from xray_det.errors import InputError
from xray_det.orchestrate.command_line import configure
from xray_det.train.phase import Phase

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "orchestrate"))
from made_dataset import experiment, write_dataset  # noqa: E402

script = load("train")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares", images=4)


def configured(**args: Any) -> Any:
    return configure(script.Args(**args), name="train", phases=(Phase(),))


def test_datasets_and_settings_make_an_experiment(dataset: str, tmp_path: Path) -> None:
    made = configured(
        datasets=(dataset,),
        run="mine",
        out=str(tmp_path),
        set=("phases.0.sampling=SoftBalance", "phases.0.sampling.lam=0.3", "phases.0.lr=0.5", "batch=4", "workers=2"),
    )
    assert made.folder == str(tmp_path / "mine")
    assert (made.batch, made.workers, made.phases[0].lr) == (4, 2, 0.5)
    assert made.phases[0].sampling.lam == 0.3
    assert [(s.folder, s.split) for s in made.data.train] == [(dataset, None)]


def test_what_show_prints_is_a_config_file(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = {"datasets": (dataset,), "run": "mine", "set": ("seed=3",)}
    script.main(script.Args(**args, show=True))
    file = tmp_path / "experiment.json"
    file.write_text(capsys.readouterr().out)
    assert configured(config=file) == configured(**args)
    tree = json.loads(file.read_text())
    tree["phases"].append({**tree["phases"][0], "lr": 0.125})
    file.write_text(json.dumps(tree))
    assert [phase.lr for phase in configured(config=file, run="two").phases][1] == 0.125


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seed", "has no ="),
        ("sede=1", "no field 'sede'"),
        ("phases.0.sampling.lam=0.3", "Natural has no field 'lam'"),
        ("phases.0.lr=-1", "not positive"),
        ("workers=3", "3 workers cannot share a global batch of 16"),
    ],
)
def test_impossible_settings_are_refused(dataset: str, setting: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        configured(datasets=(dataset,), set=(setting,))


def test_nothing_to_train_on_is_told() -> None:
    with pytest.raises(InputError, match="ingested dataset"):
        configured()
    with pytest.raises(InputError, match="no ingested dataset lies here"):
        configured(datasets=("nowhere",))


def test_replay_names_the_images_and_the_layer(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.worker import weight_saver
    from xray_det.train.evidence import Diverged
    from xray_det.train.loop import run
    from xray_det.train.plain import PlainContext

    made = experiment(dataset, tmp_path, batch=2, workers=1, ema=None)
    prepared = prepare(made)

    class Batches:
        def steps_per_epoch(self, phase: int) -> int:
            return 2

        def batches(self, phase: int, epoch: int, start: int, stop: int) -> Any:
            settings = made.phases[phase]
            plan = prepared.loader.plan(settings.sampling_at(epoch, 2), settings.ratio, phase, epoch)
            return prepared.loader.batches(plan, phase, epoch, start, stop)

    detector = made.model.build(3)
    with torch.no_grad():
        detector.class_head.last.weight[0] = float("nan")
    with pytest.raises(Diverged) as caught:
        run(
            PlainContext(Batches(), tmp_path),
            prepared.recipe,
            detector,
            weight_saver(prepared),
        )
    command = storage.read_bytes(f"{caught.value.folder}/replay.txt").decode()
    assert command == f"python experiments/train.py --replay {caught.value.folder}"
    script.main(script.Args(replay=caught.value.folder))
    shown = capsys.readouterr().out
    assert "loss classification: nan (in training nan)" in shown
    assert "not finite: class_head.last" in shown
    assert "image-" in shown
