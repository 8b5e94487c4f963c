"""LoRA proxies: what training moves, what is saved, that it comes back, and that it is scored like any other."""

import filecmp
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from specimens import copy_of, drawn

import ost
from ost.encoding import Encoder
from ost.errors import ModelError
from ost.execution.forward import losses_of
from ost.models import Checkpoint, add_adapter, checkpoint_folders, load_checkpoint
from ost.training import Recipe, train


def warmed(base: Path, seed: int = 0) -> Checkpoint:
    """The base with an adapter that was trained for a few steps."""
    proxy = load_checkpoint(base)
    add_adapter(proxy.model, rank=4, seed=seed)
    trained = train(proxy, drawn("pool", 64), Recipe(steps=8, batch_size=8, learning_rate=5e-3))
    proxy.second_moment = trained.moments.corrected_second()
    return proxy


@pytest.fixture(scope="module")
def folder(tmp_path_factory, proxy) -> Path:
    """models/proxy, whole weights, and models/proxy-warm, an adapter on it."""
    root = tmp_path_factory.mktemp("workspace") / "models"
    proxy.save(root / "proxy")
    warmed(root / "proxy").save(root / "proxy-warm")
    return root


def trainable(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in checkpoint.model.named_parameters() if weight.requires_grad}


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    batch = Encoder(checkpoint.processor).prompts(drawn("benchmark", 4))
    with torch.no_grad():
        return checkpoint.model(**batch).logits


def test_training_moves_the_adapter_alone(folder, proxy):
    moved = warmed(folder / "proxy")
    assert trainable(moved) and all("lora_" in name for name in trainable(moved))
    assert any(weight.any() for name, weight in trainable(moved).items() if "lora_B" in name), "B was not trained"
    before = {name.replace(".base_layer", ""): value for name, value in moved.model.state_dict().items()}
    for name, value in proxy.model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} is frozen, and moved"


def test_what_is_saved_comes_back(folder):
    back = load_checkpoint(folder / "proxy-warm")
    torch.testing.assert_close(logits(back), logits(warmed(folder / "proxy")), rtol=0, atol=0)
    assert set(trainable(back)) == set(back.second_moment) and all("lora_" in name for name in back.second_moment)
    assert not torch.equal(logits(back), logits(load_checkpoint(folder / "proxy")))


def test_the_adapter_alone_is_saved_without_a_path_of_this_machine(folder):
    names = {path.name for path in (folder / "proxy-warm").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "second_moment.safetensors"} <= names
    assert "model.safetensors" not in names and not any(name.endswith((".bin", ".pt")) for name in names)
    assert json.loads((folder / "proxy-warm/adapter_config.json").read_text())["base_model_name_or_path"] == "../proxy"
    root = str(folder.parent).encode()
    assert not [path.name for path in (folder / "proxy-warm").iterdir() if root in path.read_bytes()]


def test_a_base_of_the_hub_is_named_as_it_is_there(folder, tmp_path):
    proxy = warmed(folder / "proxy")
    proxy.model.name_or_path = "someone/absent-model"
    proxy.save(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "someone/absent-model"
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_checkpoint(tmp_path / "adapter")


def test_saved_again_elsewhere_it_finds_the_same_base(folder, tmp_path):
    load_checkpoint(folder / "proxy-warm").save(tmp_path / "down/again")
    assert torch.equal(logits(load_checkpoint(tmp_path / "down/again")), logits(load_checkpoint(folder / "proxy-warm")))


def test_peft_and_ost_load_each_others_adapters(folder, tmp_path):
    theirs = PeftModel.from_pretrained(load_checkpoint(folder / "proxy").model, folder / "proxy-warm").eval()
    ours = load_checkpoint(folder / "proxy-warm")
    assert torch.equal(logits(Checkpoint(theirs, ours.processor)), logits(ours))

    config = LoraConfig(r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    made = get_peft_model(load_checkpoint(folder / "proxy").model, config).eval()
    made.save_pretrained(tmp_path / "made")
    made.base_model.model.config.save_pretrained(tmp_path / "made")
    ours.processor.save_pretrained(tmp_path / "made")
    assert torch.equal(logits(load_checkpoint(tmp_path / "made")), logits(Checkpoint(made, ours.processor)))


def _settings(path: Path, **changes) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _weights(path: Path, kept: slice, **more: torch.Tensor) -> None:
    file = path / "adapter_model.safetensors"
    save_file(dict(sorted(load_file(file).items())[kept]) | more, file)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda path: (path / "adapter_config.json").write_text("{"), "names no base"),
        (lambda path: (path / "adapter_config.json").write_text("{}"), "names no base"),
        (lambda path: _settings(path, base_model_name_or_path=None), "names no base"),
        (lambda path: _settings(path, r=8), "does not fit its base"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "cannot load the weights"),
        (lambda path: _weights(path, slice(1, None)), r"1 weight\(s\), such as .*lora_A"),
        (lambda path: _weights(path, slice(None), other=torch.zeros(2)), r"1 weight\(s\), such as other"),
    ],
    ids=["no JSON", "no key", "null base", "another rank", "no weights", "a weight missing", "a weight too many"],
)
def test_a_damaged_adapter_is_a_model_error(damage, found, folder, tmp_path):
    """Above all a missing weight: it would be filled with a fresh adapter's random numbers."""
    shutil.copytree(folder, tmp_path / "models")
    damage(tmp_path / "models/proxy-warm")
    with pytest.raises(ModelError, match=found):
        load_checkpoint(tmp_path / "models/proxy-warm")


def test_an_adapter_on_an_adapter_is_refused(folder, tmp_path):
    """transformers and PEFT would load one of the two, or both, without a word."""
    for name in ("upper", "lower"):
        shutil.copytree(folder / "proxy-warm", tmp_path / name)
    _settings(tmp_path / "lower", base_model_name_or_path=str(folder / "proxy"))
    _settings(tmp_path / "upper", base_model_name_or_path="../lower")
    with pytest.raises(ModelError, match=r"upper is an adapter on .*lower, which is an adapter itself: merge"):
        load_checkpoint(tmp_path / "upper")


def test_where_the_base_came_from_is_told(folder):
    """An adapter names it, and it may lie anywhere."""
    (note,) = load_checkpoint(folder / "proxy-warm").notes
    assert note.endswith(f"its base was loaded from {(folder / 'proxy').resolve()}")


def test_a_second_adapter_is_refused(folder):
    with pytest.raises(ModelError, match="adapter already"):
        add_adapter(load_checkpoint(folder / "proxy-warm").model, rank=2, seed=0)


def test_the_same_training_leaves_the_same_bytes(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "models")
    warmed(tmp_path / "models/proxy").save(tmp_path / "models/again")
    same = filecmp.dircmp(tmp_path / "models/again", folder / "proxy-warm")
    assert same.left_list == same.right_list
    _, differ, errors = filecmp.cmpfiles(same.left, same.right, same.common_files, shallow=False)
    assert not differ and not errors


def test_a_moved_workspace_still_loads_and_a_missing_base_is_said(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    torch.testing.assert_close(
        logits(load_checkpoint(tmp_path / "elsewhere/proxy-warm")), logits(load_checkpoint(folder / "proxy-warm"))
    )
    assert checkpoint_folders(tmp_path / "elsewhere/proxy-warm")[1] == (tmp_path / "elsewhere/proxy").resolve()
    shutil.rmtree(tmp_path / "elsewhere/proxy")
    with pytest.raises(ModelError, match=r"adapter on \.\./proxy"):
        load_checkpoint(tmp_path / "elsewhere/proxy-warm")


def test_an_adapter_of_an_unsaved_base_is_not_saved(fresh, tmp_path):
    proxy = copy_of(fresh)
    proxy.model.name_or_path = ""
    add_adapter(proxy.model, rank=2, seed=0)
    with pytest.raises(ModelError, match="save the base"):
        proxy.save(tmp_path / "adapter")


def test_all_methods_score_the_adapter_alike(folder):
    proxy, pool, anchors = load_checkpoint(folder / "proxy-warm"), drawn("pool", 24, 3), drawn("anchors", 12)
    proxy.model.double()
    found = {
        method: ost.score(pool, anchors, proxy, method=method, step=step, checks=0).table["utility"].to_numpy()
        for method, step in (("gradient", 1.0), ("transposed", 1e-4), ("exact", 1e-3))
    }
    for method in ("transposed", "exact"):
        error = np.abs(found[method] - found["gradient"]).max()
        assert error < 0.06 * found["gradient"].std(), f"{method} is off"


@pytest.mark.parametrize("method", ["gradient", "transposed", "exact"])
def test_a_fresh_adapter_is_refused(method, folder):
    proxy = load_checkpoint(folder / "proxy")
    add_adapter(proxy.model, rank=4, seed=0)
    with pytest.raises(ModelError, match="fresh"):
        ost.score(drawn("pool", 4), drawn("anchors", 4), proxy, method=method, checks=0)


def test_layers_without_an_adapter_are_refused(folder):
    with pytest.raises(ModelError, match="only the adapter is trainable"):
        ost.score(
            drawn("pool", 4), drawn("anchors", 4), load_checkpoint(folder / "proxy-warm"), layers="head", checks=0
        )


def test_lookahead_starts_where_the_adapter_did(folder):
    warm, anchors = load_checkpoint(folder / "proxy-warm", base=folder / "proxy"), drawn("anchors", 8)
    plan = ost.score(anchors, anchors, warm, lookahead={"steps": 2}, checks=0).plan
    by_warm, by_base = (losses_of(anchors, one) for one in (warm, load_checkpoint(folder / "proxy")))
    np.testing.assert_allclose(plan.before, by_warm, atol=1e-5)
    np.testing.assert_allclose(plan.curve[0], by_base.mean(), atol=1e-5)
    assert abs(by_warm.mean() - by_base.mean()) > 1e-3


# --- Adam's second moment ---------------------------------------------------------------------------------------------


def test_after_one_step_the_second_moment_is_the_clipped_gradient_squared(fresh):
    """v̂ = v / (1 − β₂) = g², with the gradient of the one batch, clipped to length 1 as the Trainer does."""
    samples, own = drawn("pool", 8), copy_of(fresh)
    own.model.train()
    own.model(**Encoder(own.processor).training(samples)).loss.backward()
    torch.nn.utils.clip_grad_norm_(own.model.parameters(), 1.0)
    found = train(copy_of(fresh), samples, Recipe(steps=1, batch_size=8, learning_rate=1e-3)).moments.corrected_second()
    assert set(found) == {name for name, _ in own.model.named_parameters()}
    for name, weight in own.model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad.square(), rtol=1e-3, atol=1e-9)


def test_adam_scores_by_the_preconditioned_product(folder):
    """⟨∇ℓ(z), P ∇L_V⟩ with P = r / (√v̂ + r / 100), r² being the mean of v̂, by every method."""
    proxy, pool, anchors = load_checkpoint(folder / "proxy-warm"), drawn("pool", 12, 3), drawn("anchors", 8)
    proxy.model.double()
    weights = trainable(proxy)

    def gradient(sample: ost.Sample) -> torch.Tensor:
        batch = Encoder(proxy.processor).training([sample])
        batch["pixel_values"] = batch["pixel_values"].double()
        return torch.cat([g.flatten() for g in torch.autograd.grad(proxy.model(**batch).loss, list(weights.values()))])

    moment = torch.cat([proxy.second_moment[name].double().flatten() for name in weights])
    factors = moment.mean().sqrt() / (moment.sqrt() + 0.01 * moment.mean().sqrt())
    direction = torch.stack([gradient(anchor) for anchor in anchors]).mean(dim=0) * factors
    expected = np.array([(gradient(sample) @ direction).item() for sample in pool])
    for method, step in (("gradient", 1.0), ("transposed", 1e-4), ("exact", 1e-3)):
        found = ost.score(pool, anchors, proxy, method=method, optimizer="adam", step=step, checks=0).table["utility"]
        np.testing.assert_allclose(found.to_numpy(), expected, rtol=0, atol=0.03 * expected.std(), err_msg=method)


def test_adam_needs_a_second_moment(pool, anchors, proxy):
    with pytest.raises(ModelError, match=r"no second moment for 6\d weight\(s\)"):
        ost.score(pool[:2], anchors[:2], copy_of(proxy), method="gradient", optimizer="adam", checks=0)
