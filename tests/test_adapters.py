# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Every system through the one interface: seeds, counts, lengths, texts."""

import pytest
import torch
from torch import Tensor
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.conftest import generator, tiny_model
from tests.standins import (
    LogitsAlone,
    StandInDream,
    StandInDreamConfig,
    StandInLLaDA,
    StandInLLaDAConfig,
)
from transformers_fsdfm.adapters import (
    CausalLMAdapter,
    DiffusionGemmaAdapter,
    DreamAdapter,
    FSDFMAdapter,
    LLaDAAdapter,
    load_adapter,
)


PROMPTS = ["w5 w6 w7", "w8 w9 w10"]
NEW = 12


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**size, **heads, eos_token_id=0, pad_token_id=1, bos_token_id=None))


def tiny_diffusion_gemma() -> DiffusionGemmaForBlockDiffusion:
    torch.manual_seed(0)
    text = {
        **{"vocab_size": 60, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "global_head_dim": 16, "sliding_window": 32},
        **{"num_experts": 2, "top_k_experts": 1, "moe_intermediate_size": 16},
        **{"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None, "max_position_embeddings": 128},
    }
    vision = {
        **{"model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
        **{"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "position_embedding_size": 16},
    }
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=8, image_token_id=58)
    return DiffusionGemmaForBlockDiffusion(config).eval()


def stand_in_llada() -> StandInLLaDA:
    torch.manual_seed(0)
    return StandInLLaDA(StandInLLaDAConfig())


def stand_in_dream() -> StandInDream:
    torch.manual_seed(0)
    return StandInDream(StandInDreamConfig())


SYSTEMS = {
    "fsdfm": lambda tokenizer: FSDFMAdapter(tiny_model(), tokenizer),
    "causal": lambda tokenizer: CausalLMAdapter(tiny_llama(), tokenizer, stop_at_eos=False),
    "gemma": lambda tokenizer: DiffusionGemmaAdapter(tiny_diffusion_gemma(), tokenizer, stop_at_eos=False),
    "llada": lambda tokenizer: LLaDAAdapter(stand_in_llada(), tokenizer, stop_at_eos=False, temperature=1.0),
    "dream": lambda tokenizer: DreamAdapter(stand_in_dream(), tokenizer, stop_at_eos=False, temperature=1.0),
}


@pytest.fixture(params=SYSTEMS)
def adapter(request, tokenizer):
    return SYSTEMS[request.param](tokenizer)


def generate(adapter, prompts=PROMPTS, seed: int = 0, num_steps: int = 4, max_new_tokens: int = NEW):
    steps = {"num_steps": num_steps} if adapter.takes_num_steps else {}
    return adapter.generate(prompts, **steps, max_new_tokens=max_new_tokens, seed=seed)


def test_every_system_adds_the_tokens_asked_for_and_says_them_as_text(adapter, tokenizer):
    output = generate(adapter)
    assert [len(ids) for ids in output.ids] == [NEW, NEW]
    assert output.texts[1].split() == tokenizer.decode(output.ids[1], skip_special_tokens=True).split()
    assert output.seconds > 0


def test_a_seed_gives_the_same_tokens_and_leaves_the_global_state_alone(adapter):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = generate(adapter), generate(adapter), generate(adapter, seed=1)
    assert first.ids == again.ids != other.ids
    assert torch.equal(torch.get_rng_state(), before)


def test_prompts_of_unequal_length_and_empty_ones_can_share_a_call(adapter):
    output = generate(adapter, ["w5", "w5 w6 w7 w8", ""])
    assert [len(ids) for ids in output.ids] == [NEW] * 3


def test_ids_and_their_text_are_the_same_prompt(adapter, tokenizer):
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    assert generate(adapter, ids).ids == generate(adapter).ids


@pytest.mark.parametrize(("name", "runs"), [("fsdfm", 4), ("causal", NEW), ("llada", 4), ("dream", 4)])
def test_runs_of_the_network_are_counted(name, runs, tokenizer):
    adapter = SYSTEMS[name](tokenizer)
    assert generate(adapter).num_function_evaluations == runs
    assert generate(adapter).num_function_evaluations == runs  # no hook is left behind to count twice


def test_diffusion_gemma_counts_the_encoder_and_the_decoder_of_each_canvas(tokenizer):
    adapter = DiffusionGemmaAdapter(tiny_diffusion_gemma(), tokenizer, stop_at_eos=False, confidence_threshold=1e-9)
    output = generate(adapter, num_steps=3, max_new_tokens=12)  # two canvases of 8
    assert output.num_function_evaluations == 2 * (1 + 3)
    assert generate(adapter, num_steps=3, max_new_tokens=8).num_function_evaluations == 1 + 3


def test_more_steps_are_more_runs(adapter):
    if adapter.takes_num_steps:
        few, many = generate(adapter, num_steps=2), generate(adapter, num_steps=6)
        assert few.num_function_evaluations < many.num_function_evaluations


def test_an_autoregressive_model_takes_no_number_of_steps(tokenizer):
    with pytest.raises(ValueError, match="`num_steps` means nothing to CausalLMAdapter"):
        SYSTEMS["causal"](tokenizer).generate(PROMPTS, num_steps=8, max_new_tokens=4)


def test_a_text_ends_before_its_first_eos_where_asked(tokenizer):
    ends = tiny_llama()
    with torch.no_grad():
        ends.lm_head.weight.zero_()
        ends.lm_head.weight[0] = 0.02  # nudges every state towards EOS or away from it, so some texts have one
    goes_on = CausalLMAdapter(ends, tokenizer, stop_at_eos=False).generate(PROMPTS * 20, max_new_tokens=30)
    stops = CausalLMAdapter(ends, tokenizer).generate(PROMPTS * 20, max_new_tokens=30)
    assert any(0 in ids[:-1] for ids in goes_on.ids)
    assert {len(ids) for ids in goes_on.ids} == {30}
    assert not any(0 in ids for ids in stops.ids)
    assert len({len(ids) for ids in stops.ids}) > 1


def test_padding_does_not_change_what_a_flow_writes(tokenizer):
    adapter = SYSTEMS["fsdfm"](tokenizer)
    assert generate(adapter, ["w5 w6"]).ids[0] == generate(adapter, ["w5 w6", "w5 w6 w7 w8 w9"]).ids[0]


def test_options_reach_the_system(tokenizer):
    greedy = CausalLMAdapter(tiny_llama(), tokenizer, do_sample=False)
    assert generate(greedy, seed=0).ids == generate(greedy, seed=1).ids
    cold = LLaDAAdapter(stand_in_llada(), tokenizer)
    assert generate(cold, seed=0).ids == generate(cold, seed=1).ids
    cold = DreamAdapter(stand_in_dream(), tokenizer, temperature=0.0, alg="entropy")
    with pytest.raises(NotImplementedError, match="entropy"):
        generate(cold)
    top = FSDFMAdapter(tiny_model(), tokenizer, top_k=1)
    assert generate(top).ids != generate(FSDFMAdapter(tiny_model(), tokenizer)).ids


class ScriptedLLaDA(StandInLLaDA):
    """Predicts token `place` at each place, the more certain the larger `certainty[place]`; keeps what it was shown."""

    def __init__(self, certainty: list[float]) -> None:
        super().__init__(StandInLLaDAConfig())
        self.certainty, self.shown = certainty, []

    def forward(self, input_ids: Tensor) -> LogitsAlone:
        self.shown.append(input_ids[0].clone())
        logits = torch.zeros(*input_ids.shape, 60)
        for place, certainty in enumerate(self.certainty):
            logits[:, place, place] = certainty
        return LogitsAlone(logits=logits)


def test_low_confidence_remasking_shows_the_most_certain_first(tokenizer):
    model = ScriptedLLaDA([0, 0, 5.0, 9.0, 7.0, 6.0, 8.0])  # a prompt of two, then five new tokens
    output = LLaDAAdapter(model, tokenizer).generate([[10, 11]], num_steps=2, max_new_tokens=5)
    mask = model.config.mask_token_id
    assert model.shown[0].tolist() == [10, 11] + [mask] * 5
    assert model.shown[1].tolist() == [10, 11, mask, 3, mask, mask, 6]  # floor(5 / 2) tokens after the first step
    assert output.ids == [[2, 3, 4, 5, 6]]


def test_blocks_are_finished_from_left_to_right(tokenizer):
    model = ScriptedLLaDA([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    adapter = LLaDAAdapter(model, tokenizer, stop_at_eos=False, block_length=2)
    output = adapter.generate([[]], num_steps=6, max_new_tokens=6)
    mask = model.config.mask_token_id
    expected = [
        [mask] * 6,
        [mask, 1, mask, mask, mask, mask],
        [0, 1, mask, mask, mask, mask],
        [0, 1, mask, 3, mask, mask],
        [0, 1, 2, 3, mask, mask],
        [0, 1, 2, 3, mask, 5],
    ]
    assert [shown.tolist() for shown in model.shown] == expected
    assert output.num_function_evaluations == 6
    assert output.ids == [[0, 1, 2, 3, 4, 5]]


def test_steps_that_show_nothing_new_do_not_run_the_network(tokenizer):
    adapter = LLaDAAdapter(stand_in_llada(), tokenizer, stop_at_eos=False)
    assert generate(adapter, num_steps=100, max_new_tokens=5).num_function_evaluations == 5


def test_llada_never_writes_the_mask_token(tokenizer):
    model = stand_in_llada()
    with torch.no_grad():
        model.denoiser.head.bias[model.config.mask_token_id] = 50
    output = generate(LLaDAAdapter(model, tokenizer, temperature=1.0, stop_at_eos=False))
    assert all(model.config.mask_token_id not in ids for ids in output.ids)


def test_sampling_temperature_of_llada_gives_the_softmax(tokenizer):
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    adapter = LLaDAAdapter(stand_in_llada(), tokenizer, temperature=0.5)
    torch.manual_seed(0)
    drawn = adapter._predict(logits.expand(40_000, 4))
    frequency = torch.bincount(drawn, minlength=4) / len(drawn)
    assert (frequency - (logits / 0.5).softmax(-1)).abs().max() < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "`prompts` must be a list of at least one"),
        ({"prompts": "w5"}, "`prompts` must be a list of at least one"),
        ({"prompts": ["w5"], "max_new_tokens": 0}, "`max_new_tokens` must be at least 1"),
        ({"prompts": ["w5"], "num_steps": 0}, "`num_steps` must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        SYSTEMS["llada"](tokenizer).generate(**{"num_steps": 2, "max_new_tokens": 4, **arguments})


def test_texts_and_ids_cannot_be_mixed(tokenizer):
    with pytest.raises(TypeError, match="all texts or all token ids"):
        SYSTEMS["fsdfm"](tokenizer).generate(["w5", [5]], max_new_tokens=4)


def test_bad_settings_of_llada_are_named(tokenizer):
    with pytest.raises(ValueError, match="`block_length` must be at least 1"):
        LLaDAAdapter(stand_in_llada(), tokenizer, block_length=0)
    with pytest.raises(ValueError, match="`temperature` must be >= 0"):
        LLaDAAdapter(stand_in_llada(), tokenizer, temperature=-1)
    with pytest.raises(ValueError, match="at least 1 for each of the 3 blocks"):
        LLaDAAdapter(stand_in_llada(), tokenizer, block_length=4).generate(["w5"], num_steps=2, max_new_tokens=12)
    nameless = stand_in_llada()
    nameless.config.mask_token_id = None
    with pytest.raises(ValueError, match="`mask_token_id` is missing"):
        LLaDAAdapter(nameless, tokenizer)


def test_an_empty_prompt_needs_a_token_to_start_from(tokenizer):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="neither BOS nor EOS"):
        CausalLMAdapter(tiny_llama(), bare).generate([""], max_new_tokens=4)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (tiny_model, FSDFMAdapter),
        (tiny_llama, CausalLMAdapter),
        (tiny_diffusion_gemma, DiffusionGemmaAdapter),
        (stand_in_llada, LLaDAAdapter),
        (stand_in_dream, DreamAdapter),
    ],
)
def test_a_saved_model_finds_its_adapter(make, kind, tokenizer, tmp_path, monkeypatch):
    model = make()
    if kind in (LLaDAAdapter, DreamAdapter):  # their code is saved beside the weights, as it is on the Hub
        monkeypatch.setattr(type(model), "_auto_class", "AutoModel")
        monkeypatch.setattr(type(model.config), "_auto_class", "AutoConfig")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    adapter = load_adapter(str(tmp_path), trust_remote_code=kind in (LLaDAAdapter, DreamAdapter), stop_at_eos=False)
    assert type(adapter) is kind
    assert generate(adapter).ids == generate(kind(make(), tokenizer, stop_at_eos=False)).ids


def test_models_that_come_with_the_package_are_found_by_name():
    adapter = load_adapter("fsdfm-tinystories")
    assert type(adapter) is FSDFMAdapter
    assert adapter.model.config.step_size_conditioning


def test_remote_code_runs_only_if_trusted(tokenizer, tmp_path, monkeypatch):
    model = stand_in_llada()
    monkeypatch.setattr(StandInLLaDA, "_auto_class", "AutoModel")
    monkeypatch.setattr(StandInLLaDAConfig, "_auto_class", "AutoConfig")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_adapter(str(tmp_path))


def test_random_prompts_keep_their_tokens_apart_from_the_new_ones(tokenizer):
    prompts = torch.randint(2, 59, (3, 6), generator=generator(0)).tolist()
    output = generate(SYSTEMS["fsdfm"](tokenizer), prompts, max_new_tokens=5)
    assert [len(ids) for ids in output.ids] == [5, 5, 5]
