"""The page on scaling is true: commands run or parse, YAML loads, numbers are computed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clips import moving_square, write_clip

from vidcomp.pipelines.cli import main
from vidcomp.pipelines.extraction.ray_options import ray_settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()
COSTS = ROOT / "docs" / "benchmarks" / "fleet_costs.json"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def lines(language):
    """Command lines, with those that go on put together."""
    text = "\n".join(blocks(language)).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in text.splitlines() if line.strip()]


def entrypoint():
    (text,) = blocks("yaml")
    return yaml.safe_load(text)["spec"]["entrypoint"]


def extractions():
    """The words of every ``vidcomp extract`` of the page."""
    found = [*lines("console"), *lines("bash"), entrypoint()]
    found = [shlex.split(line)[-1] if " bash -c " in line else line for line in found]
    return [
        shlex.split(line.split("vidcomp extract ", 1)[1], comments=True)
        for line in found
        if "vidcomp extract " in line
    ]


def context_of(words):
    return main.commands["extract"].make_context("extract", list(words))


@pytest.fixture
def scripts():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


def test_the_commands_for_one_machine_run(vidcomp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for name in ("clip.mp4", "other.mp4", "third.mp4"):
        write_clip(tmp_path / "clips" / name, moving_square(12, 64, 96, seed=len(name)), fps=10)
    printed = []
    for line in lines("console"):
        program, *words = shlex.split(line)
        assert program == "vidcomp"
        result = vidcomp(*words)
        assert result.code == 0, f"{line}\n{result.out}{result.err}"
        printed.append(result.out)
    assert len(printed) == 6
    assert "3 to do" in printed[0]
    assert (tmp_path / "run.jsonl").stat().st_size > 100


def test_every_extraction_of_the_page_is_one_that_the_command_takes():
    assert len(extractions()) > 8
    for words in extractions():
        options = context_of(words).params
        ray_settings(options)
        assert options["manifest"] or options["inputs"]


def test_the_batch_script_is_one_command_for_one_task_of_an_array():
    script = next(block for block in blocks("bash") if block.startswith("#!"))
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    settings = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script, flags=re.MULTILINE))
    assert len(settings) == script.count("#SBATCH")
    words = shlex.split(script.replace("\\\n", " ").split("vidcomp extract ")[1])
    options = context_of(words).params
    assert options["shard"] is None  # so that the array's variables count
    assert str(options["workers"]) == settings["cpus-per-task"]
    assert settings["signal"].startswith("B:TERM")
    assert "exec vidcomp" in script  # or the signal would end the shell only


def test_the_cluster_of_kuberay_fits_its_command():
    (text,) = blocks("yaml")
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    (worker,) = group["template"]["spec"]["containers"]
    asked = context_of(shlex.split(entrypoint().split("vidcomp extract ", 1)[1])).params
    ray = ray_settings(asked)
    assert (ray.address, ray.max_actors) == ("auto", group["maxReplicas"])
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert int(worker["resources"]["limits"]["nvidia.com/gpu"]) == 1
    assert int(worker["resources"]["limits"]["cpu"]) > asked["workers"]
    (main_of_head,) = head["template"]["spec"]["containers"]
    assert main_of_head["image"] == worker["image"]
    mounted = {mount["name"] for mount in worker["volumeMounts"]}
    assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}


def test_the_simulations_of_the_page_are_ones_that_the_script_takes(scripts, monkeypatch):
    import simulate_fleet

    called = [line for line in lines("bash") if "simulate_fleet.py" in line]
    assert len(called) >= 2
    for line in called:
        monkeypatch.setattr(sys, "argv", shlex.split(line)[1:])
        assert simulate_fleet.parsed().videos >= 1e6


def test_the_worked_numbers_are_those_of_the_measured_costs(scripts):
    from fleet_parts.costs import load_costs
    from fleet_parts.tables import rate_rows, storage_rows

    costs = load_costs(COSTS)
    for row in rate_rows(costs, length_s=60, frames_per_s=2000):
        assert f"| {' | '.join(map(str, row))} |" in PAGE
    for name, tokens, width, _, total, _ in storage_rows(costs):
        assert f"| `{name}` | {tokens} | {width} | {total:,.0f} |" in PAGE


def test_what_the_page_says_of_the_simulation_is_what_came_out():
    record = json.loads((COSTS.parent / "fleet.json").read_text())
    said = PAGE.split("Of ten million videos")[1].split("The table is in")[0]
    place = {name: i for i, name in enumerate(record["header"])}
    rows = [{name: row[i] for name, i in place.items()} for row in record["rows"]]
    for row in rows:
        if (
            row["work is handed out"] in ("fixed parts", "leases")
            and row["nodes lost an hour"] != "0%"
        ):
            continue
        assert re.search(rf"\b{row['x bound']:.2f}".rstrip("0") + r"\b", said), row
    assert {row["work wasted"] for row in rows[6:8]} == {"0.07%"}
    assert "0.07 %" in said
    assert "10,000,000" in record["title"]
