"""A saved folder loads with `trust_remote_code=True` in a process where this package does not exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import generator, tiny_model
from transformers_fsdfm.modeling_fsdfm import AUTO_MAP, REMOTE_CODE_FILES


IDS = torch.randint(60, (2, 20), generator=generator(1))

# Runs with the package hidden. Prints, for every auto class, a digest of the logits and of generated tokens.
STRANGER = """
import hashlib, json, sys
import torch

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers_fsdfm":
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Hidden())
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

folder, again = sys.argv[1:]
assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__ == "FSDFMConfig"
result = {}
for auto_class in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):
    model = auto_class.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == "FSDFMForDiffusionLM"
    assert type(model).__module__.startswith("transformers_modules")
    assert type(model.generation_config).__name__ == "FSDFMGenerationConfig"
    ids = torch.randint(60, (2, 20), generator=torch.Generator().manual_seed(1))
    step_size = (torch.tensor(0.25),) if model.config.step_size_conditioning else ()
    logits = model(ids, torch.tensor(0.5), *step_size).logits
    tokens = model.generate(ids, generator=torch.Generator().manual_seed(2), max_new_tokens=8)
    result[auto_class.__name__] = [hashlib.sha256(x.detach().numpy().tobytes()).hexdigest() for x in (logits, tokens)]
    result["num_steps"] = model.generation_config.num_steps
model.save_pretrained(again)
print(json.dumps(result))
"""


def visit(folder: Path, again: Path, cache: Path) -> dict:
    """What a stranger sees in the folder; it saves what it loaded to `again`."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, folder, again], env=environment, capture_output=True, text=True, cwd=cache
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("step_size_conditioning", [True, False], ids=["fsdfm", "dfm"])
def test_folder_works_where_the_package_is_not_installed(step_size_conditioning, tmp_path):
    model = tiny_model(step_size_conditioning=step_size_conditioning)
    model.generation_config.num_steps = 5
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    model.save_pretrained(tmp_path / "first")
    first = visit(tmp_path / "first", tmp_path / "second", tmp_path)
    assert first["num_steps"] == 5
    assert first["AutoModel"] == first["AutoModelForMaskedLM"] == first["AutoModelForCausalLM"]

    # What a remotely loaded model saves is the same folder, which works again; and so does saving over itself.
    assert files_of(tmp_path / "second") == files_of(tmp_path / "first")
    assert visit(tmp_path / "second", tmp_path / "second", tmp_path) == first
    assert visit(tmp_path / "second", tmp_path / "third", tmp_path) == first
    for name in REMOTE_CODE_FILES:
        assert (tmp_path / "third" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    assert json.loads((tmp_path / "third/config.json").read_text())["auto_map"] == AUTO_MAP

    # And the package itself reads it back.
    reloaded = type(model).from_pretrained(tmp_path / "third")
    for key, value in model.state_dict().items():
        assert torch.equal(reloaded.state_dict()[key], value)


def test_saving_over_the_folder_it_came_from_keeps_it_whole(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    type(model).from_pretrained(tmp_path).save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path)
    times = torch.tensor(0.5), torch.tensor(0.5)
    assert torch.equal(reloaded(IDS, *times).logits, model(IDS, *times).logits)


def test_remote_code_imports_nothing_of_the_package_but_its_siblings():
    """transformers finds the files to copy with a regular expression, which understands only `from .name import x`."""
    source = Path(__file__).parents[1] / "src/transformers_fsdfm"
    reached = {"modeling_fsdfm.py"}
    for name in REMOTE_CODE_FILES:
        text = (source / name).read_text()
        siblings = {f"{module}.py" for module in re.findall(r"^\s*from\s+\.(\w+)\s+import", text, re.MULTILINE)}
        assert siblings <= set(REMOTE_CODE_FILES)
        reached |= siblings
        assert not re.search(r"^\s*(from|import)\s+(transformers_fsdfm|\.\s|\.\w+\.)", text, re.MULTILINE)
    assert reached == set(REMOTE_CODE_FILES)


def test_push_to_hub_uploads_the_same_folder(monkeypatch, tmp_path):
    """Against a local stand-in for the Hub: the upload call receives what `save_pretrained` writes."""
    import transformers.utils.hub as hub

    uploaded = tmp_path / "hub"

    class StandIn:
        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, folder_path, **_):
            shutil.copytree(folder_path, uploaded, dirs_exist_ok=True)

        def create_commit(self, *, operations, **_):
            uploaded.mkdir(exist_ok=True)
            for operation in operations:
                shutil.copyfile(operation.path_or_fileobj, uploaded / operation.path_in_repo)

        def create_branch(self, **_):
            pass

    import transformers.modeling_utils as modeling_utils

    for module in (hub, modeling_utils):
        monkeypatch.setattr(module, "hf_api", StandIn, raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi", StandIn)
    model = tiny_model()
    model.push_to_hub("someone/tiny-fsdfm")
    model.save_pretrained(tmp_path / "local")
    assert files_of(uploaded) - {"README.md"} == files_of(tmp_path / "local")
    for name in files_of(tmp_path / "local"):
        assert (uploaded / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
