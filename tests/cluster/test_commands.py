"""Every command that cluster/ tells somebody to run, or runs, is parsed by the program that it is for."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from manifests import CLUSTER, COMPOSE, LAUNCHERS, ROOT, environment, load, pods

README = (CLUSTER / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


def parse(group: click.Group, words: list[str]) -> click.Context:
    """What ``click`` makes of a command line; it raises what it does not understand."""
    command: click.Command = group
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"no command {name}"
        command = found
    return command.make_context(command.name, words)


def ray_commands() -> Iterator[str]:
    for path in LAUNCHERS:
        config = load(path)
        yield from config["head_start_ray_commands"]
        yield from config["worker_start_ray_commands"]
    for line in LINES:
        if line.startswith("ray "):
            yield line


@pytest.mark.parametrize("line", sorted(set(ray_commands())))
def test_ray(line: str) -> None:
    from ray.scripts.scripts import cli

    words = shlex.split(re.split(r" (?:>|&)", line)[0], comments=True)
    assert words[0] == "ray"
    context = parse(cli, words[1:])
    if "entrypoint" in context.params:  # of a job: a script of ours
        python, script, *_ = context.params["entrypoint"]
        assert python == "python"
        assert (ROOT / script).is_file()


def mlflow_servers() -> Iterator[tuple[list[str], set[str]]]:
    """Command and environment of the servers."""
    for pod in pods():
        if pod.name == "mlflow":
            yield pod.containers[0]["command"], set(environment(pod.containers[0]))
    service = load(COMPOSE)["services"]["mlflow"]
    yield service["command"], set(service["environment"])


@pytest.mark.medium
@pytest.mark.parametrize("number", [0, 1], ids=["kubernetes", "compose"])
def test_mlflow(number: int) -> None:
    import mlflow.cli
    from mlflow import environment_variables

    (program, *words), variables = list(mlflow_servers())[number]
    assert program == "mlflow"
    context = parse(mlflow.cli.cli, words)
    assert (context.params["host"], context.params["port"]) == ("0.0.0.0", 5000)
    read = {parameter.envvar for parameter in context.command.params}
    read |= {getattr(value, "name", None) for value in vars(environment_variables).values()}
    assert {name for name in variables if name.startswith("MLFLOW_")} <= read


@pytest.mark.medium
@pytest.mark.parametrize("script", ["experiments/ingest.py", "experiments/train.py"])
def test_scripts_understand_their_options(script: str) -> None:
    """Each ``python experiments/…`` of the README, by what the script says of itself."""
    commands = re.findall(r"-- python (\S+) (.*)", "\n".join(LINES))
    assert script in {name for name, _ in commands} <= {"experiments/ingest.py", "experiments/train.py"}
    told = subprocess.run([sys.executable, ROOT / script, "--help"], check=True, capture_output=True, text=True).stdout
    for option in {option for name, rest in commands if name == script for option in re.findall(r"--[\w-]+", rest)}:
        assert re.search(rf"{option}\b", told.split("options")[1]), option


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_bash_reads_it(block: str) -> None:
    subprocess.run(["bash", "-n", "-c", block], check=True)


def test_the_job_knows_the_commit_of_what_is_uploaded() -> None:
    """The quoting survives the shell."""
    (line,) = [line for line in LINES if line.startswith("COMMIT=")]
    script = f'git() {{ echo 0123abc-dirty; }}\n{line}\nprintf %s "$COMMIT"'
    printed = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout
    assert printed == '{"env_vars": {"XRAY_DET_COMMIT": "0123abc-dirty"}}'


def test_the_readme_and_the_files_know_each_other() -> None:
    for name in set(re.findall(r"\bcluster/[\w./-]*\w", README)) - {"cluster/mlflow/.env"}:  # which a command writes
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:kuberay|mlflow|launcher)/[\w.]+)`", README):
        assert (CLUSTER / name).is_file(), name
    for path in CLUSTER.rglob("*.yaml"):
        assert str(path.relative_to(CLUSTER)) in README, f"{path.name} is not mentioned"


def test_the_image_of_the_readme_takes_our_place_everywhere() -> None:
    (line,) = [line for line in LINES if line.startswith("sed ")]
    pattern = re.search(r"s\|(.*?)\|", line)
    assert pattern
    for path in CLUSTER.glob("*/*.yaml"):
        text = path.read_text()
        assert text.count(pattern[1]) == len(re.findall(r"xray-det:\d", text)), path
