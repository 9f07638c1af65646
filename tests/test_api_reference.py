# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The API reference: docstrings whose references lead somewhere, pages whose links do."""

import runpy
import types
from pathlib import Path

import pytest

import transformers_fsdfm


pdoc = pytest.importorskip("pdoc", reason="the API reference needs pdoc")
SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "docs/build_api.py"))


def module_of(docstring: str, name: str = "transformers_fsdfm.example") -> "pdoc.doc.Module":
    module = types.ModuleType(name, docstring)

    def draw() -> None:
        """Draws."""

    draw.__module__, draw.__qualname__ = name, "draw"
    module.draw = draw
    module.__all__ = ["draw"]
    return pdoc.doc.Module(module)


@pytest.mark.parametrize(
    ("reference", "link"),
    [
        ("[`draw`]", '<code><a href="#draw">draw</a></code>'),
        ("[`~example.draw`]", '<code><a href="#draw">draw</a></code>'),
        ("[`example.draw`]", '<code><a href="#draw">example.draw</a></code>'),
        ("[`~transformers.Trainer`]", "`Trainer`"),
        ("[`torch.optim.AdamW`]", "`torch.optim.AdamW`"),
        ("[`draw`](draw.md)", "[`draw`](draw.md)"),
        ("`draw`", "`draw`"),
    ],
)
def test_references_become_links_and_names_of_other_libraries_code(reference, link):
    module = module_of(f"See {reference}.")
    SCRIPT["_link_references"]({module.modulename: module})
    assert module.docstring == f"See {link}."


def test_a_reference_leads_to_another_page():
    here, there = module_of("", "transformers_fsdfm.trainer.near"), module_of("", "transformers_fsdfm.far")
    here.docstring = "See [`far.draw`] and [`draw`]."
    SCRIPT["_link_references"]({module.modulename: module for module in (here, there)})
    far, near = '<a href="../far.html#draw">far.draw</a>', '<a href="#draw">draw</a>'
    assert here.docstring == f"See <code>{far}</code> and <code>{near}</code>."


@pytest.mark.parametrize("name", ["paint", "~transformers.NoSuchTrainer", "no_such_library.draw"])
def test_a_reference_to_nothing_is_an_error_that_says_where_it_stands(name):
    module = module_of(f"See [`{name}`].")
    with pytest.raises(ValueError, match=rf"transformers_fsdfm\.example: \[`{name.removeprefix('~')}`\]"):
        SCRIPT["_link_references"]({module.modulename: module})


def test_broken_links_are_found():
    pages = {
        "package.html": '<a href="package/part.html#draw">1</a><a href="package/gone.html">2</a><a href="#here">3</a>',
        "package/part.html": '<p id="draw"><a href="../package.html">4</a><a href="../package.html#gone">5</a>'
        '<a href="https://example.org/gone.html">6</a>',
    }
    assert SCRIPT["broken_links"](pages) == [
        "package.html -> #here",
        "package.html -> package/gone.html",
        "package/part.html -> ../package.html#gone",
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_reference_of_the_package_builds_without_warnings_and_broken_links(tmp_path):
    pages = {str(page.relative_to(tmp_path)): page.read_text(encoding="utf-8") for page in SCRIPT["build"](tmp_path)}
    for name in transformers_fsdfm.__all__:
        assert f'id="{name}"' in pages["transformers_fsdfm.html"], name
    assert 'href="flow_fsdfm.html#jump_candidates"' in pages["transformers_fsdfm/generation_fsdfm.html"]
    assert 'href="transformers_fsdfm/trainer.html"' in pages["transformers_fsdfm.html"]
    assert 'id="FSDFMTrainer.compute_loss"' in pages["transformers_fsdfm/trainer/fsdfm_trainer.html"]
    assert not [name for name, page in pages.items() if "[<code>" in page]
    assert "FSDFMTrainer" in (tmp_path / "search.js").read_text(encoding="utf-8")
