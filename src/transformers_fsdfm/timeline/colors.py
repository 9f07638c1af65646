# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The eight colours from the first step to the last."""

# Light enough for dark text (contrast of TEXT_COLOR 7:1 and more on each, of DIM_COLOR 4.5:1), and ever darker with a
# changing hue, so that neighbours differ without red-green or blue-yellow vision and in greyscale.
COLORS = ("#fef4e0", "#d7fa93", "#86fac8", "#5cecf8", "#97d2fe", "#b4b8ff", "#d49fdf", "#df90a8")
TEXT_COLOR = "#1a1a1a"
DIM_COLOR = "#383838"  # special tokens
GIVEN_COLOR = "#595959"  # on white: what was not generated, and what is not settled yet
PAGE_COLOR = "#ffffff"

# Browsers that darken every page ("auto dark") turn dark text white, but leave all but the lightest backgrounds as they
# are: there pages use these, which white can be read on.
DARKENED_COLORS = ("#320100", "#370925", "#2f1a45", "#162d56", "#003e4d", "#004c3e", "#385222", "#645014")

# The eight in the palette of 256 colours that terminals know, and the text on them.
TERMINAL_COLORS = (230, 192, 122, 87, 117, 147, 182, 175)
TERMINAL_TEXT_COLOR = 232


def color_index(step: int, num_steps: int) -> int:
    """Which of the eight colours a step has: that of its part of the way, so the last step always has the last."""
    return max(0, -(-step * len(COLORS) // num_steps) - 1)


def to_rgb(color: str) -> tuple[int, int, int]:
    """`"#rrggbb"` as three numbers from 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
