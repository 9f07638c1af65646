"""The likelihood bound against the trainer's evaluation and a closed form."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import generator, tiny_config, tiny_model
from tests.trainer.toy import Rows, arguments
from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.metrics.likelihood_bound.functional import likelihood_bound
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer
from transformers_fsdfm.trainer.step_sizes import evaluation_times


def random_rows(rows: int = 6, length: int = 12) -> torch.Tensor:
    return torch.randint(2, 60, (rows, length), generator=generator(0))


@pytest.mark.parametrize(
    "changes", [{}, {"step_size_conditioning": False}, {"source_distribution": "mask"}], ids=["fsdfm", "dfm", "mask"]
)
def test_it_is_what_the_trainer_gives(changes, tmp_path):
    model, rows = tiny_model(**changes), random_rows()
    trainer = DFMTrainer(model, arguments(tmp_path, per_device_eval_batch_size=4, eval_num_times=3, eval_seed=5))
    expected = trainer.evaluate(Rows(rows))["eval_loss"]
    for batch_size in (1, 4, 6):
        result = likelihood_bound(rows, model, batch_size=batch_size, num_times=3, seed=5)
        assert result["nats_per_token"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("source", "chance"), [("mask", 0), ("uniform", 1 / 60)])
def test_a_model_that_knows_nothing_has_the_bound_of_its_vocabulary(source, chance):
    model = FSDFMForDiffusionLM(tiny_config(source_distribution=source))  # fresh: all logits are 0
    result = likelihood_bound(random_rows(64, 32), model, num_times=8, batch_size=64)
    schedule, times = model.config.flow_schedule, evaluation_times(8)
    wrong = (1 - schedule.kappa(times)) * (1 - chance)  # the share of tokens that are not the real ones
    # The path loss where x_t is wrong, p(x_t) + log p(x_1), and where it is right, p(x_t) - 1; a mask has p(x_t) = 0.
    bracket = wrong * (chance - math.log(60)) + (1 - wrong) * (1 / 60 - 1)
    expected = -(schedule.velocity_scalar(times) * bracket).mean().item()
    assert result["nats_per_token"] == pytest.approx(expected, rel=0.02)
    assert result["perplexity_bound"] == pytest.approx(math.exp(result["nats_per_token"]))


class EqualTokens(nn.Module):
    """The exact posterior of the law "four equal tokens, 0 or 1", from a mask source."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        size = {"vocab_size": 2, "hidden_size": 4, "num_attention_heads": 1, "max_position_embeddings": 4}
        self.config = tiny_config(**size, source_distribution="mask", mask_token_id=2, step_size_conditioning=False)
        self.head = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.head.weight)

    def base_model(self, input_ids: Tensor, **_) -> SimpleNamespace:
        seen = torch.stack([(input_ids == token).any(-1) for token in (0, 1)], dim=-1)  # (rows, 2)
        logits = torch.where(seen.any(-1, keepdim=True) & ~seen, -50.0, 0.0)
        return SimpleNamespace(last_hidden_state=logits[:, None].expand(-1, 4, -1))

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_an_exact_model_has_the_entropy_of_the_data_and_still_bad_samples_in_one_step():
    model, rows = EqualTokens(), torch.randint(2, (4000, 1), generator=generator(0)).expand(4000, 4)
    result = likelihood_bound(rows, model, batch_size=4000, num_times=32)
    assert 4 * result["nats_per_token"] == pytest.approx(math.log(2), rel=0.03)
    # One step draws every position by itself: only 2 of 2^4 equally likely sequences have four equal tokens.
    masked = torch.full((4000, 4), 2)
    probs = model.head(model.base_model(masked).last_hidden_state).softmax(-1)
    samples = torch.multinomial(probs.flatten(0, 1), 1, generator=generator(1)).reshape(4000, 4)
    impossible = (samples != samples[:, :1]).any(-1).float().mean().item()
    assert impossible == pytest.approx(7 / 8, abs=0.02)


def test_values_of_sequences_add_up(tokenizer):
    rows = [row[: 3 + index] for index, row in enumerate(random_rows().tolist())]  # of different lengths
    result = likelihood_bound(rows, tiny_model(), tokenizer=tokenizer, batch_size=4)
    per_sequence = result["per_sequence"]
    assert per_sequence["tokens"] == [3, 4, 5, 6, 7, 8]
    assert result["tokens"] == 33
    assert result["nats_per_token"] == pytest.approx(sum(per_sequence["nll"]) / 33)
    assert per_sequence["bytes"] == [len(tokenizer.decode(row)) for row in rows]
    expected = sum(per_sequence["nll"]) / math.log(2) / sum(per_sequence["bytes"])
    assert result["bits_per_byte"] == pytest.approx(expected)
    assert "bits_per_byte" not in likelihood_bound(rows, tiny_model())


def test_padding_does_not_matter():
    model, rows = tiny_model(), [row[: 12 - index] for index, row in enumerate(random_rows().tolist())]
    alone = likelihood_bound(rows, model, batch_size=1)["per_sequence"]["nll"]
    assert likelihood_bound(rows, model, batch_size=6)["per_sequence"]["nll"] == pytest.approx(alone, rel=1e-4)


def test_given_tokens_stay_clean_and_do_not_count():
    model, rows = tiny_model(), random_rows(3, 8)
    mask = torch.arange(8).expand(3, 8) >= 5
    result = likelihood_bound(rows, model, editable_mask=mask)
    assert result["per_sequence"]["tokens"] == [3, 3, 3]
    seen = []
    model.model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True)
    assert likelihood_bound(rows, model, editable_mask=mask) == result
    assert len(seen) == 16
    assert all(torch.equal(ids[:, :5], rows[:, :5]) for ids in seen)
    assert not all(torch.equal(ids[:, 5:], rows[:, 5:]) for ids in seen)


def test_options_matter():
    model, rows = tiny_model(), random_rows()
    base = likelihood_bound(rows, model)
    assert likelihood_bound(rows, model) == base
    for option in ({"seed": 1}, {"num_times": 4}, {"time_epsilon": 0.1}, {"step_size": 0.5}):
        changed = likelihood_bound(rows, model, **option)
        assert changed["nats_per_token"] != base["nats_per_token"]
        assert changed["settings"] == {**base["settings"], **option}


def test_the_mode_of_the_model_stays_and_dropout_is_off():
    model = tiny_model(hidden_dropout_prob=0.5).train()
    assert likelihood_bound(random_rows(), model) == likelihood_bound(random_rows(), model)
    assert model.training


@pytest.mark.parametrize(
    ("predictions", "options", "error", "message"),
    [
        ([], {}, ValueError, "`predictions` is empty"),
        (["a text"], {}, TypeError, "must be token ids"),
        ([[1, 2], []], {}, ValueError, r"`predictions\[1\]` has no tokens"),
        ([[1, 60]], {}, ValueError, r"outside of the model's vocabulary, \[0, 60\)"),
        ([[-1]], {}, ValueError, "outside of the model's vocabulary"),
        ([[1, 2]], {"editable_mask": [[True]]}, ValueError, r"`editable_mask\[0\]` has 1 entries"),
        ([[1, 2]], {"editable_mask": [[False, False]]}, ValueError, "false everywhere"),
        ([[1, 2]], {"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ([[1, 2]], {"num_times": 0}, ValueError, "`num_times` must be at least 1"),
        ([[1, 2]], {"time_epsilon": 0}, ValueError, "`time_epsilon` must be in"),
        ([[1, 2]], {"step_size": 0.0}, ValueError, "`step_size` must be in"),
    ],
)
def test_bad_input_is_refused(predictions, options, error, message):
    with pytest.raises(error, match=message):
        likelihood_bound(predictions, tiny_model(), **options)


def test_another_model_is_refused():
    with pytest.raises(TypeError, match="`model` must be an FSDFMForDiffusionLM, but got Linear"):
        likelihood_bound([[1]], torch.nn.Linear(1, 1))
