# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Systems that are not of this package, in the same table."""

import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest
from transformers import AutoTokenizer

from tests.standins import StandInLLaDA, StandInLLaDAConfig
from transformers_fsdfm.adapters import LLaDAAdapter
from transformers_fsdfm.evaluation import EvaluationSettings, evaluate_models
from transformers_fsdfm.evaluation import run as run_module
from transformers_fsdfm.evaluation.settings import Cell


MODES = ("unconditional", "prefix-50")


@pytest.fixture(scope="module")
def llada(world, tmp_path_factory):
    """A stand-in for LLaDA, with its code beside the weights and the tokenizer of the scorer."""
    folder = tmp_path_factory.mktemp("llada")
    tokenizer = AutoTokenizer.from_pretrained(world.scorer)
    StandInLLaDAConfig.register_for_auto_class()
    StandInLLaDA.register_for_auto_class("AutoModel")
    config = StandInLLaDAConfig(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    StandInLLaDA(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make(world, llada, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "save_plots", lambda report, folder: [])

    def make(**changes) -> EvaluationSettings:
        given = {
            "models": [str(world.fsdfm)],
            "systems": [f"llada={llada}"],
            "baselines": [f"ar={world.scorer}"],
            "system_options": {"temperature": 1.0},
            "trust_remote_code": True,
            "reference": [str(world.reference)],
            "scorers": [str(world.scorer)],
            "out": tmp_path / "out",
            "steps": (2, 4),
            "seeds": (0,),
            "num_samples": 20,
            "batch_size": 8,
            "num_resamples": 100,
            "modes": MODES,
            "metrics": ("generative_perplexity", "token_entropy"),
            "device": "cpu",
        }
        return EvaluationSettings(**{**given, **changes})

    return make


def test_diffusion_models_have_a_row_for_each_number_of_steps_and_baselines_one(make):
    cells = make(modes=(*MODES, "infill-50")).cells()
    assert [cell for cell in cells if cell.model == "llada"] == [
        Cell(mode, "llada", "own", steps) for mode in MODES for steps in (2, 4)
    ]
    assert [cell for cell in cells if cell.model == "ar"] == [Cell(mode, "ar", "own", 0) for mode in MODES]
    assert len([cell for cell in cells if cell.model == "fsdfm"]) == 6


def test_all_systems_continue_the_same_prompts_and_stand_in_one_table(make, world, tmp_path):
    pairs = [("fsdfm@2", "llada@4"), ("fsdfm@4", "ar")]
    report = evaluate_models(make(compare=pairs))
    rows = {(row.mode, row.cell.model, row.cell.num_steps): row for row in report.rows if row.cell}
    assert len(rows) == 2 * (2 + 2 + 1)
    assert all(row.values["perplexity[scorer]"].value > 1 for row in rows.values())
    assert rows["prefix-50", "llada", 4].speed.num_function_evaluations == 4
    assert rows["prefix-50", "ar", 0].speed.num_function_evaluations == 8  # a run for each token
    # The scorer knows its own samples best of all.
    perplexity = {key: row.values["perplexity[scorer]"].value for key, row in rows.items()}
    assert min(perplexity, key=perplexity.get)[1] == "ar"
    compared = [
        (one.pair.first.model, one.pair.second.model) for one in report.comparisons if one.measure.is_exponential
    ]
    assert compared == [("fsdfm", "llada"), ("fsdfm", "ar")] * 2

    tokenizer = AutoTokenizer.from_pretrained(world.fsdfm)
    files = [parquet.read_table(file).to_pydict() for file in (tmp_path / "out" / "samples").rglob("prefix-50--*")]
    assert len(files) == 5
    starts = {tuple(tuple(ids[:8]) for ids in one["token_ids"]) for one in files}
    assert len(starts) == 1
    for one in files:
        for ids, editable, text, written in zip(
            one["token_ids"], one["editable"], one["text"], one["written"], strict=True
        ):
            assert editable[:8] == [False] * 8
            assert all(editable[8:])
            start = text[: written[0][0]] if written else text
            given = tokenizer.decode(ids[:8]).replace("<|endoftext|>", "\n\n")
            assert start == given


def test_batches_of_a_system_differ_and_seeds_repeat(make, tmp_path):
    texts = {}
    for name in ("first", "second"):
        evaluate_models(make(out=tmp_path / name, steps=(2,), modes=("unconditional",)))
        for file in (tmp_path / name / "samples").rglob("*.parquet"):
            texts[name, file.parent.name] = parquet.read_table(file).to_pydict()["text"]
    for system in ("fsdfm", "llada", "ar"):
        assert texts["first", system] == texts["second", system]
        assert len(set(texts["first", system])) > 15


def test_text_of_another_tokenizer_is_counted_in_the_tokens_of_the_report(make, world, tmp_path):
    evaluate_models(make(steps=(2,), modes=("unconditional",)))
    tokenizer = AutoTokenizer.from_pretrained(world.fsdfm)
    (file,) = (tmp_path / "out" / "samples" / "ar").iterdir()
    rows = parquet.read_table(file).to_pydict()
    for ids, text in zip(rows["token_ids"], rows["text"], strict=True):
        assert tokenizer.decode(np.array(ids)) == text


def test_options_reach_the_system(make, monkeypatch):
    seen = []
    continue_ = LLaDAAdapter._continue

    def note(self, *arguments):
        seen.append((self.block_length, self.temperature, self.stop_at_eos, arguments[2]))
        return continue_(self, *arguments)

    monkeypatch.setattr(LLaDAAdapter, "_continue", note)
    evaluate_models(make(steps=(4,), modes=("prefix-50",), system_options={"temperature": 0.5, "block_length": 2}))
    assert set(seen) == {(2, 0.5, False, 4)}


def test_what_does_not_belong_among_other_systems_is_refused(make, world, llada, tmp_path):
    with pytest.raises(ValueError, match="is a DFM or FS-DFM: name it among the models"):
        evaluate_models(make(systems=[f"x={world.dfm}"]))
    with pytest.raises(ValueError, match="brings its own code: read it, then pass `trust_remote_code`"):
        evaluate_models(make(trust_remote_code=False))
    with pytest.raises(ValueError, match="two systems are called 'fsdfm'"):
        make(baselines=[f"fsdfm={world.scorer}"])
    with pytest.raises(ValueError, match="takes MODEL@STEPS"):
        make(compare=[("llada", "fsdfm@2")])
    with pytest.raises(ValueError, match="'ar' is not among the `models`: fsdfm, llada"):
        make(compare=[("ar@2", "fsdfm@2")])
    with pytest.raises(ValueError, match="`system_options` are of no use without `systems`"):
        make(systems=[])
    with pytest.raises(ValueError, match="'euler' is not among the `solvers`: own"):
        make(compare=[("llada@2@euler", "fsdfm@2")])
    shutil.copytree(world.scorer, tmp_path / "plain")
    (tmp_path / "plain" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        evaluate_models(make(baselines=[f"ar={tmp_path / 'plain'}"]))
