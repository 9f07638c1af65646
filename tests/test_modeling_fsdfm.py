"""The model as transformers expects one: outputs, dtypes, masks, saving, gradients, compilation."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from tests.conftest import generator, tiny_config, tiny_model
from transformers_fsdfm import FSDFMForDiffusionLM, FSDFMModel


VARIANTS = {
    "dfm": {"step_size_conditioning": False},
    "fsdfm": {},
    "fsdfm-log2": {"step_size_embedding": "log2"},
    "fsdfm-add": {"step_size_fusion": "add"},
    "mask": {"source_distribution": "mask"},
}
IDS = torch.randint(60, (3, 20), generator=generator(1))
TIME = torch.tensor([0.0, 0.25, 0.9])
STEP_SIZE = torch.tensor([0.5, 0.125, 0.0625])


def step_inputs(model: FSDFMForDiffusionLM, rows: slice = slice(None)) -> dict:
    inputs = {"input_ids": IDS[rows], "time": TIME[rows]}
    return {**inputs, "step_size": STEP_SIZE[rows]} if model.config.step_size_conditioning else inputs


@pytest.mark.parametrize("name", VARIANTS)
class TestEveryVariant:
    def test_logits_have_one_entry_for_each_data_token(self, name):
        model = tiny_model(**VARIANTS[name])
        assert model(**step_inputs(model)).logits.shape == (3, 20, 60)

    def test_rows_do_not_see_each_other(self, name):
        model = tiny_model(**VARIANTS[name])
        together = model(**step_inputs(model)).logits
        for row in range(3):
            assert_close(model(**step_inputs(model, slice(row, row + 1))).logits[0], together[row])

    def test_one_time_for_the_batch_equals_that_time_for_each_row(self, name):
        model = tiny_model(**VARIANTS[name])
        conditioned = model.config.step_size_conditioning
        single = model(IDS, torch.tensor(0.3), torch.tensor([0.5]) if conditioned else None).logits
        repeated = model(IDS, torch.full((3,), 0.3), torch.full((3,), 0.5) if conditioned else None).logits
        assert_close(single, repeated)

    def test_time_and_step_size_matter(self, name):
        model = tiny_model(**VARIANTS[name])
        inputs = step_inputs(model)
        logits = model(**inputs).logits
        for argument in inputs.keys() - {"input_ids"}:
            assert not torch.allclose(model(**{**inputs, argument: inputs[argument] * 0.5 + 0.1}).logits, logits)

    def test_padding_on_either_side_changes_nothing(self, name):
        model = tiny_model(**VARIANTS[name])
        plain = model(**step_inputs(model)).logits
        for left, right in ((4, 0), (0, 5)):
            padded = torch.nn.functional.pad(IDS, (left, right), value=1)
            attention_mask = torch.nn.functional.pad(torch.ones_like(IDS), (left, right))
            outputs = model(**{**step_inputs(model), "input_ids": padded, "attention_mask": attention_mask})
            assert_close(outputs.logits[:, left : left + 20], plain, atol=2e-5, rtol=1e-4)

    def test_eager_and_sdpa_attention_agree(self, name):
        model = tiny_model(**VARIANTS[name])
        attention_mask = torch.ones_like(IDS)
        attention_mask[1, :7] = 0
        inputs = {**step_inputs(model), "attention_mask": attention_mask}
        assert model.config._attn_implementation == "sdpa"
        sdpa = model(**inputs).logits
        model.set_attn_implementation("eager")
        eager = model(**inputs, output_attentions=True)
        assert_close(eager.logits[:, 7:], sdpa[:, 7:], atol=2e-5, rtol=1e-4)
        assert len(eager.attentions) == 2
        assert eager.attentions[0][1, :, :, :7].abs().max() == 0

    def test_saving_and_loading_keeps_every_bit(self, name, tmp_path):
        model = tiny_model(**VARIANTS[name])
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        loaded, info = FSDFMForDiffusionLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert torch.equal(loaded(**step_inputs(model)).logits, model(**step_inputs(model)).logits)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_stays_close(self, name, dtype, tmp_path):
        model = tiny_model(**VARIANTS[name])
        model.save_pretrained(tmp_path)
        half = FSDFMForDiffusionLM.from_pretrained(tmp_path, dtype=dtype)
        logits = half(**step_inputs(half)).logits
        assert logits.dtype == dtype
        reference = model(**step_inputs(model)).logits
        assert (logits.float() - reference).abs().mean() < 0.03 * reference.abs().mean()

    def test_gradient_checkpointing_gives_the_same_gradients(self, name):
        gradients = []
        for checkpointed in (False, True):
            model = tiny_model(**VARIANTS[name], hidden_dropout_prob=0.0).train()
            if checkpointed:
                model.gradient_checkpointing_enable()  # its new name is missing from transformers 5.20
            model(**step_inputs(model), labels=IDS).loss.backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
        assert all(gradient is not None for gradient in gradients[0])
        assert_close(gradients[1], gradients[0])

    def test_forward_compiles_as_one_graph(self, name):
        model = tiny_model(**VARIANTS[name])
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert_close(compiled(**step_inputs(model)).logits, model(**step_inputs(model)).logits)

    def test_nothing_outside_the_state_dict_survives_in_the_module(self, name):
        """Buffers that are not saved come back uninitialised from meta-device loading: there are none."""
        assert not list(tiny_model(**VARIANTS[name]).buffers())


def test_fresh_model_predicts_the_uniform_distribution():
    model = FSDFMForDiffusionLM(tiny_config())
    assert model(**step_inputs(model)).logits.abs().max() == 0
    zero = {key for key, value in model.state_dict().items() if value.abs().max() == 0 and key.endswith("weight")}
    modulations = {f"model.layers.{layer}.modulation.linear.weight" for layer in range(2)}
    assert zero == {*modulations, "model.modulation.linear.weight", "lm_head.weight"}


def test_missing_weights_are_initialised_as_in_a_fresh_model(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    kept = {key: value for key, value in model.state_dict().items() if "modulation" not in key}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = FSDFMForDiffusionLM.from_pretrained(tmp_path)
    assert loaded.model.modulation.linear.weight.abs().max() == 0
    assert 0.01 < loaded.model.modulation.fuser.weight.std() < 0.03


def test_step_sizes_of_the_finest_grid_are_told_apart_by_the_log2_embedding():
    def difference(**changes) -> float:
        embed = tiny_model(**changes).model._condition
        two = [embed(torch.tensor(0.5), torch.tensor(2.0**-k), 1, torch.float32) for k in (10, 9)]
        return ((two[0] - two[1]).norm() / two[0].norm()).item()

    assert difference(step_size_embedding="log2") > 0.05
    assert difference(step_size_embedding="raw") < 0.002


@pytest.mark.parametrize("step_size_embedding", ["raw", "log2"])
@pytest.mark.parametrize("fusion", ["add", "concat"])
class TestFromDFM:
    def test_computes_the_logits_of_the_dfm_for_every_step_size(self, fusion, step_size_embedding):
        dfm = tiny_model(step_size_conditioning=False)
        fsdfm = FSDFMForDiffusionLM.from_dfm(dfm, step_size_embedding, fusion)
        expected = dfm(IDS, TIME).logits
        for exponent in range(11):
            logits = fsdfm(IDS, TIME, torch.tensor(2.0**-exponent)).logits
            if fusion == "add":
                assert torch.equal(logits, expected)
            else:
                assert_close(logits, expected, atol=1e-5, rtol=1e-5)

    def test_step_size_learns_from_the_first_update(self, fusion, step_size_embedding):
        dfm = tiny_model(step_size_conditioning=False, hidden_dropout_prob=0.0)
        fsdfm = FSDFMForDiffusionLM.from_dfm(dfm, step_size_embedding, fusion)
        fsdfm(IDS, TIME, STEP_SIZE, labels=IDS).loss.backward()
        embedding = fsdfm.model.step_size_embedding.linear_2
        entrance = embedding if fusion == "add" else fsdfm.model.condition_fuser
        columns = slice(None) if fusion == "add" else slice(16, None)
        assert entrance.weight.grad[:, columns].abs().max() > 0

    def test_leaves_the_dfm_alone_and_shares_nothing_with_it(self, fusion, step_size_embedding):
        dfm = tiny_model(step_size_conditioning=False).to(torch.bfloat16)
        dfm.generation_config.top_k = 7
        fsdfm = FSDFMForDiffusionLM.from_dfm(dfm, step_size_embedding, fusion)
        assert not dfm.config.step_size_conditioning
        assert fsdfm.config.step_size_fusion == fusion
        assert fsdfm.config.step_size_embedding == step_size_embedding
        assert fsdfm.dtype == torch.bfloat16
        assert not fsdfm.training
        assert fsdfm.generation_config.top_k == 7
        assert (dfm.generation_config.num_steps, fsdfm.generation_config.num_steps) == (1024, 8)
        addresses = {parameter.data_ptr() for parameter in dfm.parameters()}
        assert addresses.isdisjoint(parameter.data_ptr() for parameter in fsdfm.parameters())


def test_from_dfm_refuses_what_is_no_dfm(model):
    with pytest.raises(ValueError, match="`dfm`"):
        FSDFMForDiffusionLM.from_dfm(model)
    with pytest.raises(TypeError, match="`dfm`"):
        FSDFMForDiffusionLM.from_dfm("path/to/dfm")


class TestFillMask:
    @pytest.mark.parametrize("name", VARIANTS)
    def test_mask_tokens_without_time_are_predicted_from_their_surroundings(self, name):
        model = tiny_model(**VARIANTS[name])
        masked = IDS.clone()
        masked[:, [3, 11]] = 60
        logits = model(masked).logits
        assert torch.equal(model(masked).logits, logits)
        changed = masked.clone()
        changed[:, 5] = (changed[:, 5] + 1) % 60
        assert not torch.allclose(model(changed).logits[:, 3], logits[:, 3])

    def test_time_is_that_of_the_known_share(self):
        model = tiny_model(source_distribution="mask", schedule="polynomial", schedule_exponent=2.0)
        masked = IDS.clone()
        masked[:, :5] = 60
        time = torch.full((3,), 0.75).sqrt()
        assert_close(model(masked).logits, model(masked, time, 1 - time).logits)

    def test_text_without_mask_tokens_needs_a_time(self, model):
        with pytest.raises(ValueError, match="`time`"):
            model(IDS)


@pytest.mark.parametrize(
    ("changes", "arguments", "named"),
    [
        ({}, {"time": TIME}, "`step_size`"),
        ({"step_size_conditioning": False}, {"time": TIME, "step_size": STEP_SIZE}, "`step_size`"),
        ({}, {"time": torch.zeros(2), "step_size": STEP_SIZE}, "`time`"),
        ({}, {"time": TIME[:, None], "step_size": STEP_SIZE}, "`time`"),
        ({}, {"time": TIME, "step_size": torch.ones(3).long()}, "`step_size`"),
        ({}, {"time": 0.5, "step_size": STEP_SIZE}, "`time`"),
        ({}, {"step_size": STEP_SIZE}, "`time`"),
        ({}, {"time": TIME + 0.5, "step_size": STEP_SIZE}, r"`time`.*1\.39"),
        ({}, {"time": TIME, "step_size": STEP_SIZE - 0.125}, "`step_size`.*0.0"),
        ({}, {"time": TIME, "step_size": STEP_SIZE, "labels": IDS[:, :3]}, "`labels`"),
        ({}, {"time": TIME, "step_size": STEP_SIZE, "input_ids": IDS[0]}, "`input_ids`"),
        ({}, {"time": TIME, "step_size": STEP_SIZE, "input_ids": IDS.float()}, "`input_ids`"),
        ({}, {"time": TIME, "step_size": STEP_SIZE, "input_ids": IDS + 30}, "`input_ids`"),
        ({}, {"time": TIME, "step_size": STEP_SIZE, "input_ids": IDS * 0 + 60}, "mask token.*`time`"),
        ({}, {"time": TIME, "step_size": STEP_SIZE, "inputs_embeds": torch.zeros(3, 20, 32)}, "`inputs_embeds`"),
    ],
)
def test_bad_forward_argument_is_named(changes, arguments, named):
    with pytest.raises((ValueError, TypeError), match=named):
        tiny_model(**changes)(**{"input_ids": IDS, **arguments})


def test_labels_give_the_mean_cross_entropy_where_they_count(model):
    labels = torch.where(torch.arange(20) < 6, IDS, -100)
    outputs = model(**step_inputs(model), labels=labels)
    log_probs = outputs.logits.log_softmax(-1).gather(-1, IDS[..., None])[:, :6, 0]
    assert_close(outputs.loss, -log_probs.mean())


def test_embeddings_can_be_given_in_place_of_ids(model):
    embeddings = model.get_input_embeddings()(IDS)
    assert_close(
        model(inputs_embeds=embeddings, time=TIME, step_size=STEP_SIZE).logits, model(**step_inputs(model)).logits
    )


def test_hidden_states_are_recorded_on_request(model):
    outputs = model(**step_inputs(model), output_hidden_states=True)
    assert len(outputs.hidden_states) == 3
    assert all(states.shape == (3, 20, 32) for states in outputs.hidden_states)
    assert model(**step_inputs(model)).hidden_states is None


def test_dropout_acts_in_training_alone(model):
    assert torch.equal(model(**step_inputs(model)).logits, model(**step_inputs(model)).logits)
    model.train()
    assert not torch.equal(model(**step_inputs(model)).logits, model(**step_inputs(model)).logits)


def test_vocabulary_can_grow_with_a_uniform_source(model):
    before = model(**step_inputs(model)).logits
    model.resize_token_embeddings(64)
    assert model.config.vocab_size == 64
    after = model(**step_inputs(model)).logits
    assert after.shape[-1] == 64
    assert_close(after[..., :60], before)


def test_vocabulary_of_a_mask_source_is_fixed():
    with pytest.raises(ValueError, match="mask"):
        tiny_model(source_distribution="mask").resize_token_embeddings(64)


def test_backbone_loads_from_a_checkpoint_with_head(model, tmp_path):
    model.save_pretrained(tmp_path)
    backbone = FSDFMModel.from_pretrained(tmp_path)
    inputs = step_inputs(model)
    assert torch.equal(backbone(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)
    backbone.save_pretrained(tmp_path / "backbone")
    again = FSDFMModel.from_pretrained(tmp_path / "backbone")
    assert all(map(torch.equal, backbone.state_dict().values(), again.state_dict().values()))


def test_meta_device_model_has_shapes_and_no_weights():
    with torch.device("meta"):
        model = FSDFMForDiffusionLM(tiny_config())
    assert model.num_parameters() == tiny_model().num_parameters()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_printed_model_names_its_parts(model):
    printed = repr(model)
    for part in ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "time_embedding", "lm_head"):
        assert part in printed


@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_damaged_weights_are_an_error(model, tmp_path, damage):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"x" * len(data))
    with pytest.raises(Exception, match=r"(?i)safetensor|header|incomplete|invalid"):
        FSDFMForDiffusionLM.from_pretrained(tmp_path)


def test_unwritten_architecture_is_named_in_the_config(model, tmp_path):
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == ["FSDFMForDiffusionLM"]
    assert saved["model_type"] == "fsdfm"
