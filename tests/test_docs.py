# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
README and docs: every block of code runs, links lead somewhere, and numbers and tables are those of the code.

All blocks of a page run in order, in one folder, with tiny models of random weights under the names that the pages use.
Python blocks of a page share their variables. Commands run in this process, with less to do (`LESS`, `FEWER`). A block
that cannot run says so on the page, in a comment `<!-- not run: why -->` above it, and is counted here (`NOT_RUN`).
"""

import io
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_model
from tests.conversion.reference_model import published_weights
from tests.documentation import INDEX, NOT_CODE, PAGES, ROOT, anchors, blocks, commands, links
from transformers_fsdfm import FSDFMGenerationConfig
from transformers_fsdfm.cli import demo as demo_module
from transformers_fsdfm.cli import main


STORY = "Once upon a time there was a tiny dog. He went home, and was happy. 你好, naïve café 🐶!"
NEEDED = {
    "demo.md": ("gradio", "matplotlib"),
    "evaluation.md": ("matplotlib", "scipy"),
    "error_growth.md": ("matplotlib",),
    "how_it_works.md": ("matplotlib",),
    "metrics.md": ("mauve", "sacrebleu"),
    "timeline.md": ("matplotlib",),
}
NOT_RUN = {
    "ablation.md": 1,  # trains for hours
    "README.md": 1,
    "error_growth.md": 1,
    "evaluation.md": 2,
    "metrics.md": 1,
    "multi_gpu.md": 1,
    "other_systems.md": 1,
    "training.md": 1,
    "trials.md": 1,
}
# What pages say that they leave behind.
LEFT = {
    "README.md": ["timeline.html", "dfm/run.yaml", "fsdfm/run.yaml"],
    "cli.md": ["stories.txt", "story.json"],
    "error_growth.md": ["growth/trajectory.json"],
    "evaluation.md": ["report/report.md", "report/scores.jsonl", "report/plots", "report/samples", "report/scores"],
    "from_published_code.md": ["my-converted/config.json", "again.pth"],
    "how_it_works.md": ["docs/images/cumulative_scalar.svg", "docs/images/thinning.svg"],
    "lora.md": ["adapter/adapter_config.json", "adapter/merged/config.json"],
    "timeline.md": ["timeline.html", "timeline.png", "race.html", "lanes.html", "docs/images/timeline_1024.png"],
    "training.md": ["dfm/run.yaml", "fsdfm/run.yaml", "fsdfm/metrics.jsonl", "fsdfm/samples.jsonl"],
}

TRAIN = "--max_steps 2 --block_size 16 --per_device_train_batch_size 2 --eval_num_times 1 --use_cpu"
DISTILL = f"{TRAIN} --num_step_size_levels 3 --max_train_documents 4"
# The last value of an option counts.
LESS = {
    "pretrain": f"{TRAIN} --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 --max_train_documents 50",
    "distill": f"{DISTILL} --sample_steps 2 --sample_num_steps 1 --num_samples 1",
    "finetune": DISTILL,
    "evaluate": "--num-samples 20 --seeds 0 --length 16 --batch-size 20 --num-resamples 100 --device cpu "
    "--metrics generative_perplexity,token_entropy,repetition,infilling_accuracy",
    "timeline": "--max-new-tokens 16",
    "trajectory": "--steps 1,2,8 --num-fine-steps 8 --lengths 16 --num-texts 1 --num-rollouts 2",
}
# What cannot be given twice is replaced.
FEWER = {
    "evaluate": {"1,2,4,8,16,1024": "8,24", "1024": "24", "unconditional,prefix-50,infill-25": "infill-25"},
    "generate": {"1024": "64"},
}


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with all that the pages take for granted."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from transformers_fsdfm.trainer.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("docs")
    tokenizer = train_tokenizer([STORY] * 9, vocab_size=300)
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "mask_token_id")}
    size = {"vocab_size": len(tokenizer) - 1, "max_position_embeddings": 64, **special}
    dfm = tiny_model(**size, step_size_conditioning=False)
    dfm.generation_config.num_steps = 4
    torch.manual_seed(0)
    gpt_size = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}
    gpt = GPT2LMHeadModel(GPT2Config(**gpt_size, bos_token_id=0, eos_token_id=0, initializer_range=0.3))
    few = tiny_model(**size)
    for name, model in {"my-fsdfm": few, "my-model": few, "my-dfm": dfm, "my-gpt": gpt, "gpt2": gpt}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    stories = [f"{STORY} The dog had {count} bones, and {count + 1} friends." for count in range(60)]
    for name in ("text.txt", "train.txt", "valid.txt"):
        (folder / name).write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    torch.save(
        {"student_model": published_weights(60), "student_ema_model": published_weights(60)}, folder / "fs_dfm.pth"
    )
    for name in ("examples/quickstart.py", "docs/figures.py"):
        (folder / name).parent.mkdir()
        shutil.copy(ROOT / name, folder / name)
    (folder / "docs" / "images").mkdir()
    return folder


class Shell:
    """The few programs that the documentation calls, in this process."""

    def __init__(self, monkeypatch, capsys) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def run(self, words: list[str]) -> None:
        """One line of a shell block."""
        while "&&" in words:
            first = words.index("&&")
            self.run(words[:first])
            words = words[first + 1 :]
        file = None
        if ">" in words:
            *words, arrow, file = words
            assert arrow == ">", words
        if words[0] == "echo":
            _, text, pipe, *words = words
            assert pipe == "|", words
            self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{text}\n".encode())))
        self.capsys.readouterr()
        programs = {"fsdfm": self.fsdfm, "python": self.python, "pip": self.pip}
        assert words[0] in programs, f"the test knows no program {words[0]}; say why it is not run: {words}"
        programs[words[0]](words[1:])
        out = self.capsys.readouterr().out
        if file is not None:
            Path(file).write_text(out, encoding="utf-8")

    def fsdfm(self, arguments: list[str]) -> None:
        command = arguments[0]
        for many, few in FEWER.get(command, {}).items():
            arguments = [re.sub(rf"\b{many}\b", few, argument) for argument in arguments]
        with pytest.raises(SystemExit) as exit_info:
            main([*arguments, *LESS.get(command, "").split()])
        if exit_info.value.code:
            pytest.fail(f"fsdfm {' '.join(arguments)}\n{self.capsys.readouterr().err}")

    def python(self, arguments: list[str]) -> None:
        program, *rest = arguments
        if program == "-c":
            exec(compile(rest[0], "python -c", "exec"), {})
            return
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            runpy.run_path(program, run_name="__main__")

    def pip(self, arguments: list[str]) -> None:
        """Nothing is installed; but the extras that are named exist."""
        setup = (ROOT / "setup.py").read_text(encoding="utf-8")
        assert arguments[0] == "install"
        extras = re.findall(r"\[([\w,-]+)\]", arguments[-1])
        assert ((extras and extras[0]) or None) is None or all(f'"{name}": ' in setup for name in extras[0].split(","))


@pytest.fixture
def shell(world, tmp_path, monkeypatch, capsys) -> Shell:
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers_fsdfm.demo.page.serve", lambda *_: "there")
    monkeypatch.setattr(demo_module, "_wait", lambda: None)
    return Shell(monkeypatch, capsys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page.parent == ROOT else f"docs/{page.name}")
def test_every_block_of_the_page_runs(page, shell):
    for library in NEEDED.get(page.name, ()) if page != INDEX else ():
        pytest.importorskip(library)
    variables = {"__name__": "__main__"}
    for block in blocks(page):
        if block.reason is not None or block.language in NOT_CODE:
            continue
        if block.language == "python":
            # So many empty lines in front that a traceback names the line of the page.
            exec(compile("\n" * block.line + block.code, str(page), "exec"), variables)
            continue
        assert block.language == "bash", f"{page.name}:{block.line}: a block of {block.language or 'no language'}"
        for words in commands(block.code):
            shell.run(words)
    left = LEFT.get(page.name, []) if page != INDEX else []
    assert [name for name in left if not Path(name).exists()] == []


def test_blocks_that_are_not_run_are_known():
    found = {page.name: sum(block.reason is not None for block in blocks(page)) for page in PAGES if page != INDEX}
    assert {name: count for name, count in found.items() if count} == NOT_RUN


def test_every_fence_belongs_to_a_block():
    for page in PAGES:
        fences = re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), page


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_index():
    linked = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links(INDEX)}
    assert [page.name for page in PAGES[1:] if page != INDEX and page.resolve() not in linked] == []
    assert INDEX.resolve() in {(ROOT / link).resolve() for link in links(ROOT / "README.md")}


def test_pictures_are_small():
    sizes = {file.name: file.stat().st_size for file in INDEX.parent.rglob("*.svg")}
    assert sizes
    assert max(sizes.values()) < 100_000


# ---- Tables that repeat what the code says ---------------------------------------------------------------------------


def table_rows(page: str) -> list[list[str]]:
    """All rows of all tables of a page, as their cells."""
    text = (INDEX.parent / page).read_text(encoding="utf-8")
    return [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE)]


def test_every_setting_of_generate_is_described_with_its_default():
    rows = {cells[0].strip("`"): cells[1] for cells in table_rows("generate.md")}
    assert set(FSDFMGenerationConfig._fields) <= set(rows)
    for name, default in FSDFMGenerationConfig._defaults.items():
        assert rows[name].strip("`").strip('"') == str(default), name


def test_every_argument_of_generate_is_described():
    import inspect

    from transformers_fsdfm import FSDFMForDiffusionLM

    rows = {cells[0].strip("`") for cells in table_rows("generate.md")}
    assert set(inspect.signature(FSDFMForDiffusionLM.generate).parameters) - {"self", "kwargs"} <= rows


def test_numbers_in_how_it_works_are_those_of_the_figures():
    figures = runpy.run_path(str(ROOT / "docs" / "figures.py"))
    jump, left, share = (figures[name] for name in ("jump_probabilities", "untouched_share", "head_share"))
    rows = [cells for cells in table_rows("how_it_works.md") if cells[0].isdigit()]
    for num_steps, cells in zip(figures["NUM_STEPS"], rows[:5], strict=True):
        both = [(jump(one, num_steps)[0], *left(one, num_steps)[-2:]) for one in ("cumulative_scalar", "euler")]
        expected = [f"{float(value):.4f}" for pair in zip(*both, strict=True) for value in pair]
        assert cells == [str(num_steps), *expected]
    for num_steps, cells in zip(figures["NUM_STEPS"], rows[5:], strict=True):
        assert cells == [str(num_steps), f"{100 * share(num_steps):.1f} %"]
        assert figures["counted_head_share"](num_steps) == pytest.approx(share(num_steps), rel=0.02)


def test_published_names_in_the_table_are_those_of_the_converter():
    from transformers_fsdfm.conversion.published import BLOCK_MODULES, MODULES

    rows = {cells[0]: cells[1] for cells in table_rows("from_published_code.md")}
    text = " ".join([*rows, *rows.values()])
    for ours, theirs in {**MODULES, **BLOCK_MODULES}.items():
        for name in (ours, theirs):
            assert name.rpartition(".")[2] in text, name
