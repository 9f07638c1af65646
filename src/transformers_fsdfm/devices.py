# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""On which device commands and evaluations run."""

import torch


def find_device(name: str | None, default: torch.device | None = None) -> torch.device:
    """
    The device of a name.

    Args:
        name (`str`, *optional*): such as `"cpu"` or `"cuda:1"`.
        default (`torch.device`, *optional*): what to take without a name; an accelerator if there is one. In place of
            Apple's, which cannot compute in float64 as sampling does, the CPU is taken.

    Raises:
        `ValueError`: it does not exist here.
    """
    if name is None:
        if default is None and torch.accelerator.is_available():
            default = torch.accelerator.current_accelerator()
        return torch.device("cpu") if default is None or default.type == "mps" else default
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"`device` {name} cannot be used: {reason}") from error
    return device


__all__ = ["find_device"]
