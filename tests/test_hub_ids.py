# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What may be an id of the Hub, and what is a mistyped path."""

import pytest

from transformers_fsdfm.hub_ids import why_no_hub_id


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()


@pytest.mark.parametrize("path", ["organization/model", "GSAI-ML/LLaDA-8B-Base", "a/b.c_d-e"])
def test_may_be_an_id(path):
    assert why_no_hub_id(path) is None


@pytest.mark.parametrize(
    "path", ["./model", "../model", "/model", "~/model", "a/b/c", "model/", "a/.b", "C:\\model", "a b/c", "", "a/*"]
)
def test_is_no_id(path):
    assert why_no_hub_id(path) == why_no_hub_id(path, needs_organization=False) == "no Hub id (organization/name)"


def test_a_name_without_an_organization_is_one_of_some_old_repositories():
    assert why_no_hub_id("gpt2") == "no Hub id (organization/name)"
    assert why_no_hub_id("gpt2", needs_organization=False) is None


def test_where_its_folder_is_here_it_was_meant_to_be_in_it():
    assert why_no_hub_id("models/dfm") == "not taken for a Hub id, because there is a folder models here"
