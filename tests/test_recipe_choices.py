"""The scripts behind the recipe's choices: each row is a training of the recipe with one thing changed."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from tests.benchmark_script import run_script, table_of
from transformers_fsdfm import FSDFMForDiffusionLM, available_configs


FSDFM_FOLDER = str(available_configs()["fsdfm-tinystories"])
STORIES = [f"Once upon a time Tom had {count} red apples and a dog that ran. The end." for count in range(90)]


@pytest.fixture
def files(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("train.txt", "valid.txt"):
        (tmp_path / name).write_text("\n<|endoftext|>\n".join(STORIES), encoding="utf-8")
    given = {"train-data": "train.txt", "validation-data": "valid.txt", "output-dir": "runs", "json": "json"}
    return [word for name, file in given.items() for word in (f"--{name}", str(tmp_path / file))]


def stage_settings(folder: Path, name: str) -> dict:
    return yaml.safe_load((folder / f"{name}.yaml").read_text())


def changed(folder: Path, first: str, second: str) -> dict:
    """What the second training has other than the first."""
    one, other = stage_settings(folder, first), stage_settings(folder, second)
    return {name: other.get(name) for name in one | other if one.get(name) != other.get(name) and name != "output_dir"}


def test_choices_of_the_dfm(files, tmp_path, monkeypatch, capsys):
    names = ["as in the recipe", "twice the rows, half the steps", "weights start at 0.1", "weight decay 0"]
    rows = table_of(run_script(monkeypatch, capsys, "dfm_choices.py", *files, "--choices", *names))
    assert [row["choice"] for row in rows] == [names[0], "average of the last quarter", *names[1:]]
    assert {row["tokens"] for row in rows} == {str(20 * 2 * 16)}
    assert [row["steps"] for row in rows] == ["20", "20", "10", "20", "20"]
    bounds = [row["bits per byte"] for row in json.loads((tmp_path / "json").read_text())["rows"]]
    assert len(set(bounds)) == 5, bounds
    assert all(2 < bound < 12 for bound in bounds), bounds

    runs = tmp_path / "runs"
    factor_two = {"per_device_train_batch_size": 4, "max_steps": 10}
    assert changed(runs, "as-in-the-recipe", "twice-the-rows-half-the-steps") == factor_two
    assert changed(runs, "as-in-the-recipe", "weight-decay-0") == {"weight_decay": 0.0}
    assert FSDFMForDiffusionLM.from_pretrained(runs / "weights-start-at-0-1").config.initializer_range == 0.1

    weights = [
        FSDFMForDiffusionLM.from_pretrained(runs / "as-in-the-recipe" / f"checkpoint-{step}").lm_head.weight
        for step in range(16, 21)
    ]
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from dfm_choices import mean_weights

    mean = mean_weights(sorted((runs / "as-in-the-recipe").glob("checkpoint-*")))
    torch.testing.assert_close(mean.lm_head.weight, torch.stack(weights).mean(0))


@pytest.mark.parametrize("script", ["dfm_choices.py", "distillation_choices.py"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--train-data", "nowhere.txt", "nowhere.txt"),
        ("--validation-data", "nowhere.txt", "nowhere.txt"),
        ("--steps", "0", "--steps must be at least"),
    ],
)
def test_bad_options_are_named_before_any_work(files, tmp_path, monkeypatch, capsys, script, option, value, message):
    with pytest.raises(SystemExit) as error:
        run_script(monkeypatch, capsys, script, *files, option, value)
    assert message in f"{error.value} {capsys.readouterr().err}"
    assert not (tmp_path / "runs").exists()


def test_choices_of_distillation(files, tmp_path, monkeypatch, capsys):
    names = ["as in the recipe", "teacher restricted to top-p 0.9", "twice as long"]
    options = ["distillation_choices.py", *files, "--choices", *names]
    rows = table_of(run_script(monkeypatch, capsys, *options))
    expected = [("real text", ""), *(("none: the DFM", steps) for steps in ("4", "8", "16"))]
    expected += [(name, steps) for name in names for steps in ("4", "8")]
    assert [(row["distillation"], row["steps"]) for row in rows] == expected
    assert all(float(row["perplexity"]) > 1 for row in rows)
    runs = tmp_path / "runs"
    assert changed(runs, "as-in-the-recipe", "teacher-restricted-to-top-p-0-9") == {"distillation_top_p": 0.9}
    assert changed(runs, "as-in-the-recipe", "twice-as-long") == {"max_steps": 4}

    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    again = table_of(run_script(monkeypatch, capsys, *options))  # samples again, trains nothing
    assert again == rows
    with pytest.raises(SystemExit, match=r"was trained with other settings \(max_steps\)"):
        run_script(monkeypatch, capsys, *options, "--steps", "3")
    with pytest.raises(SystemExit, match=r"was trained with other settings \(model_name_or_path\)"):
        run_script(monkeypatch, capsys, *options, "--dfm", FSDFM_FOLDER)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")} == before
