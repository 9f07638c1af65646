"""The recipe of the shipped checkpoints, at a size that takes seconds."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from transformers_fsdfm.trainer.recipes import tinystories
from transformers_fsdfm.trainer.recipes.tinystories import card, stages
from transformers_fsdfm.trainer.recipes.tinystories.publish import CHECKSUMS, checksum, publish_flow


FOLDER = Path(tinystories.__file__).parent


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> dict[str, str]:
    """A file to train on, and one to evaluate on."""
    folder = tmp_path_factory.mktemp("text")
    for name, number in (("train", 60), ("valid", 20)):
        stories = [f"Once upon a time Tom had {count} red apples and a dog. The end." for count in range(number)]
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return {name: str(folder / f"{name}.txt") for name in ("train", "valid")}


def stored_dtypes(folder: Path) -> set[str]:
    """Of the weights in the file, whatever they become in memory."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def run(text, tmp_path_factory) -> Path:
    """The run folder of the toy recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("run")
        toy = stages.read_settings(FOLDER / "toy.yaml")
        stages.run_recipe(toy, [text["train"]], [text["valid"]], folder)
    return folder


def test_published_folders_load_and_generate(run):
    for name, is_fsdfm, num_steps in (("dfm-tinystories", False, 16), ("fsdfm-tinystories", True, 8)):
        model = AutoModel.from_pretrained(run / name)
        tokenizer = AutoTokenizer.from_pretrained(run / name)
        assert not list((run / name).glob("*.py"))
        noted = json.loads((run / name / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert not noted.keys() & {"is_local", "local_files_only"}
        assert model.dtype == torch.float32
        assert stored_dtypes(run / name) == {"BF16"}
        assert model.config.step_size_conditioning == is_fsdfm
        assert model.config.max_position_embeddings == tokenizer.model_max_length == 32
        assert GenerationConfig.from_pretrained(run / name).num_steps == num_steps
        assert isinstance(tokenizer.decode(model.generate()[0]), str)


def test_a_stage_generates_the_length_and_in_the_steps_that_it_was_trained_for(run):
    for name, length, num_steps in (("dfm-short", 16, 1024), ("dfm", 32, 1024), ("fsdfm", 32, 8)):
        settings = AutoModel.from_pretrained(run / name, trust_remote_code=True).generation_config
        assert (settings.max_length, settings.num_steps) == (length, num_steps), name


def test_weights_are_those_that_were_trained(run):
    trained = AutoModel.from_pretrained(run / "dfm", trust_remote_code=True)
    shipped = AutoModel.from_pretrained(run / "dfm-tinystories")
    for (name, weight), (_, half) in zip(trained.named_parameters(), shipped.named_parameters(), strict=True):
        assert torch.equal(weight.bfloat16().float(), half), name


def test_the_few_step_model_is_averaged_with_its_dfm_but_for_the_layers_of_the_step_size(run):
    dfm, fsdfm = (AutoModel.from_pretrained(run / name, trust_remote_code=True) for name in ("dfm", "fsdfm-spread"))
    shipped = AutoModel.from_pretrained(run / "fsdfm-tinystories")
    of_dfm = dict(dfm.named_parameters())
    for (name, weight), (_, half) in zip(fsdfm.named_parameters(), shipped.named_parameters(), strict=True):
        assert (name in of_dfm) == ("step_size_embedding" not in name)
        mean = 0.6 * weight + 0.4 * of_dfm[name] if name in of_dfm else weight
        torch.testing.assert_close(half, mean, rtol=2**-8, atol=1e-7, msg=name)
    assert "a share of\n0.4 for the DFM" in (run / "fsdfm-tinystories" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("last", "share", "message"),
    [
        ("fsdfm-spread", 1.0, r"`dfm_share` must be in \[0, 1\), but got 1.0"),
        ("dfm", 0.4, "`dfm_share` needs an FS-DFM"),
    ],
)
def test_an_average_that_means_nothing_is_refused(run, tmp_path, last, share, message):
    with pytest.raises(ValueError, match=message):
        publish_flow([run / "dfm", run / last], tmp_path / "shipped", {}, dfm_share=share)
    assert not (tmp_path / "shipped").exists()


def test_checksums_are_those_of_the_files(run):
    lines = (run / "fsdfm-tinystories" / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    assert set(listed) == {"model.safetensors", "tokenizer.json"}
    assert all(checksum(run / "fsdfm-tinystories" / name) == value for name, value in listed.items())


def test_model_card_tells_the_stages_and_their_bounds(run):
    text = (run / "fsdfm-tinystories" / "README.md").read_text(encoding="utf-8")
    rows = {cells[1]: cells for line in text.splitlines() if (cells := [cell.strip() for cell in line.split("|")])[1:]}
    blocks = {"dfm-short": 16, "dfm": 32, "fsdfm-short": 16, "fsdfm": 32}
    for stage, block_size in blocks.items():
        evaluation = json.loads((run / stage / "eval_results.json").read_text(encoding="utf-8"))
        _, _, steps, length, tokens, hours, bound, bits, _ = rows[f"`{stage}`"]
        assert (steps, length, tokens) == ("3", str(block_size), f"{3 * 2 * block_size / 1e6:.1f}M")
        assert float(hours) < 0.1
        assert (bound, bits) == (f"{evaluation['eval_loss']:.3f}", f"{evaluation['eval_bits_per_byte']:.3f}")
    assert "num_steps=8" in text
    assert "`spread_candidates=True`" in text
    assert "{" not in text


def test_hours_are_those_between_each_start_and_its_last_line():
    runs = [{"started": "2026-01-01T00:00:00+00:00"}, {"started": "2026-01-02T00:00:00+00:00"}]
    first, second = (datetime.fromisoformat(run["started"]).timestamp() for run in runs)
    lines = [{"time": first + 60}, {"time": first + 3600}, {"time": second + 1800}]
    assert card._seconds(runs, lines) == 3600 + 1800


def test_scorer_reads_the_same_tokens(run):
    scorer = AutoModelForCausalLM.from_pretrained(run / "scorer")
    tokenizer = AutoTokenizer.from_pretrained(run / "scorer")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(run / "fsdfm-tinystories").get_vocab()
    ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    assert torch.isfinite(scorer(ids, labels=ids).loss)


def test_published_scorer_is_the_trained_one_with_its_card(run):
    trained, shipped = (AutoModelForCausalLM.from_pretrained(run / name) for name in ("scorer", "gpt2-tinystories"))
    ids = torch.arange(16)[None]
    assert shipped.dtype == torch.float32
    assert stored_dtypes(run / "gpt2-tinystories") == {"BF16"}
    assert torch.allclose(trained(ids).logits, shipped(ids).logits, atol=0.05)
    vocabulary = AutoTokenizer.from_pretrained(run / "gpt2-tinystories").get_vocab()
    assert vocabulary == AutoTokenizer.from_pretrained(run / "fsdfm-tinystories").get_vocab()
    loss = json.loads((run / "scorer" / "eval_results.json").read_text(encoding="utf-8"))["eval_loss"]
    assert f"| {loss:.3f} |" in (run / "gpt2-tinystories" / "README.md").read_text(encoding="utf-8")


def test_what_is_done_is_not_done_again(run, text):
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*.safetensors")}
    toy = stages.read_settings(FOLDER / "toy.yaml")
    stages.run_recipe(toy, [text["train"]], [text["valid"]], run)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*.safetensors")} == before


def test_the_real_recipe_has_the_stages_of_the_toy():
    real, toy = (stages.read_settings(FOLDER / f"{name}.yaml") for name in ("recipe", "toy"))
    assert [(name, stage["kind"], stage.get("start_from")) for name, stage in real.items()] == [
        (name, stage["kind"], stage.get("start_from")) for name, stage in toy.items()
    ]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"kind": "train"}, "must have a `kind` out of"),
        ({"kind": "distill", "start_from": "later"}, "starts from later, which is not before it"),
        ({"kind": "scorer"}, "must name, in `start_from`, the stage that it starts from"),
        ({"kind": "publish"}, "must name, in `start_from`, the stage that it starts from"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, stage, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump({"first": stage, "later": {"kind": "pretrain"}}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        stages.read_settings(file)
