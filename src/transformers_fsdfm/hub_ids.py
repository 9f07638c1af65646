# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Telling a mistyped path from an id of the Hub, before the Hub is asked for it again and again."""

import os
import re


HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
OLD_HUB_ID = re.compile(r"[\w-][\w.-]*")  # from before there were organizations, as gpt2


def why_no_hub_id(path: str, needs_organization: bool = True) -> str | None:
    """
    What an error says of a path at which nothing is, after "... is no folder, and"; None if it may be a Hub id.

    `models/dfm` could be one. But where there is a folder `models`, it is a path that was mistyped.

    Args:
        path (`str`): what the user gave.
        needs_organization (`bool`, *optional*, defaults to `True`): whether a name without a slash is none.
    """
    if HUB_ID.fullmatch(path):
        folder = os.path.dirname(path)
        return f"not taken for a Hub id, because there is a folder {folder} here" if os.path.isdir(folder) else None
    if not needs_organization and OLD_HUB_ID.fullmatch(path):
        return None
    return "no Hub id (organization/name)"


__all__ = ["why_no_hub_id"]
