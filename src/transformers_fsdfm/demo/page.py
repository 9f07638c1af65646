# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The page itself: its fields and buttons, and the server that gives it to browsers."""

import json
import os
from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType
from typing import Any

from ..flow_fsdfm import SOLVERS
from ..optional import require
from .fragments import PENDING, STYLE, escape, status_line, text_box
from .handlers import RACE_STEPS, Handlers
from .inputs import MAX_CHARACTERS_PER_POSITION, MAX_SEED, MAX_STEPS
from .policy import ContentSecurityPolicy
from .sampling import SamplingStopped


POWERS_OF_TWO = [2**exponent for exponent in range(MAX_STEPS.bit_length())]
EXAMPLES = ["Once upon a time", "Once upon a time ___12___ went home."]
MAX_WAITING = 10  # requests; further ones are refused


def build_page(handlers: Handlers, plot: str | None = None) -> Any:
    """
    The page as a `gradio.Blocks`.

    Args:
        handlers ([`Handlers`]): what the buttons do.
        plot (`str`, *optional*): HTML of the plot of quality against steps; its tab is only there with it.

    Raises:
        `ImportError`: if gradio is not installed.
    """
    gradio = import_gradio()
    with gradio.Blocks(title="FS-DFM", analytics_enabled=False) as page:
        gradio.HTML(_heading(handlers))
        shared = _shared_fields(gradio, handlers)
        with gradio.Tab("Write"):
            _write_tab(gradio, handlers, shared)
        with gradio.Tab("Race"):
            _race_tab(gradio, handlers, shared)
        if plot is not None:
            with gradio.Tab("Quality"):
                gradio.HTML(plot)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def serve(page: Any, host: str = "127.0.0.1", port: int | None = None, share: bool = False) -> str:
    """
    Gives the page to browsers, in a thread, until `page.close()`.

    Args:
        page (`gradio.Blocks`): from [`build_page`].
        host (`str`, *optional*, defaults to `"127.0.0.1"`): the address to listen at; `"0.0.0.0"` is all of them.
        port (`int`, *optional*): by default the first free one from 7860 on.
        share (`bool`, *optional*, defaults to `False`): whether to ask Gradio's own service for a public address.

    Returns:
        `str`: the address of the page.
    """
    gradio = import_gradio()
    from starlette.middleware import Middleware  # comes with gradio

    fonts = ["system-ui", "sans-serif"]
    _, local_url, share_url = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=gradio.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=STYLE,
        footer_links=[],
        max_file_size=1,  # bytes: the page takes no files, but Gradio's server would
        app_kwargs={"middleware": [Middleware(ContentSecurityPolicy)]},
        ssr_mode=False,
        prevent_thread_lock=True,
        quiet=True,
    )
    return share_url or local_url


def import_gradio() -> ModuleType:
    """
    Gradio, told to keep to itself.

    Raises:
        `ImportError`: if it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    require("demo", "gradio", what="The page")
    import gradio

    return gradio


def _heading(handlers: Handlers) -> str:
    writer = handlers.writer
    millions = sum(parameter.numel() for parameter in writer.model.parameters()) / 1e6
    return (
        f"<h1>{escape(writer.name)}: all words at once, rewritten step by step</h1>"
        f"<p>A model of {millions:,.1f} million parameters, trained on texts of {writer.max_length:,} tokens.</p>"
    )


def _shared_fields(gradio: ModuleType, handlers: Handlers) -> list[Any]:
    """The fields above the tabs, in the order of the handlers' arguments."""
    longest = handlers.writer.max_length
    with gradio.Row():
        with gradio.Column(scale=3):
            text = gradio.Textbox(
                label="Text",
                # Without the underscores of a blank, which would be Markdown here
                info="A beginning, or a text with blanks as in the example (12 tokens). Empty: the model begins.",
                value=EXAMPLES[0],
                lines=4,
                max_length=MAX_CHARACTERS_PER_POSITION * longest,
            )
            gradio.Examples(EXAMPLES, text)
        with gradio.Column(scale=2):
            length = gradio.Slider(
                1,
                longest,
                value=max(1, min(128, longest // 2)),
                step=1,
                precision=0,
                label="New tokens",
                info="After a text without blanks.",
            )
            solver = gradio.Dropdown(list(SOLVERS), value=SOLVERS[0], label="Solver")
            with gradio.Row():
                temperature = gradio.Slider(0.05, 2, value=1, step=0.05, label="Temperature")
                seed = gradio.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed")
    return [text, length, solver, temperature, seed]


def _write_tab(gradio: ModuleType, handlers: Handlers, shared: list[Any]) -> None:
    usual = handlers.writer.num_steps
    power = usual if usual in POWERS_OF_TWO else None
    with gradio.Row():
        steps = gradio.Slider(1, MAX_STEPS, value=usual, step=1, precision=0, label="Steps", scale=2)
        powers = gradio.Radio(POWERS_OF_TWO, value=power, label="Powers of two", scale=3)
    powers.input(None, powers, steps, js="(power) => power")
    steps.input(None, steps, powers, js="(steps) => (Number.isInteger(Math.log2(steps)) ? steps : null)")
    start, stop, status = _buttons(gradio, "Write")
    with gradio.Row():
        panel = {"show_label": True, "container": True, "elem_classes": "fsdfm-panel"}
        text = gradio.HTML(text_box(""), label="Text", **panel)
        timeline = gradio.HTML(PENDING, label="When did each token settle?", **panel)
    _connect(gradio, (start, stop), handlers.write, [*shared, steps], [status, text, timeline])


def _race_tab(gradio: ModuleType, handlers: Handlers, shared: list[Any]) -> None:
    rival = f", then the {handlers.dfm.name}" if handlers.dfm is not None else ""
    gradio.Markdown(f"The text above in {', '.join(map(str, RACE_STEPS))} steps{rival}: one after the other, timed.")
    start, stop, status = _buttons(gradio, "Race")
    table, replay = gradio.HTML(), gradio.HTML()
    _connect(gradio, (start, stop), handlers.race, shared, [status, table, replay])


def _buttons(gradio: ModuleType, title: str) -> tuple[Any, Any, Any]:
    """A button to start, one to stop, and the line that says where the work stands."""
    with gradio.Row():
        start, stop = gradio.Button(title, variant="primary"), gradio.Button("Stop", variant="stop")
    return start, stop, gradio.HTML()


def _connect(
    gradio: ModuleType,
    buttons: tuple[Any, Any],
    handler: Callable[..., Iterator[tuple[str, str, str]]],
    inputs: list[Any],
    outputs: list[Any],
) -> None:
    """One button starts the handler, the other stops it. All handlers wait in one queue for the one machine."""

    @wraps(handler)
    def handle(*values: Any) -> Iterator[tuple[str, str, str]]:
        try:
            yield from handler(*values)
        except (ValueError, SamplingStopped) as error:
            raise gradio.Error(escape(str(error)), print_exception=False) from error

    start, stop = buttons
    _say(start.click, outputs[0], "Waits for its turn")
    running = start.click(
        handle, inputs, outputs, api_name=handler.__name__, concurrency_id="machine", show_progress="hidden"
    )
    _say(running.failure, outputs[0], "That could not be done: the message says why")
    # After it has stopped, or a late draft could take the place of the word.
    _say(stop.click(None, cancels=running).then, outputs[0], "Stopped")


def _say(when: Callable[..., Any], status: Any, words: str) -> None:
    """Puts words into the status line, in the browser itself."""
    when(None, None, status, js=f"() => {json.dumps(status_line(words, is_final=True))}")
