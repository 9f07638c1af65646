# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What the buttons of the page do. Nothing here knows of Gradio: a handler takes values and yields HTML."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from ..timeline import Timeline, race_html
from .fragments import PENDING, Lane, frame, race_table, status_line, text_box
from .inputs import Run, Settings, Writer
from .sampling import Draft, Sample, Sampler


RACE_STEPS = (1, 2, 4, 8, 16)


class Handlers:
    """
    The handlers of the page.

    Args:
        writer ([`Writer`]): the model to show.
        dfm ([`Writer`], *optional*): a many-step model that it races against.
        sampler ([`Sampler`], *optional*): what runs them.
    """

    def __init__(self, writer: Writer, dfm: Writer | None = None, sampler: Sampler | None = None) -> None:
        self.writer = writer
        self.dfm = dfm
        self._sampler = sampler or Sampler()

    def write(
        self, text: str, num_new_tokens: int, solver: str, temperature: float, seed: int, num_steps: int
    ) -> Iterator[tuple[str, str, str]]:
        """
        Yields status, text and timeline while the text is written; the timeline comes at the end.

        Raises:
            `ValueError`: if a value is not allowed, before any work is done.
        """
        run = Run.plan(self.writer, Settings(text, num_new_tokens, solver, temperature, seed, num_steps))
        for draft_text, news in self._sample(run):
            if isinstance(news, Draft):
                status = f"Step {news.step:,} of {run.settings.num_steps:,} · {news.seconds:.1f} s"
                yield status_line(status), text_box(draft_text), PENDING
            else:
                timeline = _timeline(run, news).to_html()
                status = _summary(run, news)
                yield status_line(status, is_final=True), text_box(draft_text), frame(timeline, "Timeline")

    def race(
        self, text: str, num_new_tokens: int, solver: str, temperature: float, seed: int
    ) -> Iterator[tuple[str, str, str]]:
        """
        Yields status, table and replay while the race is run; the replay, all runners side by side, comes at the end.

        The runners take turns, each alone on the machine. Each model takes an untimed step before, to warm up.

        Raises:
            `ValueError`: if a value is not allowed, before any work is done.
        """
        warm_ups, runs = self._plan_race(Settings(text, num_new_tokens, solver, temperature, seed, num_steps=1))
        lanes = [Lane(run.writer.name, run.settings.num_steps) for run in runs]
        for warm_up in warm_ups:
            for _ in self._sample(warm_up):
                yield status_line("Warms up"), race_table(lanes), ""
        timelines = []
        for number, (lane, run) in enumerate(zip(lanes, runs, strict=True), start=1):
            status = status_line(f"Runner {number} of {len(runs)}")
            for draft_text, news in self._sample(run):
                lane.text, lane.seconds = draft_text, news.seconds
                if isinstance(news, Draft):
                    lane.progress = f"at step {news.step:,}"
                else:
                    lane.progress = f"done, {_count(news.output.num_function_evaluations or 0, 'network call')}"
                    timelines.append(_timeline(run, news))
                yield status, race_table(lanes), ""
        status = status_line(f"All {len(runs)} have finished", is_final=True)
        yield status, race_table(lanes), frame(race_html(timelines), "The race, side by side")

    def _plan_race(self, one_step: Settings) -> tuple[list[Run], list[Run]]:
        """One step for each model, to warm up, and the runs of the race."""
        warm_ups = [Run.plan(self.writer, one_step)]
        runs = [Run.plan(self.writer, replace(one_step, num_steps=num_steps)) for num_steps in RACE_STEPS]
        if self.dfm is not None:
            warm_ups.append(Run.plan(self.dfm, one_step))
            runs.append(Run.plan(self.dfm, replace(one_step, num_steps=self.dfm.num_steps)))
        return warm_ups, runs

    def close(self) -> None:
        """Stops what is sampling."""
        self._sampler.close()

    def _sample(self, run: Run) -> Iterator[tuple[str, Draft | Sample]]:
        """What the sampler yields, each with the text."""
        stream = self._sampler.run(run.writer.model, run.settings.seed, **run.arguments)
        with closing(stream):
            for news in stream:
                ids = news.ids if isinstance(news, Draft) else news.output.sequences[0].tolist()
                yield "" if ids is None else run.text_of(ids), news


def _timeline(run: Run, sample: Sample) -> Timeline:
    return Timeline.from_output(
        sample.output,
        run.writer.tokenizer,
        seconds=sample.step_seconds,
        title=f"{run.writer.name}, {_count(run.settings.num_steps, 'step')}",
        input_ids=run.given_ids,
    )


def _summary(run: Run, sample: Sample) -> str:
    speed = run.num_written / max(sample.seconds, 1e-9)
    return (
        f"{_count(run.num_written, 'token')} in {_count(run.settings.num_steps, 'step')} and {sample.seconds:.2f} s · "
        f"{speed:,.0f} tokens/s · {_count(sample.output.num_function_evaluations or 0, 'network call')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
