# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm demo`."""

import errno
import os
import socket
import threading
from typing import Annotated, Any

import typer

from ..hub_configs import available_checkpoints
from . import _options as options
from ._model import find_checkpoint, load


DEFAULT_DFM = "dfm-tinystories"


def demo(
    model: options.ModelOption = None,
    dfm: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A DFM to race against. By default that of the package, for its FS-DFM."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="By default the first free one from 7860 on.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Get a public address for the page from Gradio's own service.")
    ] = False,
    device: options.DeviceOption = None,
) -> None:
    """
    Play with a model on a page in the browser.

    The page writes texts and fills in blanks while you watch, shows when each token settled, and lets few and many
    steps race. Only this machine can open it, unless --host or --share says otherwise. Ctrl-C ends it.

    \b
    Examples:
      fsdfm demo
      fsdfm demo --model my-fsdfm --dfm my-dfm --port 8000
    """
    _check_address(host, port)

    from ..demo.handlers import Handlers
    from ..demo.inputs import Writer
    from ..demo.page import build_page, import_gradio, serve
    from ..demo.plot import quality_plot

    import_gradio()  # whether it is there, before a model is loaded
    evaluation = find_checkpoint(model) / "evaluation.json"
    plot = quality_plot(evaluation) if evaluation.is_file() else None
    if model is None and dfm is None and DEFAULT_DFM in available_checkpoints():
        dfm = DEFAULT_DFM
    rival = None if dfm is None else Writer(*_load_dfm(dfm, device))
    handlers = Handlers(Writer(*load(model, device=device)), rival)
    page = build_page(handlers, plot)
    typer.echo(f"The page is at {serve(page, host, port, share)} (Ctrl-C ends it)")
    try:
        _wait()
    finally:
        handlers.close()
        page.close(verbose=False)


def _wait() -> None:
    """Until Ctrl-C or another signal."""
    threading.Event().wait()


def _load_dfm(dfm: str, device: str | None) -> Any:
    try:
        return load(dfm, device=device)
    except (OSError, ValueError) as error:
        raise ValueError(str(error).replace("`model`", "`dfm`")) from error


def _check_address(host: str, port: int | None) -> None:
    """Tries the address before a model is loaded for it."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            if os.name == "posix":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"`port` {port} is taken; without it, a free one is found") from error
        if error.errno == errno.EACCES:
            raise ValueError(f"`port` {port} is not allowed; take one above 1023") from error
        raise ValueError(f"`host` {host} is no address of this machine: {error.strerror}") from error
