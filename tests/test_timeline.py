# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""When did each token settle: the record, and how it is shown as a page, a picture and on a terminal."""

# ruff: noqa: RUF001 (letters of other scripts are what is tested)

import io
import itertools
import math
import re
import xml.etree.ElementTree
from html.parser import HTMLParser

import pytest
import torch
from rich.cells import cell_len

from tests.conftest import generator, tiny_model
from transformers_fsdfm import FSDFMGenerationOutput
from transformers_fsdfm.timeline import AutoregressiveRun, StepClock, Timeline, colors, picture, race_html, save_race
from transformers_fsdfm.timeline.cells import MAX_TOKENS_PER_CELL, make_visible
from transformers_fsdfm.timeline.layout import Piece, visual_order, wrap
from transformers_fsdfm.timeline.picture import COLUMN_WIDTH, race_frames, replay_frames
from transformers_fsdfm.trainer.tokenizer import train_tokenizer


EOS, PAD = 0, 1
ESCAPE_CODE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A byte-level BPE with merges for one English sentence alone: other scripts fall into bytes."""
    return train_tokenizer(["Once upon a time there was a tiny dog. "] * 9, vocab_size=300)


@pytest.fixture(scope="module")
def byte_model(byte_tokenizer):
    return tiny_model(vocab_size=len(byte_tokenizer) - 1, mask_token_id=len(byte_tokenizer) - 1)


def encode(text: str, tokenizer) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def output_of(*canvases: list[int], sequences: list[int] | None = None) -> FSDFMGenerationOutput:
    """The output of a run of one row that went through these canvases."""
    history = tuple(torch.tensor([canvas]) for canvas in canvases)
    return FSDFMGenerationOutput(
        sequences=history[-1] if sequences is None else torch.tensor([sequences]), history=history
    )


def written(text: str, tokenizer, num_steps: int = 8) -> Timeline:
    """A timeline that ends in `text`, whose tokens come one after the other, as fast as the steps allow."""
    ids = encode(text, tokenizer)
    start = [(token_id + 1) % 250 + 2 for token_id in ids]
    reached = [len(ids) * step // num_steps for step in range(num_steps + 1)]
    return Timeline.from_output(output_of(*(ids[:count] + start[count:] for count in reached)), tokenizer)


def of_model(model, tokenizer, prompt: str = "Once upon", **options) -> tuple[FSDFMGenerationOutput, Timeline]:
    inputs = torch.tensor([encode(prompt, tokenizer)])
    output = model.generate(
        inputs, generator=generator(0), return_dict_in_generate=True, output_history=True, **options
    )
    return output, Timeline.from_output(output, tokenizer, input_ids=inputs)


# The record


def test_counts_are_those_of_the_steps_in_which_generate_saw_the_last_changes(byte_model, byte_tokenizer):
    output, timeline = of_model(byte_model, byte_tokenizer, num_steps=8, max_length=32)
    num_given = len(encode("Once upon", byte_tokenizer))
    new = output.last_changed_step[0, num_given:]
    assert timeline.counts == tuple((new == step).sum().item() for step in range(9))
    assert timeline.num_given == num_given
    assert sum(timeline.counts) + timeline.num_given == 32
    assert sum(entry.num_tokens for entry in timeline.bins) == sum(timeline.counts)
    assert timeline.num_steps == 8


def test_text_after_every_step_is_what_the_canvas_held(byte_tokenizer):
    texts = [" there was tiny", " there upon tiny", "Once upon a", "Once upon a"]
    canvases = [encode(text, byte_tokenizer) for text in texts]
    assert len({len(canvas) for canvas in canvases}) == 1
    timeline = Timeline.from_output(output_of(*canvases), byte_tokenizer)
    for step, text in enumerate(texts):
        assert "".join(cell.text_at(step) for cell in timeline.cells) == text
    assert timeline.text == "Once upon a"
    once = next(cell for cell in timeline.cells if cell.settled_step == 2)
    assert once.history[-1][0] == 2
    assert timeline.counts[3] == 0


def test_rows_of_a_batch_have_their_own_timelines(byte_model, byte_tokenizer):
    prompts = torch.tensor([encode("Once upon a time", byte_tokenizer)[:3], encode("tiny dog. a", byte_tokenizer)[:3]])
    output = byte_model.generate(
        prompts,
        num_return_sequences=2,
        num_steps=2,
        max_new_tokens=4,
        generator=generator(1),
        return_dict_in_generate=True,
        output_history=True,
    )
    for row in range(4):
        timeline = Timeline.from_output(output, byte_tokenizer, row=row, input_ids=prompts)
        given = "".join(cell.text for cell in timeline.cells if cell.kind == "given")
        assert given.startswith(byte_tokenizer.decode(prompts[row // 2]))
        assert timeline.num_given == 3


def test_a_token_that_was_right_from_the_start_is_given_only_if_it_stood_in_the_prompt(byte_tokenizer):
    ids = encode("Once upon a", byte_tokenizer)
    output = output_of([*ids[:-1], ids[0]], ids)
    assert Timeline.from_output(output, byte_tokenizer).num_given == len(ids) - 1
    timeline = Timeline.from_output(output, byte_tokenizer, input_ids=torch.tensor([ids[:1]]))
    assert timeline.num_given == 1
    assert timeline.counts == (len(ids) - 2, 1)
    assert [(entry.label, entry.num_tokens) for entry in timeline.bins] == [("0", len(ids) - 2), ("1", 1)]
    blank = torch.tensor([[ids[0], byte_tokenizer.mask_token_id, *ids[2:]]])
    assert Timeline.from_output(output, byte_tokenizer, input_ids=blank).counts == (1, 1)


@pytest.mark.parametrize(
    ("num_steps", "labels", "first_color"),
    [
        (1, ["1"], 7),
        (2, ["1", "2"], 3),
        (5, ["1", "2", "3", "4", "5"], 1),
        (8, ["1", "2", "3", "4", "5", "6", "7", "8"], 0),
        (12, ["1", "2-3", "4", "5-6", "7", "8-9", "10", "11-12"], 0),
        (1024, [f"{first}-{first + 127}" for first in range(1, 1024, 128)], 0),
    ],
)
def test_steps_share_at_most_eight_colours_that_end_with_the_last(byte_tokenizer, num_steps, labels, first_color):
    timeline = written("Once upon a time there was a tiny dog. " * 3, byte_tokenizer, num_steps)
    assert [entry.label for entry in timeline.bins] == labels
    assert timeline.bins[0].color == first_color
    assert timeline.bins[-1].color == timeline.color_of(num_steps) == 7
    bins = [(entry.first_step, entry.last_step) for entry in timeline.bins]
    assert [entry.num_tokens for entry in timeline.bins] == [sum(timeline.counts[a : b + 1]) for a, b in bins]


def test_autoregressive_tokens_settle_one_after_the_other(byte_tokenizer):
    ids = encode("Once upon a time", byte_tokenizer)
    run = AutoregressiveRun(ids, [0.5] + [0.25] * (len(ids) - 2), prompt_length=1)
    timeline = Timeline.from_autoregressive(run, byte_tokenizer, title="AR")
    assert timeline.counts == (0, *[1] * (len(ids) - 1))
    assert timeline.seconds[:3] == (0.5, 0.75, 1.0)
    texts = ["".join(cell.text_at(step) for cell in timeline.cells) for step in range(len(ids))]
    assert texts[-1] == "Once upon a time"
    assert all(after.startswith(before) and after != before for before, after in itertools.pairwise(texts))


def test_autoregressive_models_of_transformers_are_measured(byte_tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=299, pad_token_id=0)
    )
    prompt = torch.tensor([encode("Once", byte_tokenizer)])
    run = AutoregressiveRun.measure(model, prompt, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert len(run.ids) == prompt.shape[1] + 3
    assert run.prompt_length == prompt.shape[1]
    assert len(run.durations) == 3
    assert all(duration > 0 for duration in run.durations)
    with pytest.raises(ValueError, match=r"`input_ids` must be of shape \(1, prompt_length\)"):
        AutoregressiveRun.measure(model, prompt.repeat(2, 1))


def test_step_clock_gives_every_step_its_time(byte_model, byte_tokenizer):
    clock = StepClock()
    output, _ = of_model(byte_model, byte_tokenizer, num_steps=3, max_new_tokens=8, callback_on_step_end=clock)
    timeline = Timeline.from_output(output, byte_tokenizer, seconds=clock.seconds)
    assert len(timeline.seconds) == 3
    assert 0 < timeline.seconds[0] <= timeline.seconds[1] <= timeline.seconds[2]
    assert [timeline.step_at(time) for time in (0, timeline.seconds[0], timeline.seconds[2])] == [0, 1, 3]
    assert Timeline.from_output(output, byte_tokenizer, seconds=6).seconds == (2, 4, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"row": 1}, r"`row` must be in \[0, 1\)"),
        ({"row": -1}, r"`row` must be in \[0, 1\)"),
        ({"seconds": [1.0, 2.0]}, "`seconds` must be one time for each of the 1 steps, but has 2"),
        ({"seconds": [-1.0]}, "`seconds` must be the times"),
        ({"seconds": float("nan")}, "`seconds` must be the times"),
        (
            {"input_ids": torch.zeros(1, 9, dtype=torch.long)},
            r"`input_ids` must be what `generate` was given.*\(1, 9\)",
        ),
        ({"input_ids": torch.zeros(2, 1, dtype=torch.long)}, "`input_ids` must be what"),
    ],
)
def test_arguments_that_do_not_fit_are_named(byte_tokenizer, options, words):
    output = output_of(*[encode("Once upon a", byte_tokenizer)] * 2)
    with pytest.raises(ValueError, match=words):
        Timeline.from_output(output, byte_tokenizer, **options)


def test_an_output_without_history_or_steps_says_so(byte_tokenizer):
    nothing = output_of([5, 6])
    with pytest.raises(ValueError, match="`output` has no steps"):
        Timeline.from_output(nothing, byte_tokenizer)
    for output in (FSDFMGenerationOutput(sequences=torch.zeros(1, 2, dtype=torch.long)), torch.zeros(1, 2)):
        with pytest.raises(ValueError, match="return_dict_in_generate=True, output_history=True"):
            Timeline.from_output(output, byte_tokenizer)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1, 2], 0.1, 2), "`prompt_length` must be in"),
        (([1, 2], [0.1]), "`seconds_per_token` must be a number or 2 numbers, but has 1"),
        (([1, 2], -0.1), "`seconds_per_token` must be finite"),
    ],
)
def test_autoregressive_runs_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        AutoregressiveRun(*arguments)


# Characters


@pytest.mark.parametrize(
    "character",
    [
        "é",
        "€",
        "😀",
        "e\u0301",
        "👩\u200d👩\u200d👧",
        "🇫🇷",
        "👍🏽",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    ],
)
def test_a_character_in_several_tokens_is_shown_whole_in_the_colour_of_its_latest(byte_tokenizer, character):
    ids = encode(character, byte_tokenizer)
    assert len(ids) == len(character.encode())  # a token for each byte
    space = encode(" a", byte_tokenizer)
    canvases = [[*ids[:count], *[ids[0]] * (len(ids) - count), *space] for count in range(len(ids) + 1)]
    canvases[0] = [(token_id + 1) % 200 + 2 for token_id in ids] + space
    timeline = Timeline.from_output(output_of(*canvases, [*ids, *space]), byte_tokenizer)
    assert timeline.cells[0].text == character
    assert timeline.cells[0].settled_step == max(step for step, count in enumerate(timeline.counts) if count)
    assert "".join(cell.text for cell in timeline.cells) == character + " a"
    assert sum(timeline.counts) == len(ids)


def test_a_token_that_ends_in_the_middle_of_a_character_is_joined_with_the_next():
    tokenizer = train_tokenizer(["aक"] * 5 + ["aख"] * 5, vocab_size=260)  # merges "a" and two of three bytes
    ids = encode("aकb", tokenizer)
    assert len(ids) == 3
    assert "�" in tokenizer.decode(ids[:1])
    timeline = Timeline.from_output(output_of([5, 5, 5], [ids[0], 5, 5], [ids[0], 5, ids[2]], ids), tokenizer)
    assert [(cell.text, cell.settled_step) for cell in timeline.cells] == [("aक", 3), ("b", 2)]


def test_bytes_that_are_no_character_stand_alone(byte_tokenizer):
    euro = encode("€", byte_tokenizer)
    ids = [euro[0], *encode("a", byte_tokenizer), euro[1], euro[2]]
    timeline = Timeline.from_output(output_of([5] * 4, ids), byte_tokenizer)
    assert [cell.text for cell in timeline.cells] == ["�", "a", "�", "�"]


def test_a_tower_of_accents_is_cut_so_that_the_record_stays_small(byte_tokenizer):
    ids = encode("a" + "\u0301" * 100, byte_tokenizer)
    timeline = Timeline.from_output(output_of([5] * len(ids), ids), byte_tokenizer)
    assert timeline.text == "a" + "\u0301" * 100
    assert len(timeline.cells) == math.ceil(len(ids) / MAX_TOKENS_PER_CELL)


def test_what_cannot_be_seen_is_shown_by_a_mark(byte_tokenizer):
    text = "a \n\tb\r\x1b[31m\x00\u202ec\u200bd\u2028e\u00ad↵\x7f\x85"
    assert written(text, byte_tokenizer).text == ("a ↵⇥b␍␛[31m␀⟨U+202E⟩c⟨U+200B⟩d⟨U+2028⟩e⟨U+00AD⟩⟨U+21B5⟩␡⟨U+0085⟩")
    assert make_visible("🏴\n🏴\u200ba\U000e0067") == "🏴↵🏴⟨U+200B⟩a⟨U+E0067⟩"
    assert make_visible("می\u200cخواهم 👩\u200d👧 ❤\ufe0f") == "می\u200cخواهم 👩\u200d👧 ❤\ufe0f"


def test_special_tokens_are_shown_and_marked(byte_tokenizer):
    ids = [*encode("Once", byte_tokenizer), EOS, PAD, byte_tokenizer.mask_token_id, 999]
    timeline = Timeline.from_output(output_of([5] * len(ids), ids), byte_tokenizer)
    special = [cell.text for cell in timeline.cells if cell.is_special]
    assert special == ["<|endoftext|>", "<|pad|>", "<|mask|>", "⟨999⟩"]
    assert not timeline.cells[0].is_special
    assert (
        timeline.to_html().count("fsdfm-special")
        - Timeline.from_output(output_of([5], [6]), byte_tokenizer).to_html().count("fsdfm-special")
        == 4
    )


def test_what_was_cleared_after_the_end_is_padding_and_settled_never(byte_tokenizer):
    ids = [*encode("Once upon", byte_tokenizer), EOS, *encode(" a tiny", byte_tokenizer)]
    end = ids.index(EOS) + 1
    sequences = ids[:end] + [PAD] * (len(ids) - end)
    timeline = Timeline.from_output(output_of([5] * len(ids), ids, sequences=sequences), byte_tokenizer)
    assert [cell.kind for cell in timeline.cells[end:]] == ["cleared"] * (len(ids) - end)
    assert sum(timeline.counts) == end
    assert timeline.text == "Once upon<|endoftext|>" + "<|pad|>" * (len(ids) - end)
    assert timeline.num_given == 0


def test_padding_in_front_of_a_prompt_is_given(byte_tokenizer):
    prompt = [PAD, PAD, *encode("Once", byte_tokenizer)]
    ids = [*prompt, *encode(" upon", byte_tokenizer)]
    output = output_of([*prompt, *[5] * (len(ids) - len(prompt))], ids)
    timeline = Timeline.from_output(output, byte_tokenizer, input_ids=torch.tensor([prompt]))
    assert [(cell.kind, cell.is_special) for cell in timeline.cells[:2]] == [("given", True)] * 2


def test_words_of_other_tokenizers_keep_their_spaces(tokenizer):
    ids = encode("w5 w7 w9", tokenizer)
    timeline = Timeline.from_output(output_of([10, 11, 12], [10, 7, 12], ids), tokenizer)
    assert [cell.text for cell in timeline.cells] == ["w5", " w7", " w9"]
    assert timeline.cells[0].history == ((0, "w10"), (2, "w5"))


def test_sentencepiece_bytes_and_spaces_are_understood():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "▁Once", "▁upon", "<0xE2>", "<0x82>", "<0xAC>"]
    backend = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], unk_token="<unk>"))
    strip = decoders.Strip(content=" ", left=1)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    timeline = Timeline.from_output(output_of([2] * 5, [1, 2, 3, 4, 5]), tokenizer)
    assert [cell.text for cell in timeline.cells] == ["Once", " upon", "€"]


# Lines


def lines_of(texts: list[str], columns: int) -> list[str]:
    return ["".join(piece.text for piece in line) for line in wrap(texts, columns)]


def test_lines_break_between_words_and_after_line_breaks():
    assert lines_of(["Once", " up", "on", " a", " time", "↵", "↵", "The", " end"], 10) == [
        "Once upon",
        " a time↵",
        "↵",
        "The end",
    ]
    assert lines_of([], 10) == [""]
    assert lines_of(["a↵b"], 10) == ["a↵", "b"]


def test_long_words_and_wide_characters_fit_the_line():
    assert lines_of(["a" * 25], 10) == ["a" * 10, "a" * 10, "a" * 5]
    assert lines_of(["漢字" * 6], 9) == ["漢字漢字", "漢字漢字", "漢字漢字"]
    assert lines_of(["x", "漢" * 4, "字"], 9) == ["x漢漢漢漢", "字"]


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["one", " two", " three"], "one two three"),
        (["אחת", " שתיים", " שלוש"], "שלוש שתיים אחת"),
        (["one", " אחת", " שתיים", " two"], "one שתיים אחת two"),
        (["אחת", " one", " two", " שתיים"], "שתיים one two אחת"),
        (["אחת", " ", "12", "34", " ", "שתיים"], "שתיים 1234 אחת"),
        (["אחת", " 12", " one", "!", " שתיים"], "שתיים !one 12 אחת"),
        (["one", " ", "אחת", "!"], "one אחת!"),
        (["...", "אחת", "!"], "!אחת..."),
        (["", "one"], "one"),
        ([], ""),
    ],
)
def test_pieces_stand_in_the_order_of_the_bidirectional_algorithm(texts, shown):
    line = [Piece(index, text, len(text)) for index, text in enumerate(texts)]
    assert "".join(piece.text for piece in visual_order(line)) == shown
    assert sum(piece.width for piece in visual_order(line)) == len("".join(texts))


# Colours


def relative_luminance(color: str) -> float:
    """As WCAG 2.2 defines it."""
    parts = [part / 255 for part in colors.to_rgb(color)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((relative_luminance(one), relative_luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_on_every_colour():
    assert len(set(colors.COLORS)) == 8
    assert min(contrast(colors.TEXT_COLOR, color) for color in colors.COLORS) >= 7  # WCAG AAA
    assert min(contrast(colors.DIM_COLOR, color) for color in colors.COLORS) >= 4.5  # WCAG AA
    assert contrast(colors.GIVEN_COLOR, colors.PAGE_COLOR) >= 7
    assert min(contrast("#ffffff", color) for color in colors.DARKENED_COLORS) >= 7


# What is left of colours without one of the three kinds of cones: Machado, Oliveira and Fernandes (2009), severity 1.
VISIONS = {
    "full": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_and_darken_for_every_vision(vision):
    for ramp, distance in ((colors.COLORS, 7.5), (colors.DARKENED_COLORS[::-1], 5.9)):
        seen = [lab(color, VISIONS[vision]) for color in ramp]
        assert min(math.dist(one, other) for one, other in itertools.combinations(seen, 2)) > distance
        lightness = [color[0] for color in seen]
        assert lightness == sorted(lightness, reverse=True)


def lab(color: str, vision: list[list[float]]) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of a colour as it is seen."""
    parts = [part / 255 for part in colors.to_rgb(color)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    red, green, blue = (min(1, max(0, sum(map(float.__mul__, map(float, row), linear)))) for row in vision)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


# The page


class Page(HTMLParser):
    """Elements with their attributes and own text; fails on tags that do not match."""

    VOID = ("meta", "input", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs), []))
        if tag not in self.VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if self._open:
            self._open[-1][2].append(data)

    def find(self, tag: str, class_: str = "") -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, "".join(data))
            for found, attributes, data in self.elements
            if found == tag and (not class_ or class_ in (attributes.get("class") or "").split())
        ]


def tokens_of(html: str) -> list[tuple[dict[str, str | None], str]]:
    return Page(html).find("span", "fsdfm-t")


def test_page_shows_the_text_with_colours_histories_and_counts(byte_model, byte_tokenizer):
    _, timeline = of_model(byte_model, byte_tokenizer, num_steps=8, max_length=32)
    html = timeline.to_html()
    tokens = tokens_of(html)
    assert "".join(text for _, text in tokens) == timeline.text.replace("↵", "↵\n")
    for (attributes, _), cell in zip(tokens, timeline.cells, strict=True):
        assert attributes["title"] == "\n".join(f"{step}: {text}" for step, text in cell.history)
        color = "fsdfm-given" if cell.kind == "given" else f"fsdfm-c{timeline.color_of(cell.settled_step)}"
        assert color in attributes["class"].split()
    rows = [text for _, text in Page(html).find("td")]
    assert [f"{entry.num_tokens}" for entry in timeline.bins] + [f"{timeline.num_given}"] == rows[1::3]


def test_page_needs_nothing_from_anywhere(byte_tokenizer):
    html = written("Once upon a time", byte_tokenizer).to_html()
    for tag, attributes, _ in Page(html).elements:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert not {"src", "href", "srcset", "action"} & attributes.keys()
    assert not re.search(r"https?:|//\w|url\(|@import|import\(|fetch\(|XMLHttpRequest", strip_comments(html))


def strip_comments(html: str) -> str:
    return re.sub(r"^\s*//.*$", "", html, flags=re.MULTILINE)


def test_everything_on_the_page_is_escaped(byte_tokenizer):
    nasty = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&lt;"
    ids = encode(nasty, byte_tokenizer)
    output = output_of([5] * len(ids), ids)
    harmless = Page(written("Once", byte_tokenizer).to_html())
    for html in (
        Timeline.from_output(output, byte_tokenizer, title=nasty).to_html(),
        race_html([Timeline.from_output(output, byte_tokenizer, title=nasty, seconds=1.0)]),
    ):
        page = Page(html)
        assert "".join(text for _, text in page.find("span", "fsdfm-t")) == nasty
        assert len(page.find("script")) == len(harmless.find("script")) == 1
        assert not page.find("img")
        assert any(text == nasty for tag in ("h1", "h2") for _, text in page.find(tag))


def test_page_and_fragment_have_languages_directions_and_names_for_readers(byte_tokenizer):
    timeline = written("Once upon a time", byte_tokenizer)
    page = Page(timeline.to_html())
    assert page.find("html")[0][0]["lang"] == "en"
    text = page.find("div", "fsdfm-text")[0][0]
    assert (text["lang"], text["dir"]) == ("", "auto")
    assert page.find("section")[0][0]["aria-label"]
    assert page.find("table")
    assert page.find("caption")
    assert page.find("th")[0][0]["scope"] == "col"
    assert page.find("div", "fsdfm-details")[0][0]["role"] == "status"
    assert page.find("button")[0][0]["type"] == "button"
    assert "Step" in page.find("label")[0][1]
    fragment = timeline.to_html(full_page=False)
    assert fragment.startswith("<section")
    assert fragment.rstrip().endswith("</section>")
    assert not {"html", "head", "body", "main", "title"} & {tag for tag, *_ in Page(fragment).elements}


def test_styles_of_a_fragment_touch_nothing_else(byte_tokenizer):
    fragment = written("Once", byte_tokenizer).to_html(full_page=False)
    ((_, sheet),) = Page(fragment).find("style")
    rules = re.findall(r"([^{}]+)\{[^{}]*\}", re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL))
    assert len(rules) > 20
    for selector in itertools.chain.from_iterable(re.sub(r"\([^()]*\)", "", rule).split(",") for rule in rules):
        assert selector.strip().startswith(".fsdfm-"), selector
    assert "PAGE_COLOR" not in sheet
    names = {name for attributes in Page(fragment).elements for name in (attributes[1].get("class") or "").split()}
    assert all(name.startswith("fsdfm-") for name in names)
    assert not any("id" in attributes for _, attributes, _ in Page(fragment).elements)


def test_1024_tokens_and_1024_steps_stay_small(byte_tokenizer):
    """With 12 changes of every token, more than the sampler makes: a uniform source has about ln 1024 = 7."""
    random = generator(0)
    canvases = torch.randint(2, 298, (1, 1024), generator=random).repeat(1025, 1)
    for position in range(1024):
        for step in torch.randint(1, 1025, (12,), generator=random).sort().values.tolist():
            canvases[step:, position] = torch.randint(2, 298, (), generator=random)
    output = FSDFMGenerationOutput(sequences=canvases[-1:], history=tuple(canvases[:, None]))
    timeline = Timeline.from_output(output, byte_tokenizer)
    assert sum(timeline.counts) == 1024
    assert len(timeline.to_html().encode()) < 400_000


@pytest.mark.slow
@pytest.mark.parametrize("source", ["uniform", "mask"])
def test_a_real_run_of_1024_steps_stays_small(byte_tokenizer, source, capsys):
    size = {"vocab_size": len(byte_tokenizer) - 1, "mask_token_id": len(byte_tokenizer) - 1, "num_hidden_layers": 1}
    model = tiny_model(**size, source_distribution=source, max_position_embeddings=1024)
    output = model.generate(num_steps=1024, generator=generator(0), return_dict_in_generate=True, output_history=True)
    html = Timeline.from_output(output, byte_tokenizer).to_html()
    with capsys.disabled():
        print(f"\n{source} source, 1,024 tokens, 1,024 steps: {len(html.encode()) / 1000:.0f} kB")
    assert len(html.encode()) < 400_000


# The terminal


def test_terminal_shows_the_text_in_as_many_colours_as_there_are(byte_tokenizer, monkeypatch):
    timeline = written("Once upon a time there was a tiny dog.", byte_tokenizer)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    true_color = timeline.to_ansi(width=60)
    assert len(set(re.findall(r"48;2;\d+;\d+;\d+", true_color))) == 8
    monkeypatch.delenv("COLORTERM")
    palette = timeline.to_ansi(width=60)
    assert len(set(re.findall(r"48;5;\d+", palette))) == 8
    assert "48;2;" not in palette
    for shown in (true_color, palette):
        assert ESCAPE_CODE.sub("", shown).startswith("Once upon a time there was a tiny dog.\n")
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert "\x1b" not in timeline.to_ansi(width=60)
            assert "\x1b" in timeline.to_ansi(width=60, color=True)


def test_palette_of_256_is_close_to_the_true_colours():
    assert colors.TERMINAL_TEXT_COLOR == 232  # #080808
    for color, index in zip(colors.COLORS, colors.TERMINAL_COLORS, strict=True):
        cube = index - 16
        levels = (0, 95, 135, 175, 215, 255)
        known = (levels[cube // 36], levels[cube // 6 % 6], levels[cube % 6])
        assert math.dist(known, colors.to_rgb(color)) < 21
        assert contrast("#080808", "#{:02x}{:02x}{:02x}".format(*known)) >= 7


def test_without_colours_digits_below_the_text_say_when(byte_tokenizer):
    ids = encode("Once upon a", byte_tokenizer)
    prompt, new = ids[:1], ids[1:]
    middle = [*prompt, new[0], *[5] * (len(new) - 1)]
    output = output_of([*prompt, *[5] * len(new)], middle, middle, ids)
    timeline = Timeline.from_output(output, byte_tokenizer, input_ids=torch.tensor([prompt]), title="A title")
    lines = timeline.to_ansi(width=40, color=False).splitlines()
    given, first = (len(byte_tokenizer.decode([token_id])) for token_id in ids[:2])
    assert lines[0] == "A title"
    assert lines[2] == "Once upon a"
    assert lines[3] == " " * given + "3" * first + "8" * (len("Once upon a") - given - first)
    legend = "\n".join(lines[5:])
    assert re.search(rf"8  step 3 +{len(new) - 1}\b", legend)
    assert re.search(r"given +1\b", legend)


def test_terminal_lines_keep_within_the_width(byte_tokenizer):
    text = "Once upon a time 漢字漢字漢字漢字漢字漢字漢字 👩\u200d👩\u200d👧 " + "a" * 50 + "\nשלום עולם\x1b[2J"
    timeline = written(text, byte_tokenizer)
    for width in (20, 33):
        shown = timeline.to_ansi(width=width, color=True)
        lines = ESCAPE_CODE.sub("", shown).splitlines()
        assert max(cell_len(line) for line in lines[: lines.index("")]) <= width
        assert "\x1b[2J" not in shown
        assert "".join(lines[: lines.index("")]) == timeline.text
    with pytest.raises(ValueError, match="`width` must be at least 20"):
        timeline.to_ansi(width=19)


# Files


def test_a_suffix_that_is_not_known_and_a_missing_folder_are_errors_before_any_work(byte_tokenizer, tmp_path):
    timeline = written("Once", byte_tokenizer)
    with pytest.raises(ValueError, match=r"`path` must end in .html, .png, .svg, .gif, .txt, but is .*timeline.pdf"):
        timeline.save(tmp_path / "timeline.pdf")
    with pytest.raises(FileNotFoundError, match="folder that does not exist"):
        timeline.save(tmp_path / "none" / "timeline.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        timeline.save(tmp_path / "folder.html")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(byte_tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "timeline.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("transformers_fsdfm.timeline.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        written("Once", byte_tokenizer).save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_page_and_text_are_saved(byte_tokenizer, tmp_path):
    timeline = written("Once upon é", byte_tokenizer)
    timeline.save(tmp_path / "timeline.HTML")
    assert (tmp_path / "timeline.HTML").read_text(encoding="utf-8") == timeline.to_html()
    timeline.save(str(tmp_path / "timeline.txt"))
    assert (tmp_path / "timeline.txt").read_text(encoding="utf-8").startswith("Once upon é\n")


def open_image(content):
    image = pytest.importorskip("PIL.Image")
    return image.open(io.BytesIO(content) if isinstance(content, bytes) else content)


@pytest.fixture
def pictures():
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")


def test_png_shows_every_colour(pictures, byte_tokenizer, tmp_path):
    timeline = written("Once upon a time there was a tiny dog. $x_1$ 100%", byte_tokenizer)
    timeline.save(tmp_path / "timeline.png")
    image = open_image(tmp_path / "timeline.png").convert("RGB")
    shown = {color for _, color in image.getcolors(image.width * image.height)}
    assert {colors.to_rgb(color) for color in colors.COLORS} <= shown


def test_svg_is_whole_and_the_same_every_time(pictures, byte_tokenizer, tmp_path):
    timeline = written("Once <upon> & a time", byte_tokenizer)
    contents = []
    for name in ("one.svg", "two.svg"):
        timeline.save(tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert xml.etree.ElementTree.fromstring(contents[0]).tag.endswith("svg")
    assert all(color in contents[0].decode() for color in colors.COLORS)


def test_gif_has_a_frame_for_every_step_up_to_a_limit(pictures, byte_tokenizer, tmp_path):
    timeline = written("Once upon a time", byte_tokenizer, num_steps=4)
    timeline.save(tmp_path / "timeline.gif")
    image = open_image(tmp_path / "timeline.gif")
    assert image.n_frames == 5
    assert image.info["loop"] == 0
    image.seek(4)
    frame = image.convert("RGB")
    shown = {color for _, color in frame.getcolors(frame.width * frame.height)}
    assert {colors.to_rgb(colors.COLORS[index]) for index in (1, 3, 5, 7)} | {(255, 255, 255)} <= shown
    frames = replay_frames(written("Once", byte_tokenizer, num_steps=1024))
    assert len(frames) == 33
    assert (frames[0].steps, frames[-1].steps) == ((0,), (1024,))
    assert sum(frame.milliseconds for frame in frames[:-1]) == pytest.approx(10_000, rel=0.01)


def test_right_to_left_lines_are_drawn_from_the_right(pictures, byte_tokenizer):
    for words in ("שלום עולם", "مرحبا بكم"):  # the grid's own font has Arabic, but no Hebrew
        drawn = texts_drawn(written(f"{words}\nabc", byte_tokenizer))
        first_line = min(y for _, y, _ in drawn)
        line = sorted(((x, text) for x, y, text in drawn if y == first_line), reverse=True)
        assert [text for _, text in line] == [*words.replace(" ", ""), "↵"]
        assert line[0][0] == 79 * COLUMN_WIDTH
        assert [(x, text) for x, y, text in drawn if y > first_line] == [(0, "abc")]


@pytest.mark.parametrize("resolution", [picture.DPI, picture.GIF_DPI])
def test_long_texts_are_as_wide_as_their_columns(pictures, byte_tokenizer, resolution):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    frame = picture.Frame((8,), 0)
    figure = picture._draw_frame(picture._Grid([written("m" * 79, byte_tokenizer)], [frame]), frame)
    figure.set_dpi(resolution)
    FigureCanvasAgg(figure).draw()
    (text,) = (text for text in figure.axes[0].texts if text.get_text() == "m" * 79)
    assert text.get_window_extent().width == pytest.approx(79 * COLUMN_WIDTH * resolution / 72, abs=3)


def test_text_stands_on_its_background(pictures, byte_tokenizer):
    """Neighbours in the same style are drawn as one text, which must not move what follows."""
    ids = encode("Once upon a éא time", byte_tokenizer)
    half = ids[: len(ids) // 2]
    output = output_of([5] * len(ids), [*half, *[5] * (len(ids) - len(half))], [*half, EOS, *ids[len(half) + 1 :]])
    timeline = Timeline.from_output(output, byte_tokenizer)
    columns = {}
    for x, _, text in texts_drawn(timeline):
        for offset, character in enumerate(text):
            columns[round(x / COLUMN_WIDTH) + offset] = character
    expected = {column: character for column, character in enumerate(timeline.text) if character != " "}
    assert {column: character for column, character in columns.items() if character != " "} == expected


def texts_drawn(timeline: Timeline) -> list[tuple[float, float, str]]:
    """Position and text of everything in the picture but the legend."""
    frame = picture.Frame((timeline.num_steps,), 0)
    figure = picture._draw_frame(picture._Grid([timeline], [frame]), frame)
    texts = [(*text.get_position(), text.get_text()) for text in figure.axes[0].texts]
    caption = next(y for _, y, text in texts if text.startswith("Step of the last change"))
    return [text for text in texts if text[1] < caption]


def test_characters_without_a_glyph_become_a_box_and_one_warning(pictures, byte_tokenizer, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(picture.logger, "warning", warnings.append)
    timeline = written("a \U00012031 \U00012032 é", byte_tokenizer)  # cuneiform signs
    assert "".join(text for _, _, text in texts_drawn(timeline)).replace(" ", "") == "a□□é"
    timeline.save(tmp_path / "timeline.png")
    assert len(warnings) == 1
    assert "\U00012031 \U00012032 (2 in all)" in warnings[0]


# The race


@pytest.fixture
def lanes(byte_tokenizer):
    ids = encode("Once upon a time", byte_tokenizer)
    start = [5] * len(ids)
    half = ids[: len(ids) // 2] + start[len(ids) // 2 :]
    return [
        Timeline.from_autoregressive(AutoregressiveRun(ids, 0.5), byte_tokenizer, title="AR"),
        Timeline.from_output(
            output_of(start, start, half, half, ids), byte_tokenizer, seconds=[1, 2, 3, 4], title="DFM"
        ),
        Timeline.from_output(output_of(start, half, ids), byte_tokenizer, seconds=[0.2, 0.4], title="FS-DFM"),
    ]


def test_race_page_has_a_lane_for_each_with_its_times(lanes):
    page = Page(race_html(lanes))
    found = page.find("div", "fsdfm-lane")
    assert [attributes["data-seconds"] for attributes, _ in found][1:] == [
        "1.0000 2.0000 3.0000 4.0000",
        "0.2000 0.4000",
    ]
    assert [text for _, text in page.find("h2")] == ["AR", "DFM", "FS-DFM"]
    assert float(page.find("input")[0][0]["max"]) == max(lane.seconds[-1] for lane in lanes) * 1000
    assert race_html(lanes, full_page=False).startswith("<section")


def test_race_gif_runs_at_the_pace_of_the_clock(lanes):
    frames = race_frames(lanes)
    assert len({frame.milliseconds for frame in frames[:-1]}) == 1
    total = max(lane.seconds[-1] for lane in lanes)
    assert sum(frame.milliseconds for frame in frames[:-1]) == pytest.approx(total * 1000, rel=0.05)
    assert frames[-1].steps == tuple(lane.num_steps for lane in lanes)
    for number, frame in enumerate(frames[:-1]):
        now = number * frame.milliseconds / 1000
        for lane, step in zip(lanes, frame.steps, strict=True):
            assert abs(step - lane.step_at(now)) <= 1
    assert "times" not in frames[0].clock


def test_a_race_too_quick_to_follow_is_slowed_down_and_says_so(byte_tokenizer):
    output = output_of([5], [6])
    quick = Timeline.from_output(output, byte_tokenizer, seconds=0.16)
    assert race_frames([quick])[0].clock == "0.00 s of 0.16 s, slowed down 64 times"
    assert '<option value="0.015625" selected>1/64x</option>' in race_html([quick])
    slow = Timeline.from_output(output, byte_tokenizer, seconds=160)
    assert race_frames([slow])[0].clock.endswith("16 times as fast")


def test_races_are_saved(pictures, lanes, tmp_path):
    for suffix in (".html", ".gif", ".png", ".svg"):
        save_race(tmp_path / f"race{suffix}", lanes)
        assert (tmp_path / f"race{suffix}").stat().st_size > 1000
    image = open_image(tmp_path / "race.gif")
    assert image.n_frames > 5
    assert (tmp_path / "race.html").read_text(encoding="utf-8") == race_html(lanes)


def test_races_without_lanes_times_or_a_known_suffix_are_refused(lanes, byte_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"`timelines\[1\]` has no `seconds`"):
        race_html([lanes[0], written("Once", byte_tokenizer)])
    with pytest.raises(ValueError, match="`timelines` must hold at least one"):
        save_race(tmp_path / "race.html", [])
    with pytest.raises(ValueError, match="`path` must end in"):
        save_race(tmp_path / "race.txt", lanes)
