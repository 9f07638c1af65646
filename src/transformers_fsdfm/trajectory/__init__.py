# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Do errors compound? A process of few steps beside one of many, from the same x_t; see docs/error_growth.md."""

from .divergence import kl_bounds, one_step_log_prob, pair_difference, squared_distance
from .measure import Cell, TrajectorySettings, measure_cell, measure_error_growth
from .process import Clocks, draw_clocks, run_process
from .report import draw_plots, summarize, write_report


__all__ = [
    "Cell",
    "Clocks",
    "TrajectorySettings",
    "draw_clocks",
    "draw_plots",
    "kl_bounds",
    "measure_cell",
    "measure_error_growth",
    "one_step_log_prob",
    "pair_difference",
    "run_process",
    "squared_distance",
    "summarize",
    "write_report",
]
