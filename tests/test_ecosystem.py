"""FS-DFM inside peft, torchao and the stock pipelines."""

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, TorchAoConfig, pipeline

from tests.conftest import generator, tiny_model
from transformers_fsdfm import FSDFMForDiffusionLM


IDS = torch.randint(60, (2, 20), generator=generator(1))
TIMES = {"time": torch.tensor(0.5), "step_size": torch.tensor(0.25)}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A saved checkpoint with its tokenizer, as on the Hub."""
    model = tiny_model(max_position_embeddings=24)
    model.save_pretrained(tmp_path / "base")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM])
def test_auto_classes_give_the_model_with_its_head(auto_class, folder):
    assert isinstance(auto_class.from_pretrained(folder), FSDFMForDiffusionLM)


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", "FEATURE_EXTRACTION", None])
class TestPeft:
    def adapted(self, task_type, model):
        config = LoraConfig(r=4, target_modules=TARGETS, task_type=task_type, init_lora_weights=False)
        return get_peft_model(model, config).eval()

    def test_generates_like_the_merged_model(self, task_type):
        model = self.adapted(task_type, tiny_model())
        adapted = model.generate(input_ids=IDS, generator=generator(0), num_steps=4, max_new_tokens=8)
        logits = model(input_ids=IDS, **TIMES).logits
        merged = model.merge_and_unload()
        assert_close(merged(IDS, **TIMES).logits, logits, atol=1e-5, rtol=1e-5)
        tokens = merged.generate(input_ids=IDS, generator=generator(0), num_steps=4, max_new_tokens=8)
        assert torch.equal(tokens, adapted)
        base = tiny_model().generate(input_ids=IDS, generator=generator(0), num_steps=4, max_new_tokens=8)
        assert not torch.equal(tokens, base)

    def test_adapter_is_saved_alone_and_loaded_on_its_base(self, task_type, folder, tmp_path):
        model = self.adapted(task_type, FSDFMForDiffusionLM.from_pretrained(folder))
        model.save_pretrained(tmp_path / "adapter")
        names = {path.name for path in (tmp_path / "adapter").iterdir()}
        assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
        loaded = PeftModel.from_pretrained(FSDFMForDiffusionLM.from_pretrained(folder), tmp_path / "adapter")
        logits = model(input_ids=IDS, **TIMES).logits
        assert torch.equal(loaded(input_ids=IDS, **TIMES).logits, logits)
        if task_type == "CAUSAL_LM":
            automatic = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
            assert torch.equal(automatic(input_ids=IDS, **TIMES).logits, logits)
            assert automatic.generate(input_ids=IDS, num_steps=2, max_new_tokens=3).shape == (2, 23)

    def test_training_touches_the_adapter_alone(self, task_type):
        model = self.adapted(task_type, tiny_model()).train()
        model(input_ids=IDS, labels=IDS, **TIMES).loss.backward()
        touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert touched
        assert all("lora_" in name for name in touched)


def test_prompt_tuning_is_refused_where_it_would_have_no_effect():
    model = get_peft_model(tiny_model(), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="LoRA"):
        model.generate(input_ids=IDS, num_steps=2, max_new_tokens=4)


def test_int8_weights_generate_and_stay_close(folder):
    from torchao.quantization import Int8WeightOnlyConfig

    plain = FSDFMForDiffusionLM.from_pretrained(folder)
    quantized = FSDFMForDiffusionLM.from_pretrained(
        folder, quantization_config=TorchAoConfig(Int8WeightOnlyConfig(version=2))
    )
    weight = quantized.model.layers[0].mlp.up_proj.weight
    assert type(weight).__name__ == "Int8Tensor"
    expected, logits = plain(IDS, **TIMES).logits, quantized(IDS, **TIMES).logits
    assert 0 < (logits - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert quantized.generate(IDS, num_steps=4, max_new_tokens=4).shape == (2, 24)


class TestTextGenerationPipeline:
    def test_continues_one_text_or_many(self, folder):
        pipe = pipeline("text-generation", str(folder), trust_remote_code=True)
        (one,) = pipe("w5 w6 w7")
        assert one["generated_text"].startswith("w5 w6 w7")
        many = pipe(["w5 w6 w7", "w8"], batch_size=2)
        assert [record[0]["generated_text"][:2] for record in many] == ["w5", "w8"]

    def test_extra_arguments_reach_generate(self, folder):
        pipe = pipeline("text-generation", str(folder))
        assert pipe("w5 w6", max_new_tokens=4, return_tensors=True)[0]["generated_token_ids"][6:] == []
        records = pipe("w5 w6", num_steps=3, num_return_sequences=2, return_dict_in_generate=True, output_history=True)
        assert len(records) == 2
        assert len(records[0]["history"]) == 4
        with pytest.raises(ValueError, match=r"`num_stepz`.*num_steps"):
            pipe("w5 w6", num_stepz=3)

    def test_samples_at_the_temperature_of_the_model(self, folder):
        """Pipelines have a default of 0.7 for models that set none."""
        pipe = pipeline("text-generation", str(folder))
        seen = []
        prepare = pipe.model._prepare_generation_config
        pipe.model._prepare_generation_config = lambda *args: seen.append(prepare(*args)) or seen[-1]
        pipe("w5 w6")
        assert seen[0][0].temperature == 1.0
        assert seen[0][0].max_length == 24

    def test_takes_chats(self, folder):
        pipe = pipeline("text-generation", str(folder))
        chat = [{"role": "user", "content": "w5 w6 w7"}]
        (record,) = pipe(chat, num_steps=2)
        assert record["generated_text"][0] == chat[0]
        assert record["generated_text"][1]["role"] == "assistant"

    def test_empty_prompt_is_unconditional(self, folder):
        pipe = pipeline("text-generation", str(folder))
        assert pipe("", num_steps=2)[0]["generated_text"]


def test_fill_mask_pipeline_ranks_tokens(folder):
    pipe = pipeline("fill-mask", str(folder), trust_remote_code=True)
    ranked = pipe("w5 w6 <mask> w8 w9", top_k=3)
    scores = [entry["score"] for entry in ranked]
    assert len(ranked) == 3
    assert scores == sorted(scores, reverse=True)
    assert ranked[0]["sequence"].split()[:2] == ["w5", "w6"]


def test_prompts_of_a_tokenizer_go_straight_into_generate(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    batch = tokenizer(["w5 w6 w7", "w8"], padding=True, return_tensors="pt")
    tokens = model.generate(**batch, num_steps=2, max_new_tokens=4)
    assert [text.split()[0] for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)] == ["w5", "w8"]
