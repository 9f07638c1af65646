"""Published `.pth` files to model folders and back."""

import filecmp
import select
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.conftest import generator, tiny_model
from tests.conversion.reference_model import published_weights, reference_logits
from transformers_fsdfm import FSDFMForDiffusionLM, convert_published_checkpoint, export_published_checkpoint
from transformers_fsdfm.conversion import published


IDS = torch.randint(60, (2, 20), generator=generator(1))
TIME = torch.tensor([0.1, 0.7])
STEP_SIZE = torch.tensor([0.25, 2.0**-10])


def fs_dfm(num_rows: int = 60, **changes) -> dict[str, torch.Tensor]:
    return published_weights(num_rows, **changes)


def dfm(num_rows: int = 60, **changes) -> dict[str, torch.Tensor]:
    return published_weights(num_rows, with_step_size=False, **changes)


def save(folder: Path, content, **options) -> Path:
    path = folder / "published.pth"
    torch.save(content, path, **options)
    return path


def convert(folder: Path, content, **options) -> FSDFMForDiffusionLM:
    convert_published_checkpoint(save(folder, content), folder / "out", **options)
    return FSDFMForDiffusionLM.from_pretrained(folder / "out")


def assert_refused(folder: Path, content, match: str, error: type[Exception] = ValueError, **options) -> None:
    """One error with such words, and nothing written."""
    path = save(folder, content)
    with pytest.raises(error, match=match):
        convert_published_checkpoint(path, folder / "out", **options)
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize("source_distribution", ["uniform", "mask"])
@pytest.mark.parametrize("with_step_size", [True, False])
@pytest.mark.parametrize("rope_theta", [10_000.0, 500.0])
def test_logits_equal_those_of_the_plain_reference(tmp_path, source_distribution, with_step_size, rope_theta):
    weights = published_weights(61, with_step_size=with_step_size, rope_theta=rope_theta)
    ids = torch.randint(61, (2, 20), generator=generator(1))
    step_size = STEP_SIZE if with_step_size else None
    entry = "student_ema_model" if with_step_size else "model"
    model = convert(tmp_path, {entry: weights}, source_distribution=source_distribution)
    num_tokens = 60 if source_distribution == "mask" else 61
    assert model.config.step_size_conditioning == with_step_size
    assert model.config.rope_theta == rope_theta
    assert model.config.vocab_size == num_tokens
    expected = reference_logits(weights, ids, TIME, step_size)[..., :num_tokens]
    assert expected.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(model(ids, TIME, step_size).logits, expected, rtol=1e-5, atol=1e-5)


def test_sizes_come_from_the_shapes(tmp_path):
    weights = fs_dfm(70, hidden_size=48, num_heads=3, num_blocks=3, conditioning_size=10, mlp_ratio=2)
    config = convert(tmp_path, {"student_model": weights}, max_position_embeddings=64).config
    sizes = {"vocab_size": 70, "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3}
    sizes |= {"conditioning_size": 10, "intermediate_size": 96, "max_position_embeddings": 64}
    assert {name: getattr(config, name) for name in sizes} == sizes


@pytest.mark.parametrize(("width", "num_heads"), [(768, 12), (2048, 32)])
def test_published_widths_have_known_heads(tmp_path, width, num_heads):
    weights = dfm(5, hidden_size=width, num_heads=num_heads, num_blocks=1, mlp_ratio=1, conditioning_size=4)
    del weights["rotary_emb.inv_freq"]
    result = convert_published_checkpoint(save(tmp_path, {"model": weights}), tmp_path / "out")
    assert result.config.num_attention_heads == num_heads
    assert result.config.rope_theta == 10_000


def test_other_widths_need_the_number_of_heads(tmp_path):
    weights = dfm()
    del weights["rotary_emb.inv_freq"]
    assert_refused(tmp_path, {"model": weights}, "`num_attention_heads` is needed.* 32")
    assert_refused(tmp_path, {"model": weights}, "`num_attention_heads` 5", num_attention_heads=5)
    assert convert(tmp_path, {"model": weights}, num_attention_heads=4).config.num_attention_heads == 4


def test_rotary_buffer_is_checked(tmp_path):
    weights = dfm()
    assert_refused(tmp_path, {"model": weights}, "`num_attention_heads` 2 .*rotary_emb", num_attention_heads=2)
    weights["rotary_emb.inv_freq"][1] *= 2
    assert_refused(tmp_path, {"model": weights}, "rotary_emb.inv_freq does not hold the frequencies")
    weights["rotary_emb.inv_freq"] = torch.arange(4)
    assert_refused(tmp_path, {"model": weights}, "rotary_emb.inv_freq must be a float vector")


def test_weights_are_selectable_and_the_average_comes_first(tmp_path):
    content = {
        "teacher_model": dfm(seed=1),
        "student_model": fs_dfm(seed=2),
        "student_ema_model": fs_dfm(seed=3),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "step": 7,
    }
    path = save(tmp_path, content)
    expected = {"auto": "student_ema_model", "ema": "student_ema_model"}
    expected |= {"student": "student_model", "teacher": "teacher_model"}
    for weights, entry in expected.items():
        result = convert_published_checkpoint(path, tmp_path / weights, weights=weights)
        embedding = FSDFMForDiffusionLM.from_pretrained(result.folder).get_input_embeddings().weight
        assert result.entry == entry
        assert torch.equal(embedding, content[entry]["vocab_embed.weight"])


def test_weights_that_are_not_there_are_an_error_that_lists_the_others(tmp_path):
    content = {"student_model": fs_dfm(), "student_ema_model": None, "model": dfm()}
    message = r"no 'ema' weights; it has 'student' \(student_model\), 'teacher' \(model\)"
    assert_refused(tmp_path, content, message, weights="ema")
    assert_refused(tmp_path, {"state_dict": {}, "epoch": 3}, "no weights under any of .*; it has state_dict, epoch")
    assert_refused(tmp_path, [1, 2], "must hold a dictionary, but holds a list")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_marks_of_wrappers_are_removed(tmp_path, prefix):
    weights = {prefix + name: tensor for name, tensor in dfm().items()}
    assert torch.equal(convert(tmp_path, {"model": weights}).lm_head.bias, dfm()["output_layer.linear.bias"])


@pytest.mark.parametrize("in_sequence", [True, False])
def test_layers_alone_and_in_a_sequence_are_both_read(tmp_path, in_sequence):
    weights = {name.replace("fuser.0.", "fuser."): tensor for name, tensor in fs_dfm().items()}
    if in_sequence:
        weights = {
            name.replace("fuser.", "fuser.0.").replace("adaLN_modulation.", "adaLN_modulation.0."): tensor
            for name, tensor in weights.items()
        }
    model = convert(tmp_path, {"student_ema_model": weights})
    expected = reference_logits(fs_dfm(), IDS, TIME, STEP_SIZE)
    torch.testing.assert_close(model(IDS, TIME, STEP_SIZE).logits.detach(), expected, rtol=1e-5, atol=1e-5)


# Bad files


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path):
    weights = fs_dfm()
    del weights["blocks.1.qw.weight"]
    weights["blocks.1.gate"] = torch.zeros(3)
    weights["blocks.0.mlp.0.weight"] = torch.zeros(8, 32)
    weights["vocab_embed.weight"] = weights["vocab_embed.weight"].long()
    assert_refused(
        tmp_path,
        {"student_model": weights},
        r"missing: blocks.1.qw.weight; unknown: blocks.1.gate; misshapen: vocab_embed.weight \(is \(60, 32\) of "
        r"torch.int64, should be \(60, 32\)\), blocks.0.mlp.0.weight \(is \(8, 32\), should be \(128, 32\)\)",
    )


def test_many_missing_tensors_are_counted(tmp_path):
    weights = {name: tensor for name, tensor in dfm().items() if "attn_out" not in name and "norm2" not in name}
    del weights["output_layer.adaLN_modulation.bias"], weights["output_layer.norm_final.weight"]
    assert_refused(tmp_path, {"model": weights}, "missing: (blocks.*, ){4}output_layer.* and 1 more$")


def test_another_network_is_refused(tmp_path):
    another = {"wte.weight": torch.zeros(60, 32), "h.0.attn.weight": torch.zeros(32, 32)}
    assert_refused(tmp_path, {"model": another}, "missing: vocab_embed.weight; it has wte.weight, h.0.attn.weight")
    assert_refused(tmp_path, {"model": {}}, "missing: vocab_embed.weight; it has nothing")


def test_wrong_source_is_found_out_by_the_tokenizer(tmp_path, tokenizer):
    assert_refused(
        tmp_path, {"model": dfm(58)}, "`tokenizer` has 61 tokens, but the model knows 58", tokenizer=tokenizer
    )


def test_tensor_that_comes_twice_is_refused(tmp_path):
    weights = dfm()
    weights["module.vocab_embed.weight"] = weights["vocab_embed.weight"]
    assert_refused(tmp_path, {"model": weights}, "vocab_embed.weight twice")


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
@pytest.mark.parametrize("zip_format", [True, False])
def test_truncated_file_is_one_clear_error(tmp_path, keep, zip_format):
    path = save(tmp_path, {"model": dfm()}, _use_new_zipfile_serialization=zip_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"`checkpoint` .*published.pth is damaged, or no file of torch.save"):
        convert_published_checkpoint(path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_file_of_another_kind_is_one_clear_error(tmp_path):
    path = tmp_path / "published.pth"
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"is damaged, or no file of torch.save"):
        convert_published_checkpoint(path, tmp_path / "out")


class Foreign:
    """Pickled by reference, so that reading it would import this file."""


@pytest.mark.parametrize("zip_format", [True, False])
def test_pickled_objects_are_refused_by_name(tmp_path, zip_format):
    path = save(tmp_path, {"model": dfm(), "sampler": Foreign()}, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(ValueError, match=r"holds a pickled object \(tests.conversion.test_published.Foreign\)"):
        convert_published_checkpoint(path, tmp_path / "out")


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """What the user is warned of. (transformers' loggers do not reach pytest's.)"""
    messages: list[str] = []
    monkeypatch.setattr(published.logger, "warning", messages.append)
    return messages


def test_file_in_the_old_format_is_read_with_a_warning(tmp_path, warnings):
    path = save(tmp_path, {"model": dfm()}, _use_new_zipfile_serialization=False)
    convert_published_checkpoint(path, tmp_path / "out")
    model = FSDFMForDiffusionLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, dfm()["output_layer.linear.weight"])
    assert warnings == ["published.pth is not in the zip format of torch.save and will be read into memory whole"]


def test_one_row_more_than_gpt2_is_worth_a_warning(tmp_path, warnings):
    path = save(tmp_path, {"model": dfm(50_258, hidden_size=8, num_heads=2)})
    convert_published_checkpoint(path, tmp_path / "mask", source_distribution="mask")
    assert not warnings
    convert_published_checkpoint(path, tmp_path / "uniform")
    assert "one more than GPT-2's vocabulary" in warnings[0]
    assert 'source_distribution="mask" (--source-distribution mask)' in warnings[0]


# Bad arguments


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": "best"}, "`weights` must be one of auto, ema, student, teacher, but got 'best'"),
        ({"source_distribution": "noise"}, "`source_distribution` must be one of"),
        ({"dtype": "int8"}, "`dtype` must be one of"),
        ({"dtype": torch.int8}, "`dtype` must be one of"),
        ({"max_position_embeddings": 0}, "`max_position_embeddings` must be at least 1"),
        ({"num_attention_heads": 0}, "`num_attention_heads` 0"),
        ({"max_shard_size": "much"}, "much"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, options, match):
    assert_refused(tmp_path, {"model": dfm()}, match, **options)


def test_paths_are_checked(tmp_path):
    path = save(tmp_path, {"model": dfm()})
    with pytest.raises(FileNotFoundError, match=r"`checkpoint` .*none.pth is not a file"):
        convert_published_checkpoint(tmp_path / "none.pth", tmp_path / "out")
    with pytest.raises(NotADirectoryError, match="`output`"):
        convert_published_checkpoint(path, path)
    with pytest.raises(FileExistsError, match="no model folder"):
        convert_published_checkpoint(path, tmp_path, overwrite=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds the `checkpoint` itself"):
        convert_published_checkpoint(path, tmp_path, overwrite=True)
    assert path.exists()


def test_output_is_replaced_only_on_request(tmp_path):
    path, out = save(tmp_path, {"model": dfm()}), tmp_path / "deep" / "out"
    convert_published_checkpoint(path, out)
    (out / "model-00001-of-00009.safetensors").write_text("stale")
    with pytest.raises(FileExistsError, match="`overwrite`"):
        convert_published_checkpoint(path, out)
    convert_published_checkpoint(path, out, overwrite=True)
    assert not (out / "model-00001-of-00009.safetensors").exists()
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_conversion_leaves_everything_as_it_was(tmp_path, monkeypatch, error):
    path, out = save(tmp_path, {"model": dfm()}), tmp_path / "out"
    convert_published_checkpoint(path, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    real_save = FSDFMForDiffusionLM.save_pretrained

    def save_and_fail(self, *args, **kwargs):
        real_save(self, *args, **kwargs)
        raise error

    monkeypatch.setattr(FSDFMForDiffusionLM, "save_pretrained", save_and_fail)
    with pytest.raises(error):
        convert_published_checkpoint(path, out, overwrite=True)
    with pytest.raises(error):
        convert_published_checkpoint(path, tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == [out, path]
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


# What is written


def test_folder_is_what_the_model_itself_would_save(tmp_path):
    converted = convert(tmp_path, {"student_ema_model": fs_dfm()}, max_shard_size="40KB")
    model = FSDFMForDiffusionLM(converted.config)
    model.load_state_dict(converted.state_dict())
    model.save_pretrained(tmp_path / "again", max_shard_size="40KB")
    names = sorted(file.name for file in (tmp_path / "again").iterdir())
    assert "model.safetensors.index.json" in names
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(["README.md", *names])
    _, different, errors = filecmp.cmpfiles(tmp_path / "out", tmp_path / "again", names, shallow=False)
    assert not different
    assert not errors


def test_model_card_tells_where_the_weights_come_from_and_how_to_use_them(tmp_path):
    convert(tmp_path, {"student_ema_model": fs_dfm()})
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("`published.pth`", "`student_ema_model`", "licence of the original", "num_steps=8", "| 60 "):
        assert words in card


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", [None, "float32", torch.bfloat16, "float16"])
def test_dtype_is_that_of_the_file_or_the_one_asked_for(tmp_path, stored, wanted):
    weights = {name: tensor.to(stored) for name, tensor in dfm().items()}
    path = save(tmp_path, {"model": weights})
    convert_published_checkpoint(path, tmp_path / "out", dtype=wanted)
    expected = {None: stored, "float32": torch.float32, "float16": torch.float16}.get(wanted, torch.bfloat16)
    model = FSDFMForDiffusionLM.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert torch.equal(model.lm_head.weight, weights["output_layer.linear.weight"].to(expected))


def test_mixed_dtypes_become_the_widest(tmp_path):
    weights = dfm() | {"vocab_embed.weight": dfm()["vocab_embed.weight"].bfloat16()}
    assert convert(tmp_path, {"model": weights}).dtype == torch.float32


@pytest.mark.parametrize("source_distribution", ["uniform", "mask"])
def test_tokenizer_is_saved_and_gives_the_special_tokens(tmp_path, tokenizer, source_distribution):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    num_rows = 61 if source_distribution == "mask" else 60
    options = {"tokenizer": tmp_path / "tokenizer", "source_distribution": source_distribution}
    model = convert(tmp_path, {"model": dfm(num_rows)}, **options)
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved("w3 <mask>").input_ids == [3, 60]
    assert saved.padding_side == "left"
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id, config.mask_token_id) == (0, 1, 60)


def test_gpt2_sized_vocabulary_gets_the_special_tokens_of_gpt2(tmp_path):
    path = save(tmp_path, {"model": dfm(50_257, hidden_size=8, num_heads=2)})
    config = convert_published_checkpoint(path, tmp_path / "out").config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50_256, 50_256, 50_256)


def test_views_of_one_large_storage_are_written_alone(tmp_path):
    flat = torch.randn(10_000)
    weights = dfm() | {
        "vocab_embed.weight": flat[:1920].view(60, 32),
        "blocks.0.qw.weight": flat[1920:2944].view(32, 32),
    }
    model = convert(tmp_path, {"model": weights})
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, flat[1920:2944].view(32, 32))
    assert (
        sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
        < 4.1 * model.num_parameters() + 9000
    )


# The way back


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_step_size", [True, False])
def test_published_file_survives_the_round_trip_bit_for_bit(tmp_path, with_step_size, dtype):
    weights = published_weights(60, with_step_size=with_step_size, rope_theta=500.0)
    weights = {name: tensor.to(dtype) if "inv_freq" not in name else tensor for name, tensor in weights.items()}
    entry = "student_ema_model" if with_step_size else "model"
    convert_published_checkpoint(save(tmp_path, {entry: weights}), tmp_path / "out")
    export_published_checkpoint(tmp_path / "out", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert set(back) == ({"student_model", "student_ema_model"} if with_step_size else {"model"})
    assert_same_tensors(back[entry], weights)


@pytest.mark.parametrize("source_distribution", ["uniform", "mask"])
@pytest.mark.parametrize("step_size_conditioning", [True, False])
def test_model_survives_the_round_trip_bit_for_bit(tmp_path, source_distribution, step_size_conditioning):
    model = tiny_model(source_distribution=source_distribution, step_size_conditioning=step_size_conditioning)
    path = export_published_checkpoint(model, tmp_path / "model.pth")
    convert_published_checkpoint(path, tmp_path / "out", source_distribution=source_distribution)
    back = FSDFMForDiffusionLM.from_pretrained(tmp_path / "out")
    assert_same_tensors(model.state_dict(), back.state_dict())
    assert back.config.num_attention_heads == model.config.num_attention_heads


def test_exported_mask_is_never_predicted(tmp_path):
    model = tiny_model(source_distribution="mask", step_size_conditioning=False)
    content = torch.load(export_published_checkpoint(model, tmp_path / "model.pth"), weights_only=True)
    logits = reference_logits(content["model"], IDS, TIME)
    with torch.no_grad():
        expected = model(IDS, TIME).logits.softmax(-1)
    assert logits.shape[-1] == 61
    assert (logits.softmax(-1)[..., 60] == 0).all()
    torch.testing.assert_close(logits.softmax(-1)[..., :60], expected, rtol=1e-4, atol=1e-6)


def test_student_and_its_average_are_stored_once(tmp_path):
    model = tiny_model()
    path = export_published_checkpoint(model, tmp_path / "model.pth")
    assert path.stat().st_size < 1.5 * 4 * model.num_parameters()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"step_size_fusion": "add"}, "step_size_fusion is 'add', not 'concat'"),
        ({"step_size_embedding": "log2"}, "step_size_embedding is 'log2', not 'raw'"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06, not 1e-05"),
    ],
)
def test_options_without_a_published_form_are_refused(tmp_path, changes, match):
    with pytest.raises(ValueError, match=f"`model` has no published form: {match}"):
        export_published_checkpoint(tiny_model(**changes), tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


def test_what_is_no_plain_complete_model_is_refused(tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match="must be an FSDFMForDiffusionLM without adapters, but is a FSDFMModel"):
        export_published_checkpoint(model.model, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"must hold plain tensors, but model.embed_tokens.weight"):
        export_published_checkpoint(model.to("meta"), tmp_path / "model.pth")
    model = tiny_model()
    state_dict = model.state_dict()
    del state_dict["lm_head.bias"]
    model.save_pretrained(tmp_path / "folder", state_dict=state_dict)
    with pytest.raises(ValueError, match=r"has missing keys: lm_head.bias"):
        export_published_checkpoint(tmp_path / "folder", tmp_path / "model.pth")
    assert not (tmp_path / "model.pth").exists()


def test_exported_file_is_replaced_only_on_request(tmp_path):
    model, path = tiny_model(), tmp_path / "model.pth"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="`overwrite`"):
        export_published_checkpoint(model, path)
    export_published_checkpoint(model, path, overwrite=True)
    with pytest.raises(FileExistsError, match=r"exists$"):
        export_published_checkpoint(model, tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    def write_and_fail(content, file):
        Path(file).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", write_and_fail)
    with pytest.raises(KeyboardInterrupt):
        export_published_checkpoint(tiny_model(), tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


# Memory

CONVERT = """
import sys
from transformers_fsdfm import convert_published_checkpoint

convert_published_checkpoint(sys.argv[3], sys.argv[2] + "warm-up")  # imports what libraries import late
print("ready", flush=True)
for dtype in map(str.strip, sys.stdin):
    convert_published_checkpoint(sys.argv[1], sys.argv[2] + dtype, dtype=dtype)
    print("done", flush=True)
"""


def resident_bytes(process: subprocess.Popen) -> torch.Tensor:
    """All, and the part that is not mapped from files, which the system could not take back when it needs to."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return torch.tensor([1024 * int(status[name].split()[0]) for name in ("VmRSS", "RssAnon")])


def peak_while_converting(process: subprocess.Popen, dtype: str) -> torch.Tensor:
    """What the conversion adds to `resident_bytes` at most."""
    baseline = peak = resident_bytes(process)
    process.stdin.write(f"{dtype}\n".encode())
    process.stdin.flush()
    line = None
    while line != b"done\n":  # libraries may print lines of their own
        assert line != b""
        while not select.select([process.stdout], [], [], 0.002)[0]:
            peak = peak.maximum(resident_bytes(process))
        line = process.stdout.readline()
    return peak - baseline


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_by_the_converted_weights(tmp_path):
    weights = fs_dfm(30_000, hidden_size=256, num_blocks=4, num_heads=8)
    moments = {i: {"exp_avg": tensor, "exp_avg_sq": tensor + 1} for i, tensor in enumerate(weights.values())}
    content = {
        "student_model": weights,
        "student_ema_model": {name: tensor.clone() for name, tensor in weights.items()},
    }
    path = save(tmp_path, {**content, "optimizer": {"state": moments}})
    num_bytes = sum(tensor.nbytes for tensor in weights.values())
    assert path.stat().st_size > 2.9 * num_bytes
    tiny = tmp_path / "tiny.pth"
    torch.save({"model": fs_dfm(50, hidden_size=32, num_blocks=1, num_heads=2)}, tiny)
    arguments = [sys.executable, "-c", CONVERT, path, tmp_path / "out-", tiny]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(arguments, **pipes) as process:
        assert b"ready\n" in process.stdout
        everything, anonymous = peak_while_converting(process, "float32")
        assert everything < 1.3 * num_bytes
        assert anonymous < 0.3 * num_bytes
        everything, anonymous = peak_while_converting(process, "bfloat16")
        assert anonymous < 1.3 * num_bytes / 2
        process.stdin.close()
    assert process.returncode == 0
