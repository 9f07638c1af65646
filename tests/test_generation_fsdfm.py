"""generate(): each option shows its effect, each bad input its error."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TextDiffusionStreamer, TextStreamer
from transformers.generation import (
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TopPLogitsWarper,
)

from tests.conftest import generator, tiny_config, tiny_model
from tests.test_flow_fsdfm import LOGITS, assert_follows, exact_transition
from transformers_fsdfm import FSDFMGenerationConfig, FSDFMGenerationMixin
from transformers_fsdfm import generation_fsdfm as generation
from transformers_fsdfm import modeling_fsdfm as modeling
from transformers_fsdfm.flow_fsdfm import SOLVERS, SOURCE_DISTRIBUTIONS


PROMPT = torch.arange(2, 12)[None]


def run(model, *args, seed: int = 0, **kwargs):
    kwargs.setdefault("num_steps", 6)
    return model.generate(*args, generator=generator(seed), return_dict_in_generate=True, **kwargs)


class RecordedCalls:
    """Remembers what the backbone was asked."""

    def __init__(self, model):
        self.calls = []
        model.model.register_forward_pre_hook(lambda _, args, kwargs: self.calls.append(kwargs), with_kwargs=True)

    def column(self, name: str) -> list[float]:
        return [call[name].item() for call in self.calls]


class FrozenPosterior(nn.Module, FSDFMGenerationMixin):
    """A model whose posterior is the same whatever it sees, so that every law is known."""

    def __init__(self, **changes):
        super().__init__()
        self.config = tiny_config(vocab_size=3, max_position_embeddings=20000, mask_token_id=3, **changes)
        self.generation_config = FSDFMGenerationConfig.from_model_config(self.config)
        self.device = torch.device("cpu")

    def model(self, input_ids, **_):
        return SimpleNamespace(last_hidden_state=torch.zeros(*input_ids.shape, 1))

    def lm_head(self, hidden_states):
        return LOGITS.expand(len(hidden_states), 3)


class TestLaw:
    @pytest.mark.parametrize("source", SOURCE_DISTRIBUTIONS)
    @pytest.mark.parametrize("solver", SOLVERS)
    def test_every_step_has_the_exact_transition_law(self, solver, source):
        model = FrozenPosterior(source_distribution=source, schedule="cosine")
        grid = [0.0, 0.2, 0.55, 0.8, 1.0]
        out = run(model, solver=solver, time_grid=grid, num_steps=4, output_history=True)
        for before, after, start, end in zip(out.history, out.history[1:], grid, grid[1:], strict=False):
            law = exact_transition(solver, source, model.config.flow_schedule, start, end - start)
            for token in before.unique().tolist():
                assert_follows(after[before == token], law[token])

    def test_one_step_is_a_draw_from_the_posterior(self):
        assert_follows(run(FrozenPosterior(), num_steps=1).sequences, LOGITS.exp().double())

    def test_temperature_sharpens_the_posterior(self):
        tokens = run(FrozenPosterior(), temperature=0.5, num_steps=3).sequences
        assert_follows(tokens, (2 * LOGITS).softmax(-1).double())

    @pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 0.999])
    def test_top_p_is_that_of_transformers(self, top_p):
        logits = (
            torch.randn(300, 97, generator=generator(0), dtype=torch.float64) * torch.linspace(0.1, 9, 300)[:, None]
        )
        expected = TopPLogitsWarper(top_p)(None, logits)
        assert torch.equal(generation._NucleusWarper(top_p)(None, logits), expected)
        kept = expected.isfinite().sum(-1)
        assert kept.min() < 97 // 4 < kept.max() or top_p < 0.5  # both ways were taken

    def test_top_k_and_top_p_keep_the_most_likely_tokens(self):
        truncated = torch.tensor([2 / 3, 1 / 3, 0.0], dtype=torch.float64)
        assert_follows(run(FrozenPosterior(), top_k=2).sequences, truncated)
        assert_follows(run(FrozenPosterior(), top_p=0.7).sequences, truncated)
        assert_follows(run(FrozenPosterior(), top_p=1.0, top_k=60).sequences, LOGITS.exp().double())


class TestSteps:
    def test_network_is_asked_at_the_times_of_the_grid(self, model):
        calls = RecordedCalls(model)
        grid = [0.0, 0.5, 0.75, 1.0]
        out = run(model, time_grid=grid, num_steps=None, num_return_sequences=8)
        assert calls.column("time") == [0.0, 0.5, 0.75]
        assert calls.column("step_size") == [0.5, 0.25, 0.25]
        assert out.time_grid == grid

    def test_steps_are_equal_by_default(self, model):
        calls = RecordedCalls(model)
        run(model, num_steps=4, num_return_sequences=8)
        assert calls.column("time") == [0.0, 0.25, 0.5, 0.75]
        assert calls.column("step_size") == [0.25] * 4

    @pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
    def test_time_shift_makes_the_steps_near_the_data_smaller(self, model, shift):
        calls = RecordedCalls(model)
        out = run(model, num_steps=4, time_shift=shift, num_return_sequences=8)
        expected = [shift * u / (1 + (shift - 1) * u) for u in (0.0, 0.25, 0.5, 0.75, 1.0)]
        assert out.time_grid == pytest.approx(expected, abs=1e-12)
        assert out.time_grid[-1] == 1
        assert calls.column("step_size") == pytest.approx([b - a for a, b in itertools.pairwise(expected)], abs=1e-6)

    def test_time_shift_holds_for_the_rest_of_a_grid_that_is_planned_anew(self, model, monkeypatch):
        ticking = SimpleNamespace(now=0.0)
        model.model.register_forward_hook(lambda *_: setattr(ticking, "now", ticking.now + 1.0))
        monkeypatch.setattr(generation, "clock", SimpleNamespace(monotonic=lambda: ticking.now))
        out = run(model, num_steps=20, max_time=10.0, time_shift=3.0, num_return_sequences=16)
        assert len(out.time_grid) == 11
        unshifted = [time / (3 - 2 * time) for time in out.time_grid]  # equal steps after each plan, longer ones later
        steps = [after - before for before, after in itertools.pairwise(unshifted)]
        assert steps[0] == pytest.approx(1 / 20)
        assert steps[-1] == pytest.approx(steps[-2])
        assert steps[-1] > steps[0]

    def test_the_network_is_told_of_no_step_below_the_smallest(self, model):
        calls = RecordedCalls(model)
        grid = [0.0, 0.5, 0.625, 0.75, 0.875, 1.0]
        out = run(model, num_steps=5, time_grid=grid, min_step_size=0.25, num_return_sequences=8)
        assert out.time_grid == grid  # what the steps are does not change
        assert calls.column("time") == grid[:-1]
        assert calls.column("step_size") == [0.5, 0.25, 0.25, 0.25, 0.125]

    def test_a_network_that_is_not_told_the_step_size_has_no_smallest_one(self):
        model = tiny_model(step_size_conditioning=False)
        with pytest.raises(ValueError, match="`min_step_size` means nothing"):
            run(model, num_steps=4, min_step_size=0.5)

    def test_spread_candidates_do_not_change_side_by_side(self, model):
        settings = {"num_steps": 8, "output_history": True, "num_return_sequences": 4}
        gaps = {}
        for spread in (False, True):
            history = run(model, **settings, spread_candidates=spread).history
            gaps[spread] = [row.nonzero()[:, 0].diff() for row in history[0] != history[1]]
        assert all((row >= 5).all() for row in gaps[True])  # an eighth of the positions may change
        assert any((row < 5).any() for row in gaps[False])
        model.generation_config.spread_candidates = True
        again = run(model, **settings).history
        assert torch.equal(again[1], history[1])

    def test_plain_dfm_gets_no_step_size_and_many_steps_by_default(self):
        model = tiny_model(step_size_conditioning=False)
        calls = RecordedCalls(model)
        run(model, num_steps=3)
        assert all(call["step_size"] is None for call in calls.calls)
        assert model.generation_config.num_steps == 1024
        assert tiny_model().generation_config.num_steps == 8

    @pytest.mark.parametrize("num_steps", [1, 2, 1024, np.int64(5)])
    def test_any_number_of_steps_works(self, model, num_steps):
        out = run(model, num_steps=num_steps)
        assert out.sequences.shape == (1, 32)
        assert len(out.time_grid) == num_steps + 1
        assert 0 <= out.sequences.min() <= out.sequences.max() < 60

    def test_steps_in_which_nobody_moves_cost_nothing(self, model):
        calls = RecordedCalls(model)
        out = run(model, num_steps=1024, max_length=4, output_history=True)
        assert len(out.history) == 1025
        assert out.num_function_evaluations == len(calls.calls) < 60

    @pytest.mark.parametrize(("seconds", "expected"), [(100.0, 20), (10.0, 10), (0.1, 2)])
    def test_max_time_plans_the_rest_of_the_grid_anew(self, model, monkeypatch, seconds, expected):
        ticking = SimpleNamespace(now=0.0)
        model.model.register_forward_hook(lambda *_: setattr(ticking, "now", ticking.now + 1.0))
        monkeypatch.setattr(generation, "clock", SimpleNamespace(monotonic=lambda: ticking.now))
        out = run(model, num_steps=20, max_time=seconds, num_return_sequences=16)
        assert out.num_function_evaluations == expected
        assert out.time_grid[0] == 0
        assert out.time_grid[-1] == 1
        assert all(before < after for before, after in itertools.pairwise(out.time_grid))

    def test_one_slow_call_does_not_cost_steps_that_there_is_time_for(self, model, monkeypatch):
        calls, ticking = RecordedCalls(model), SimpleNamespace(now=0.0)
        model.model.register_forward_hook(
            lambda *_: setattr(ticking, "now", ticking.now + (10.0 if len(calls.calls) == 1 else 1.0))
        )
        monkeypatch.setattr(generation, "clock", SimpleNamespace(monotonic=lambda: ticking.now))
        out = run(model, num_steps=20, max_time=40.0, num_return_sequences=16)
        assert out.num_function_evaluations >= 14
        assert ticking.now <= 40

    def test_max_time_changes_nothing_where_there_is_enough(self, model):
        free = run(model, num_steps=40, seed=8)
        bounded = run(model, num_steps=40, seed=8, max_time=3600.0)
        assert torch.equal(bounded.sequences, free.sequences)
        assert bounded.time_grid == free.time_grid

    def test_max_time_is_kept_by_a_real_clock(self, model):
        out = run(model, num_steps=100_000, max_time=0.5, num_return_sequences=4)
        assert 1 <= out.num_function_evaluations < 100_000
        assert out.time_grid[-1] == 1

    def test_solvers_differ(self, model):
        results = [run(model, solver=solver).sequences.tolist() for solver in SOLVERS]
        assert len({str(result) for result in results}) == 3


class TestLengths:
    def test_unconditional_text_has_the_length_of_the_checkpoint(self, model):
        assert model.generate(num_steps=2).shape == (1, 32)

    def test_prompt_is_continued_to_max_length_or_by_max_new_tokens(self, model):
        for kwargs, length in (({}, 32), ({"max_length": 15}, 15), ({"max_new_tokens": 3}, 13)):
            out = run(model, PROMPT, **kwargs)
            assert out.sequences.shape == (1, length)
            assert torch.equal(out.sequences[:, :10], PROMPT)
            assert (out.last_changed_step[:, :10] == 0).all()

    def test_max_new_tokens_is_stronger_than_max_length(self, model):
        assert run(model, PROMPT, max_new_tokens=3, max_length=20).sequences.shape == (1, 13)

    def test_num_return_sequences_repeats_each_prompt(self, model):
        prompts = torch.stack([torch.arange(5), torch.arange(5, 10)])
        out = run(model, prompts, num_return_sequences=3, max_new_tokens=8)
        assert torch.equal(out.sequences[:, :5], prompts.repeat_interleave(3, 0))
        assert len({str(row) for row in out.sequences.tolist()}) == 6

    def test_text_beyond_the_trained_length_is_written_window_by_window(self, model):
        calls = RecordedCalls(model)
        out = run(model, PROMPT, max_length=77, num_steps=2, output_history=True)
        assert out.sequences.shape == (1, 77)
        assert {call["input_ids"].shape[1] for call in calls.calls} == {32}
        # Each later window starts with tokens that already stand: [0, 32), [16, 48), [32, 64), [45, 77).
        for call, start, settled in zip(calls.calls[2::2], (16, 32, 45), (32, 48, 64), strict=True):
            assert torch.equal(call["input_ids"][:, : settled - start], out.sequences[:, start:settled])
        assert out.time_grid == [0.0, *[0.5, 1.0] * 4]
        assert len(out.history) == 9
        assert (out.last_changed_step[:, 32:48] > 2).all()

    def test_odd_window_widths_write_every_position_once(self):
        model = tiny_model(max_position_embeddings=7)
        out = run(model, max_length=50, num_steps=1)
        assert (out.last_changed_step > 0).float().mean() > 0.9

    @pytest.mark.parametrize("width", [1, 2, 3, 7, 32])
    def test_windows_cover_the_editable_positions_without_overlap(self, width):
        editable = torch.rand(3, 61, generator=generator(width)) < 0.6
        written = torch.zeros(3, 61, dtype=torch.long)
        for window in generation._windows(editable, width):
            assert window.end - window.start <= width
            written[:, window.start : window.end] += window.editable
        assert torch.equal(written, editable.long())


class TestRandomness:
    def test_a_seed_gives_the_same_tokens(self, model):
        assert torch.equal(run(model, seed=3).sequences, run(model, seed=3).sequences)
        assert not torch.equal(run(model, seed=3).sequences, run(model, seed=4).sequences)

    def test_the_global_seed_is_the_default(self, model):
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(model.generate(num_steps=3).tolist())
        assert results[0] == results[1] != results[2]

    @pytest.mark.parametrize("source", SOURCE_DISTRIBUTIONS)
    def test_a_row_does_not_depend_on_its_batch(self, source, tokenizer):
        model = tiny_model(source_distribution=source)
        texts = ["w5 w6 w7", "w8 w9 w10 w11 w12 w13", "w14"]
        alone = [
            run(model, **tokenizer(text, return_tensors="pt"), seed=seed, max_new_tokens=12).sequences[0, -12:]
            for seed, text in enumerate(texts)
        ]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        seeds = [generator(0), generator(1), generator(2)]
        together = model.generate(**batch, num_steps=6, max_new_tokens=12, generator=seeds)
        assert torch.equal(together[:, -12:], torch.stack(alone))

    def test_first_row_of_a_batch_equals_the_same_prompt_alone(self, model):
        two = torch.cat([PROMPT, PROMPT + 20])
        assert torch.equal(run(model, two, seed=5).sequences[0], run(model, PROMPT, seed=5).sequences[0])


class TestInfilling:
    editable = torch.zeros(1, 10, dtype=torch.bool).index_fill_(1, torch.tensor([2, 3, 7]), True)

    def test_only_editable_positions_change(self, model):
        out = run(model, PROMPT, editable_mask=self.editable, output_history=True)
        assert out.sequences.shape == PROMPT.shape
        for canvas in out.history:
            assert torch.equal(canvas[~self.editable], PROMPT[~self.editable])
        assert not torch.equal(out.sequences[self.editable], PROMPT[self.editable])

    @pytest.mark.parametrize("source", SOURCE_DISTRIBUTIONS)
    def test_mask_tokens_are_filled_in(self, source):
        model = tiny_model(source_distribution=source)
        masked = PROMPT.masked_fill(self.editable, 60)
        by_token = run(model, masked).sequences
        assert torch.equal(by_token[~self.editable], PROMPT[~self.editable])
        assert by_token.max() < 60
        assert torch.equal(by_token, run(model, PROMPT, editable_mask=self.editable).sequences)

    def test_max_new_tokens_of_zero_only_fills_in(self, model):
        masked = PROMPT.masked_fill(self.editable, 60)
        assert torch.equal(run(model, masked, max_new_tokens=0).sequences, run(model, masked).sequences)

    def test_text_can_be_infilled_and_continued_at_once(self, model):
        out = run(model, PROMPT, editable_mask=self.editable, max_new_tokens=4)
        assert out.sequences.shape == (1, 14)
        assert (out.last_changed_step[0, [2, 3, 7]].sum() > 0) & (out.last_changed_step[0, 10:].sum() > 0)

    def test_nothing_editable_returns_the_input(self, model):
        calls = RecordedCalls(model)
        out = run(model, PROMPT, editable_mask=torch.zeros_like(self.editable))
        assert torch.equal(out.sequences, PROMPT)
        assert out.num_function_evaluations == len(calls.calls) == 0

    def test_padding_is_neither_read_nor_written(self, model):
        padded = torch.cat([torch.full((1, 3), 1), PROMPT], dim=1)
        attention_mask = (torch.arange(13) >= 3).long()[None]
        editable = torch.ones(1, 13, dtype=torch.bool)
        out = run(model, padded, attention_mask=attention_mask, editable_mask=editable)
        assert torch.equal(out.sequences[:, :3], padded[:, :3])
        inner = run(model, PROMPT, editable_mask=editable[:, 3:])
        assert torch.equal(out.sequences[:, 3:], inner.sequences)

    def test_padding_is_recognised_without_an_attention_mask(self, model):
        padded = torch.cat([torch.full((1, 3), 1), PROMPT], dim=1)
        given = run(model, padded, attention_mask=(padded != 1).long(), max_new_tokens=5)
        assert torch.equal(run(model, padded, max_new_tokens=5).sequences, given.sequences)

    def test_padding_may_lie_outside_the_vocabulary(self, model):
        padded = torch.cat([torch.full((1, 3), 999), PROMPT], dim=1)
        attention_mask = (padded != 999).long()
        out = run(model, padded, attention_mask=attention_mask, max_new_tokens=5)
        assert (out.sequences[:, :3] == 999).all()

    def test_once_unmasked_a_position_stays(self):
        model = tiny_model(source_distribution="mask")
        history = torch.cat(run(model, num_steps=12, output_history=True).history)
        settled = history != 60
        assert not settled[0].any()
        assert settled[-1].all()
        for before, after in itertools.pairwise(history):
            assert torch.equal(after[before != 60], before[before != 60])


class TestLastSteps:
    def test_final_temperature_zero_takes_the_most_likely_tokens(self, model):
        out = run(model, final_temperature=0, output_history=True)
        *_, before, final = out.history
        logits = model(before, torch.tensor(5 / 6), torch.tensor(1 / 6)).logits
        assert torch.equal(final, logits.argmax(-1))

    @pytest.mark.parametrize("final_temperature", [0, 0.01])
    @pytest.mark.parametrize(("grid", "first_final"), [([0, 0.5, 0.74, 0.75, 0.9, 1], 3), ([0, 0.3, 0.7, 1], 2)])
    def test_final_temperature_touches_the_last_step_and_those_from_three_quarters_on(
        self, model, grid, first_final, final_temperature
    ):
        settings = {"num_steps": None, "time_grid": grid, "output_history": True}
        plain, cold = (run(model, final_temperature=t, **settings).history for t in (None, final_temperature))
        differs = [not torch.equal(a, b) for a, b in zip(plain[1:], cold[1:], strict=True)]
        assert differs == [step >= first_final for step in range(len(grid) - 1)]

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_a_greedy_step_before_the_last_moves_candidates_to_the_most_likely_tokens(self, model, solver):
        grid = [0, 0.75, 0.9, 1]
        out = run(model, num_steps=None, time_grid=grid, solver=solver, final_temperature=0, output_history=True)
        before, after = out.history[-3:-1]
        most_likely = model(before, torch.tensor(grid[1]), torch.tensor(grid[2] - grid[1])).logits.argmax(-1)
        moved = before != after
        assert moved.any()
        assert not moved[before != most_likely].all()  # who is no candidate stays
        assert torch.equal(after[moved], most_likely[moved])

    def test_pad_after_eos_clears_what_follows_the_first_new_end(self, model):
        prompt = torch.tensor([[0, 5, 6]])  # an end-of-sequence token in the prompt does not count
        with torch.no_grad():
            model.lm_head.bias[[0, 7]] += 6
        plain = run(model, prompt, eos_token_id=[0, 7]).sequences[0, 3:].tolist()
        end = next(index for index, token in enumerate(plain) if token in (0, 7))
        padded = run(model, prompt, eos_token_id=[0, 7], pad_after_eos=True).sequences[0, 3:].tolist()
        assert padded == plain[: end + 1] + [1] * (len(plain) - end - 1)
        assert padded != plain


class TestOutput:
    def test_last_changed_step_follows_from_the_history(self, model):
        out = run(model, PROMPT, num_steps=9, output_history=True)
        expected = torch.zeros_like(out.sequences)
        for step, (before, after) in enumerate(itertools.pairwise(out.history), start=1):
            expected[before != after] = step
        assert torch.equal(out.last_changed_step, expected)
        assert torch.equal(out.history[-1], out.sequences)
        assert len(set(expected.flatten().tolist())) > 3

    def test_tokens_alone_are_the_default(self, model):
        assert isinstance(model.generate(num_steps=2), torch.Tensor)

    def test_history_is_kept_on_request_alone(self, model):
        assert run(model).history is None

    def test_progress_bar_appears_on_request(self, model, capfd):
        model.generate(num_steps=3)
        assert "step" not in capfd.readouterr().err
        model.generate(num_steps=3, progress_bar=True)
        assert "3/3" in capfd.readouterr().err


class CopyFirstToken(LogitsProcessor):
    """Allows only the token that the canvas of each candidate begins with."""

    def __call__(self, input_ids, scores):
        assert input_ids.shape == (len(scores), 32)
        return torch.full_like(scores, -math.inf).scatter(1, input_ids[:, :1], 0.0)


class TestHooks:
    def test_logits_processors_see_the_canvas_of_each_candidate(self, model):
        prompts = torch.tensor([[5], [9]])
        out = run(model, prompts, logits_processor=LogitsProcessorList([CopyFirstToken()]), max_length=32)
        assert torch.equal(out.sequences, prompts.expand(2, 32))

    def test_processors_of_transformers_work(self, model):
        allowed = [20, 21]
        processors = [
            SuppressTokensLogitsProcessor([token for token in range(60) if token not in allowed]),
            RepetitionPenaltyLogitsProcessor(1.3),
        ]
        assert set(run(model, logits_processor=LogitsProcessorList(processors)).sequences.flatten().tolist()) == {
            20,
            21,
        }

    def test_callback_sees_every_step_and_may_replace_the_canvas(self, model):
        seen = []

        def callback(model, step, time, tensors):
            seen.append((step, time))
            return {"sequences": torch.full_like(tensors["sequences"], 7)} if step == 2 else None

        out = model.generate(num_steps=3, callback_on_step_end=callback)
        assert seen == [(0, pytest.approx(1 / 3)), (1, pytest.approx(2 / 3)), (2, 1.0)]
        assert (out == 7).all()

    @pytest.mark.parametrize(
        "returned",
        [
            {"sequences": torch.zeros(1, 2).long()},
            {"sequences": torch.full((1, 32), 60)},
            {"sequence": torch.zeros(1, 32).long()},
            torch.zeros(1, 32).long(),
        ],
        ids=["shape", "vocabulary", "key", "type"],
    )
    def test_callback_that_returns_something_else_is_refused(self, model, returned):
        with pytest.raises(ValueError, match="`callback_on_step_end`"):
            model.generate(num_steps=2, callback_on_step_end=lambda *_: returned)

    def test_draft_streamer_shows_every_step(self, model, tokenizer, capsys):
        streamer = TextDiffusionStreamer(tokenizer)
        out = run(model, PROMPT, streamer=streamer, num_steps=4, max_new_tokens=6)
        printed = capsys.readouterr().out
        assert printed.count("\033[33m") == 4  # yellow drafts
        assert printed.startswith(tokenizer.decode(PROMPT[0, :9]))  # streamers hold back the last word
        assert printed.endswith(tokenizer.decode(out.sequences[0, 10:]).split()[-1] + "\n")

    def test_plain_streamer_gets_the_final_text(self, model, tokenizer, capsys):
        out = run(model, PROMPT, streamer=TextStreamer(tokenizer, skip_prompt=True), max_new_tokens=6)
        assert capsys.readouterr().out.split() == tokenizer.decode(out.sequences[0, 10:]).split()

    def test_streamer_shows_the_whole_text_while_infilling(self, model, tokenizer, capsys):
        out = run(model, PROMPT, streamer=TextStreamer(tokenizer), editable_mask=TestInfilling.editable)
        assert capsys.readouterr().out.split() == tokenizer.decode(out.sequences[0]).split()


class HostSyncs(TorchDispatchMode):
    """Counts the operations that would wait for a device: values read by Python, and shapes that depend on data."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        has_bool_index = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if has_bool_index or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("source", SOURCE_DISTRIBUTIONS)
def test_steps_never_wait_for_the_device(monkeypatch, source, padding):
    model = tiny_model(source_distribution=source)
    take_step, syncs = model._take_step, HostSyncs()
    monkeypatch.setattr(modeling, "_values_can_be_read", lambda _: False)  # as on an accelerator

    def watched_step(*args):
        with syncs:
            take_step(*args)

    monkeypatch.setattr(model, "_take_step", watched_step)
    attention_mask = (torch.arange(10) >= padding).long().expand(3, -1)
    run(model, PROMPT.expand(3, -1), attention_mask=attention_mask, temperature=0.9, top_k=20)
    assert syncs.seen == []
    with syncs:
        run(model, PROMPT)
    assert syncs.seen  # the counter does count


class TestSettings:
    def test_call_beats_config_beats_model_beats_default(self, model):
        model.generation_config.num_steps = 5
        model.generation_config.max_length = 20
        config = FSDFMGenerationConfig(max_length=12)
        assert len(model.generate(generation_config=config)[0]) == 12
        assert len(model.generate(generation_config=config, max_length=9)[0]) == 9
        out = model.generate(return_dict_in_generate=True)
        assert out.sequences.shape == (1, 20)
        assert len(out.time_grid) == 6

    def test_num_steps_of_the_call_replaces_a_stored_grid(self, model):
        model.generation_config.time_grid = [0.0, 0.7, 1.0]
        assert run(model, num_steps=None).time_grid == [0.0, 0.7, 1.0]
        assert len(run(model, num_steps=5).time_grid) == 6

    def test_grid_of_the_call_replaces_a_stored_shift(self, model):
        model.generation_config.time_shift = 3.0
        assert run(model, num_steps=2).time_grid == [0.0, 0.75, 1.0]
        assert run(model, num_steps=None, time_grid=[0.0, 0.5, 1.0]).time_grid == [0.0, 0.5, 1.0]

    def test_wrong_settings_are_not_saved_and_nothing_is_written(self, model, tmp_path):
        model.generation_config.spread_candidates = "evenly"
        with pytest.raises(ValueError, match="`spread_candidates`"):
            model.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()

    def test_plain_generation_config_is_understood(self, model):
        config = GenerationConfig(max_new_tokens=5, temperature=0.5, do_sample=True)
        assert model.generate(PROMPT, generation_config=config).shape == (1, 15)

    def test_unusual_settings_are_those_that_change_the_law_of_the_text(self):
        config = FSDFMGenerationConfig(num_steps=4, temperature=1.0, top_p=0.5, time_shift=2.0, spread_candidates=False)
        assert config.unusual_sampling() == {"time_shift": 2.0, "top_p": 0.5}

    def test_generation_config_is_left_alone(self, model):
        config = FSDFMGenerationConfig(max_length=12)
        before = config.to_dict(), model.generation_config.to_dict()
        model.generate(generation_config=config, num_steps=3, top_k=5)
        assert (config.to_dict(), model.generation_config.to_dict()) == before

    def test_settings_survive_saving_with_fields_of_a_newer_version(self, tmp_path):
        config = FSDFMGenerationConfig(num_steps=4, temperature=0.9, eos_token_id=[1, 2], top_p=0.5)
        config.field_of_the_future = 3
        config.save_pretrained(tmp_path)
        loaded = FSDFMGenerationConfig.from_pretrained(tmp_path)
        assert loaded.to_dict() == config.to_dict()
        assert loaded.field_of_the_future == 3

    def test_everything_is_set_in_a_loaded_model(self, model, tmp_path):
        """Else pipelines would fill the gaps with defaults for autoregressive models, such as a temperature of 0.7."""
        model.generation_config = FSDFMGenerationConfig(num_steps=4)
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path).generation_config
        assert loaded.num_steps == 4
        assert loaded.temperature == 1.0
        assert loaded.max_length == 32

    @pytest.mark.parametrize(
        ("keyword", "nearest"),
        [("num_stepz", "num_steps"), ("editible_mask", "editable_mask"), ("zzz", "known are"), ("seed", "generator")],
    )
    def test_unknown_keyword_suggests_the_nearest_name(self, model, keyword, nearest):
        with pytest.raises(ValueError, match=f"`{keyword}`.*{nearest}"):
            model.generate(**{keyword: 3})
        with pytest.raises(ValueError, match=f"`{keyword}`"):
            FSDFMGenerationConfig(**{keyword: 3})


class TestPrecision:
    def test_generating_with_dropout_is_warned_of(self, model, caplog):
        generation.logger.warning_once.cache_clear()
        with caplog.at_level("WARNING"):
            model.train().generate(num_steps=1)
        assert "model.eval()" in caplog.text

    def test_inference_mode(self, model):
        with torch.inference_mode():
            assert model.generate(PROMPT, num_steps=3).shape == (1, 32)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, model, dtype):
        assert run(model.to(dtype), PROMPT).sequences.max() < 60

    def test_compiled_in_place(self, model):
        expected = run(model, PROMPT).sequences
        model.compile(backend="aot_eager", fullgraph=True)
        assert torch.equal(run(model, PROMPT).sequences, expected)

    def test_compiled_wrapper(self, model):
        compiled = torch.compile(model, backend="aot_eager")
        assert torch.equal(run(compiled, PROMPT).sequences, run(model, PROMPT).sequences)

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_on_a_cpu_few_rows_at_a_time_give_the_same_texts(self, model, monkeypatch, solver):
        prompt = PROMPT.expand(5, -1)
        attention_mask = (torch.arange(10) >= torch.tensor([[0], [3], [1], [0], [2]])).long()
        settings = {"attention_mask": attention_mask, "num_steps": 40, "solver": solver, "top_k": 20}
        expected = run(model, prompt, **settings)
        monkeypatch.setattr(generation, "CPU_ACTIVATION_BYTES", 2 * 4 * model.config.intermediate_size * 32)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        shapes = []
        model.model.register_forward_pre_hook(
            lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        found = run(model, prompt, **settings)
        assert torch.equal(found.sequences, expected.sequences)
        assert torch.equal(found.last_changed_step, expected.last_changed_step)
        assert found.num_function_evaluations == expected.num_function_evaluations <= 40
        width = expected.sequences.shape[1]
        assert set(shapes) == {(32 * 2 // width, width), (1, width)}

    def test_rows_in_which_nobody_can_move_need_no_network(self, model, monkeypatch):
        monkeypatch.setattr(generation, "CPU_ACTIVATION_BYTES", 0)
        rows = []
        model.model.register_forward_pre_hook(
            lambda _, __, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        found = run(model, num_steps=400, num_return_sequences=4, output_history=True)
        moved = sum((before != after).any(-1).sum() for before, after in itertools.pairwise(found.history))
        assert set(rows) == {1}
        assert moved <= len(rows) < 2 * found.num_function_evaluations

    def test_many_candidates_go_through_the_head_in_pieces(self, model, monkeypatch):
        expected = run(model, num_return_sequences=3).sequences
        monkeypatch.setitem(generation.WORKSPACE_BYTES, "cpu", 5 * 8 * 32)
        rows = []
        model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
        assert torch.equal(run(model, num_return_sequences=3).sequences, expected)
        assert max(rows) == 5


def test_logits_that_are_not_numbers_are_reported_with_their_step(model):
    calls = RecordedCalls(model)
    nan_from = 3
    model.lm_head.register_forward_hook(
        lambda _, __, logits: logits * (math.nan if len(calls.calls) >= nan_from else 1.0)
    )
    for kwargs in ({}, {"solver": "posterior"}):
        with pytest.raises(RuntimeError, match="step 3 of 6"):
            run(model, num_return_sequences=4, **kwargs)
        calls.calls.clear()
    nan_from = 6
    with pytest.raises(RuntimeError, match="step 6 of 6"):
        run(model, num_return_sequences=4, final_temperature=0)


LONG = torch.zeros(1, 40, dtype=torch.long)
BAD_INPUTS = {
    "ids beyond the vocabulary": (
        ValueError,
        "`input_ids`.*61",
        {"input_ids": PROMPT.index_fill(1, PROMPT[0, :1], 61)},
    ),
    "negative ids": (ValueError, "`input_ids`.*-1", {"input_ids": -PROMPT + 1}),
    "float ids": (TypeError, "`input_ids`", {"input_ids": PROMPT.float()}),
    "bool ids": (TypeError, "`input_ids`", {"input_ids": PROMPT.bool()}),
    "ids without batch": (ValueError, "`input_ids`", {"input_ids": PROMPT[0]}),
    "list of ids": (ValueError, "`input_ids`", {"input_ids": [[1, 2]]}),
    "zero steps": (ValueError, "`num_steps`", {"num_steps": 0}),
    "negative steps": (ValueError, "`num_steps`", {"num_steps": -3}),
    "half a step": (ValueError, "`num_steps`", {"num_steps": 8.0}),
    "boolean steps": (ValueError, "`num_steps`", {"num_steps": True}),
    "grid that stands still": (ValueError, "`time_grid`", {"time_grid": [0.0, 0.5, 0.5, 1.0]}),
    "grid that goes back": (ValueError, "`time_grid`", {"time_grid": [0.0, 0.5, 0.4, 1.0]}),
    "grid beyond 1": (ValueError, "`time_grid`", {"time_grid": [0.0, 0.5, 1.5]}),
    "grid that starts late": (ValueError, "`time_grid`", {"time_grid": [0.1, 1.0]}),
    "grid that ends early": (ValueError, "`time_grid`", {"time_grid": [0.0, 0.9]}),
    "grid of one": (ValueError, "`time_grid`", {"time_grid": [0.0]}),
    "grid with NaN": (ValueError, "`time_grid`", {"time_grid": [0.0, math.nan, 1.0]}),
    "grid of words": (ValueError, "`time_grid`", {"time_grid": "linear"}),
    "shift of zero": (ValueError, "`time_shift`", {"time_shift": 0}),
    "spread by a word": (ValueError, "`spread_candidates`", {"spread_candidates": "evenly"}),
    "smallest step of zero": (ValueError, "`min_step_size` must be in", {"min_step_size": 0}),
    "shift beside a grid": (ValueError, "`time_shift`.*`time_grid`", {"time_grid": [0.0, 1.0], "time_shift": 2.0}),
    "grid against steps": (ValueError, "`num_steps`.*`time_grid`", {"time_grid": [0.0, 1.0], "num_steps": 3}),
    "mask of another shape": (ValueError, "`editable_mask`", {"editable_mask": torch.ones(1, 9, dtype=torch.bool)}),
    "mask of numbers": (TypeError, "`editable_mask`", {"editable_mask": torch.ones(1, 10)}),
    "mask without ids": (ValueError, "`editable_mask`", {"input_ids": None, "editable_mask": PROMPT.bool()}),
    "attention of another shape": (ValueError, "`attention_mask`", {"attention_mask": torch.ones(2, 10)}),
    "attention without ids": (ValueError, "`attention_mask`", {"input_ids": None, "attention_mask": PROMPT}),
    "unknown solver": (ValueError, "`solver`", {"solver": "heun"}),
    "temperature 0": (ValueError, "`temperature`.*final_temperature", {"temperature": 0.0}),
    "negative temperature": (ValueError, "`temperature`", {"temperature": -1.0}),
    "infinite temperature": (ValueError, "`temperature`", {"temperature": math.inf}),
    "negative final temperature": (ValueError, "`final_temperature`", {"final_temperature": -0.1}),
    "top_p 0": (ValueError, "`top_p`", {"top_p": 0.0}),
    "top_p beyond 1": (ValueError, "`top_p`", {"top_p": 1.1}),
    "top_k 0": (ValueError, "`top_k`", {"top_k": 0}),
    "max_time 0": (ValueError, "`max_time`", {"max_time": 0}),
    "prompt longer than max_length": (ValueError, "`max_length`", {"max_length": 7}),
    "prompt as long as max_length": (ValueError, "`max_length`", {"max_length": 10}),
    "prompt longer than the model": (ValueError, "`max_length`", {"input_ids": LONG}),
    "no new tokens": (ValueError, "`max_new_tokens=0`", {"max_new_tokens": 0}),
    "negative new tokens": (ValueError, "`max_new_tokens`", {"max_new_tokens": -1}),
    "tokenizer output not unpacked": (ValueError, "generate\\(\\*\\*inputs", {"input_ids": {"input_ids": PROMPT}}),
    "empty batch": (ValueError, "`input_ids`", {"input_ids": PROMPT[:0]}),
    "attention of other numbers": (ValueError, "`attention_mask`.*2", {"attention_mask": 2 * torch.ones(1, 10)}),
    "end beyond the vocabulary": (ValueError, "`eos_token_id`.*99", {"eos_token_id": 99}),
    "grid as a tensor": (ValueError, "`time_grid`.*tolist", {"time_grid": torch.tensor([0.0, 1.0])}),
    "settings as a dict": (TypeError, "`generation_config`", {"generation_config": {"num_steps": 3}}),
    "streamer that is none": (TypeError, "`streamer`", {"streamer": print}),
    "no return sequences": (ValueError, "`num_return_sequences`", {"num_return_sequences": 0}),
    "greedy decoding": (ValueError, "`do_sample=False`.*final_temperature", {"do_sample": False}),
    "pad after no end": (ValueError, "`pad_after_eos", {"pad_after_eos": True, "eos_token_id": None}),
    "seed for generator": (TypeError, "`generator`", {"generator": 3}),
    "generators for other rows": (ValueError, "`generator`.*1.*2", {"generator": [generator(0), generator(1)]}),
    "one processor, no list": (TypeError, "`logits_processor`", {"logits_processor": CopyFirstToken()}),
    "two rows on a streamer": (ValueError, "`streamer`", {"num_return_sequences": 2, "streamer": TextStreamer(None)}),
    "option of another sampler": (ValueError, "`num_beams`", {"num_beams": 4}),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_named_before_any_work_is_done(case):
    error, message, kwargs = BAD_INPUTS[case]
    model = tiny_model()
    if case == "pad after no end":
        model.config.eos_token_id = model.generation_config.eos_token_id = None
    calls = RecordedCalls(model)
    with pytest.raises(error, match=message):
        model.generate(**{"input_ids": PROMPT, **kwargs})
    assert calls.calls == []
