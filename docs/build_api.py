# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The API reference: HTML pages from the docstrings, `python docs/build_api.py [FOLDER]`; needs the extra `docs`.

A docstring refers to other objects as those of transformers do, [`name`] or [`~package.module.name`]. Here these become
links. A reference to nothing, a link without target and every warning are errors.
"""

import argparse
import importlib
import importlib.util
import os
import pkgutil
import re
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pdoc
from pdoc.render_helpers import relative_link


PACKAGE = "transformers_fsdfm"
# An editable install has them outside of the package's folder.
OUTER_PACKAGES = (f"{PACKAGE}.trainer", f"{PACKAGE}.hub_configs")
# Commands have a guide of their own, docs/cli.md; the recipe is a program.
NOT_DOCUMENTED = re.compile(rf"{PACKAGE}\.(cli|trainer\.recipes)\b|.*\.(_\w*)\b")
NEEDS_LM_EVAL = f"{PACKAGE}.lm_eval_model"
ARGUMENT_GROUP = re.compile(r"^( +)> (\w.*)$", re.MULTILINE)  # "> Length", above the arguments that belong to it
REFERENCE = re.compile(r"\[`(?P<name>~?[\w.]+)`\](?!\()")


def build(folder: Path) -> list[Path]:
    """
    Writes the reference.

    Args:
        folder (`Path`): where to; its other files are left alone.

    Returns:
        `list[Path]`: the pages.

    Raises:
        `ValueError`: names every reference and every link that leads nowhere.
    """
    names = _module_names()
    for name in names:  # before warnings become errors: those of other libraries are not ours
        _resolve_lazy_names(importlib.import_module(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modules = {name: pdoc.doc.Module.from_name(name) for name in names}
        for name, module in modules.items():
            # pdoc lists those of `__all__` alone, and finds none outside of the package's folder.
            module.submodules = [child for path, child in modules.items() if path.rpartition(".")[0] == name]
            _leave_out_entries_without_page(module)
        _link_references(modules)
        pdoc.render.configure(
            docformat="google",
            show_source=False,
            footer_text=f"{PACKAGE} {importlib.import_module(PACKAGE).__version__}",
        )
        contents = {
            f"{name.replace('.', '/')}.html": pdoc.render.html_module(module, modules)
            for name, module in modules.items()
        }
        contents |= {"index.html": pdoc.render.html_index(modules), "search.js": pdoc.render.search_index(modules)}
    pages = {name: content for name, content in contents.items() if name.endswith(".html")}
    if broken := broken_links(pages):
        raise ValueError("Links that lead nowhere:\n" + "\n".join(broken))
    for name, content in contents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    return [folder / name for name in pages]


def _module_names() -> list[str]:
    names = set()
    for root in (PACKAGE, *OUTER_PACKAGES):
        found = pkgutil.walk_packages(importlib.import_module(root).__path__, f"{root}.")
        names |= {root, *(module.name for module in found)}
    if importlib.util.find_spec("lm_eval") is None:
        names.remove(NEEDS_LM_EVAL)
        print(f"{NEEDS_LM_EVAL} is left out: lm-eval is not installed")
    return sorted(name for name in names if not NOT_DOCUMENTED.match(name))


def _resolve_lazy_names(module: ModuleType) -> None:
    """Puts public names that are imported on first use into their module, where pdoc looks for them."""
    vars(module).update({name: getattr(module, name) for name in getattr(module, "__all__", ())})


def _leave_out_entries_without_page(namespace: pdoc.doc.Namespace) -> None:
    """
    Forgets what classes inherit from those of other libraries, and inherited constructors, which abstract classes do
    not show: pdoc would link to their entries.
    """
    for doc in namespace.members.values():
        if isinstance(doc, pdoc.doc.Class):
            doc.members = {name: member for name, member in doc.members.items() if _has_entry(member, doc)}
            if "__init__" in doc.members and not doc.obj.__init__.__doc__:
                doc.members["__init__"].docstring = ""  # pdoc borrows that of another library's class
            _leave_out_entries_without_page(doc)


def _has_entry(member: pdoc.doc.Doc, owner: pdoc.doc.Class) -> bool:
    module, qualname = member.taken_from
    is_inherited = qualname.rpartition(".")[0] != owner.taken_from[1]
    return module.startswith(PACKAGE) and not (is_inherited and member.name == "__init__")


# ---- References in docstrings ----------------------------------------------------------------------------------------


def _link_references(modules: dict[str, pdoc.doc.Module]) -> None:
    """Replaces [`name`] in all docstrings by links."""
    places: dict[str, list[pdoc.doc.Doc]] = {}
    for module in modules.values():
        for doc in _members(module):
            for name in {doc.fullname, *_tails(doc.fullname)}:
                places.setdefault(name, []).append(doc)

    unknown = []
    for module in modules.values():
        for doc in [module, *_members(module)]:

            def link(reference: re.Match[str], module: pdoc.doc.Module = module, doc: pdoc.doc.Doc = doc) -> str:
                name = reference["name"].removeprefix("~")
                shown = name.rpartition(".")[2] if reference["name"].startswith("~") else name
                target = _nearest(places.get(name, []), doc)
                if target is None:
                    if not _is_known_elsewhere(name, module.obj):
                        unknown.append(f"{doc.fullname}: [`{name}`]")
                    return f"`{shown}`"
                page = relative_link(module.modulename, target.modulename)
                return f'<code><a href="{page}#{target.qualname}">{shown}</a></code>'

            doc.docstring = ARGUMENT_GROUP.sub(r"\1\2:", REFERENCE.sub(link, doc.docstring))
    if unknown:
        raise ValueError("References to nothing in the docstrings of\n" + "\n".join(sorted(set(unknown))))


def _members(namespace: pdoc.doc.Namespace) -> Iterator[pdoc.doc.Doc]:
    """All that has an entry on a page: public members and, of classes, what they define themselves."""
    for doc in namespace.own_members if isinstance(namespace, pdoc.doc.Class) else namespace.members.values():
        if not doc.name.startswith("_"):
            yield doc
            if isinstance(doc, pdoc.doc.Class):
                yield from _members(doc)


def _tails(fullname: str) -> Iterator[str]:
    """`a.b.c` -> `b.c`, `c`."""
    while "." in fullname:
        fullname = fullname.partition(".")[2]
        yield fullname


def _nearest(targets: list[pdoc.doc.Doc], origin: pdoc.doc.Doc) -> pdoc.doc.Doc | None:
    """The target in the same class, else on the same page, else where the object is defined."""

    def distance(target: pdoc.doc.Doc) -> tuple[bool, bool, bool]:
        own_class = origin.qualname if isinstance(origin, pdoc.doc.Class) else origin.qualname.rpartition(".")[0]
        same_page = target.modulename == origin.modulename
        same_class = same_page and target.qualname.rpartition(".")[0] == own_class
        return not same_class, not same_page, target.taken_from != (target.modulename, target.qualname)

    return min(targets, key=distance, default=None)


def _is_known_elsewhere(name: str, module: ModuleType) -> bool:
    """Whether this is something of another library: a name of this module, of a class in it, or a full name."""
    namespaces = [module, *(value for value in vars(module).values() if isinstance(value, type))]
    if any(hasattr(namespace, name) for namespace in namespaces):
        return True
    library, _, attribute = name.rpartition(".")
    if not library:
        return hasattr(importlib.import_module("transformers"), name)
    try:
        return hasattr(pkgutil.resolve_name(library), attribute)
    except (ImportError, AttributeError):
        return False


# ---- Links -----------------------------------------------------------------------------------------------------------


class _LinkReader(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif tag == "a" and name == "href" and value is not None:
                self.links.append(value)


def broken_links(pages: dict[str, str]) -> list[str]:
    """
    The links between pages that lead nowhere; links to other hosts are not followed.

    Args:
        pages (`dict[str, str]`): path of each page, as `"package/module.html"` -> HTML.

    Returns:
        `list[str]`: `"page -> link"`, sorted.
    """
    root = Path("/site")
    readers = {root / name: _LinkReader(content) for name, content in pages.items()}
    broken = set()
    for path, reader in readers.items():
        for link in reader.links:
            if re.match(r"\w+:", link):
                continue
            page, _, anchor = link.partition("#")
            target = readers.get(Path(os.path.normpath(path.parent / page)) if page else path)
            if target is None or (anchor and anchor not in target.anchors):
                broken.add(f"{path.relative_to(root)} -> {link}")
    return sorted(broken)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/api"), help="default: %(default)s")
    folder = parser.parse_args().folder
    print(f"{len(build(folder))} pages: {folder / 'index.html'}")
