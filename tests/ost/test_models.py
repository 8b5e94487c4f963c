"""Checkpoints: what is saved comes back, what cannot be trusted is refused, and a proxy must suit its target."""

import ast
import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from specimens import copy_of, drawn, other_forms
from transformers import (
    ChameleonConfig,
    CLIPConfig,
    FuyuConfig,
    Gemma3Config,
    Gemma3TextConfig,
    Idefics3Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    SmolVLMConfig,
)
from transformers.utils import is_torchvision_available

import ost
from ost.baselines import deita
from ost.data import Sample, chat
from ost.encoding import Encoder
from ost.errors import DataError, ModelError
from ost.evaluation.generate import generate
from ost.execution.estimate import on_meta
from ost.models import Checkpoint, check_pair, family, load_config, load_processor, reads_images, resolve_device
from ost.models.configs import revision_of
from ost.models.processor import image_only
from ost.training import Recipe, train
from ost.worlds.tiny import PROXY, TARGET, build_llava, build_model, sized

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(proxy, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "proxy"
    proxy.save(path)
    return path


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of the saved checkpoint, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


# --- saved and loaded -------------------------------------------------------------------------------------------------


def test_a_loaded_checkpoint_gives_the_same_logits(proxy, saved):
    loaded = ost.load_checkpoint(saved)
    batch = Encoder(proxy.processor).prompts(drawn("pool", 4))
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, proxy.model(**batch).logits)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training


def test_a_loaded_processor_encodes_alike(proxy, saved, pool):
    ours, theirs = (Encoder(one.processor).training(pool) for one in (proxy, ost.load_checkpoint(saved)))
    assert ours.keys() == theirs.keys() >= {"input_ids", "pixel_values", "labels"}
    differing = [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]
    assert not differing


def test_a_checkpoint_saved_twice_has_the_same_bytes(proxy, saved, tmp_path):
    proxy.save(tmp_path / "again")
    names = sorted(path.name for path in saved.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    changed = [name for name in names if (saved / name).read_bytes() != (tmp_path / "again" / name).read_bytes()]
    assert not changed, "a digest of the model would change although nothing did"


def test_a_second_moment_comes_back_under_its_weights_names(proxy, saved, tmp_path):
    assert ost.load_checkpoint(saved).second_moment is None
    moments = {name: torch.rand_like(weight) for name, weight in proxy.model.named_parameters()}
    for name, order in (("one", list(moments)), ("two", sorted(moments, reverse=True))):
        ost.Checkpoint(proxy.model, proxy.processor, {key: moments[key] for key in order}).save(tmp_path / name)
    loaded = ost.load_checkpoint(tmp_path / "one")
    assert {name: weight.shape for name, weight in loaded.model.named_parameters()} == {
        name: moment.shape for name, moment in loaded.second_moment.items()
    }
    assert all(torch.equal(moment, moments[name]) for name, moment in loaded.second_moment.items())
    one, two = (tmp_path / name / "second_moment.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes(), "the order of the names reaches the bytes"


def test_weights_are_saved_as_safetensors_alone(saved):
    assert (saved / "model.safetensors").is_file()
    assert not [path.name for path in saved.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_saving_over_a_checkpoint_replaces_all_of_it(proxy, folder):
    (folder / "stale.txt").touch()
    proxy.save(folder)
    assert not (folder / "stale.txt").exists()


def test_a_machine_with_torchvision_would_build_the_full_processor(saved):
    assert json.loads((saved / "processor_config.json").read_text())["processor_class"] == "Qwen3VLProcessor"


def test_a_checkpoint_says_what_it_lacks(tmp_path):
    with pytest.raises(ModelError, match=r"no model at .*absent.*config\.json"):
        ost.load_checkpoint(tmp_path / "absent")


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors only"):
        ost.load_checkpoint(folder)


def _without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.language_model.layers.0.mlp.down_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "no model at"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "unheard"}'), "no model at"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot load the weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10" * 99), "cannot load the weights"),
        (lambda folder: (folder / "second_moment.safetensors").write_bytes(b"cut"), "cannot load the weights"),
        (_without_a_weight, r"lacks 1 of the model's weights, such as model\.language_model\.layers\.0\.mlp"),
        (lambda folder: (folder / "processor_config.json").unlink(), "cannot load the processor"),
        (lambda folder: [(folder / f"tokenizer{end}.json").unlink() for end in ("", "_config")], "no image token"),
    ],
    ids=[
        "no JSON",
        "unknown type",
        "empty weights",
        "cut weights",
        "cut second moment",
        "a weight missing",
        "no processor",
        "no tokenizer",
    ],
)
def test_a_damaged_checkpoint_is_a_model_error(damage, found, folder):
    damage(folder)
    with pytest.raises(ModelError, match=found):
        ost.load_checkpoint(folder)


def test_a_text_only_checkpoint_gives_its_tokenizer(saved, tmp_path, processor):
    config = LlamaConfig(
        vocab_size=len(processor.tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "text")
    processor.tokenizer.save_pretrained(tmp_path / "text")
    loaded = ost.load_checkpoint(tmp_path / "text")
    assert loaded.tokenizer is loaded.processor
    with pytest.raises(DataError, match="it has images"):
        Encoder(loaded.processor).training(drawn("pool", 2))
    batch = Encoder(loaded.processor).training([Sample((), chat("3 + 4?", "7", images=0))])
    assert "pixel_values" not in batch
    assert torch.isfinite(loaded.model(**batch).loss)


def test_no_source_runs_code_from_a_checkpoint():
    sources = [path for room in ("ost", "tasks", "flows") for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(sources) > 20
    allowed = r"trust_remote_code(?!=False|\": False)|weights_only=False"
    assert not [path.name for path in sources if re.search(allowed, path.read_text())]
    loads = [(path, call) for path in sources for call in _loads(path)]
    assert len(loads) >= 8
    for path, call in loads:
        told = {option.arg: option.value for option in call.keywords}
        whole = "trust_remote_code" in told or (None in told and '"trust_remote_code": False' in path.read_text())
        assert whole, f"{path.name}:{call.lineno} would ask at a terminal"


def _loads(path: Path) -> Iterator[ast.Call]:
    """Calls that make a model, a processor or a configuration of files, but for PEFT's, whose files are JSON alone."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            of = call.func.value
            if call.func.attr in ("from_pretrained", "from_config") and getattr(of, "id", "") != "LoraConfig":
                yield call


def anything(load: Callable, folder: Path) -> None:
    """Load, or refuse to."""
    with contextlib.suppress(ModelError):
        load(folder)


LOADERS = {
    "checkpoint": ost.load_checkpoint,
    "configuration": load_config,
    "processor": load_processor,
    "rater": lambda folder: deita.load_rater(str(folder)),
    "embedder": lambda folder: deita.load_embedder(str(folder)),
    "memory that it takes": lambda folder: on_meta(load_config(folder)),
}
AUTO = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor")
AUTO += ("AutoTokenizer", "AutoImageProcessor", "AutoVideoProcessor")


@pytest.mark.parametrize("answer", ["y", None], ids=["at a terminal", "without one"])
@pytest.mark.parametrize("kind", [None, "own"], ids=["a known model", "an unknown one"])
@pytest.mark.parametrize("loader", LOADERS)
def test_no_loader_runs_code_from_a_checkpoint(loader, kind, answer, folder, tmp_path, monkeypatch):
    """Refused, or loaded without it; nobody is asked, who may be a script that says yes to all."""
    ran, asked = tmp_path / "ran", []
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")

    def typed(*_: str) -> str:
        asked.append("a question")
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", typed)
    for file in folder.glob("*config.json"):
        content = json.loads(file.read_text()) | {"auto_map": dict.fromkeys(AUTO, "own.Own")}
        content |= {"model_type": kind} if kind and file.name == "config.json" else {}
        file.write_text(json.dumps(content))
    if kind:
        with pytest.raises(ModelError):
            LOADERS[loader](folder)
    else:
        anything(LOADERS[loader], folder)
    assert not ran.exists() and not asked


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_in_a_checkpoint_is_not_run(folder, file, tmp_path, monkeypatch):
    """Neither at a terminal, where transformers would ask."""
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    entries = {
        "config.json": "AutoConfig",
        "processor_config.json": "AutoProcessor",
        "tokenizer_config.json": "AutoTokenizer",
    }
    content = json.loads((folder / file).read_text())
    content["auto_map"] = {entries[file]: "own.Own"}
    (folder / file).write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with contextlib.suppress(ModelError):
        ost.load_checkpoint(folder)
    assert not ran.exists()
    unknown = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(unknown))
    with pytest.raises(ModelError, match="no model at"):
        load_processor(folder)
    assert not ran.exists()


# --- processors -------------------------------------------------------------------------------------------------------


def test_a_processor_is_loaded_without_weights(folder, pool):
    (folder / "model.safetensors").unlink()
    expected = Encoder(load_processor(folder, load_config(folder))).training(pool)
    batch = Encoder(load_processor(folder)).training(pool)
    assert all(torch.equal(batch[name], tensor) for name, tensor in expected.items())


def test_what_reads_images_is_what_transformers_has_a_model_for():
    """Fuyu, Chameleon and Emu3 have no `vision_config`; CLIP has one and answers nothing."""
    assert all(map(reads_images, (QWEN, MOE, FuyuConfig(), ChameleonConfig(), Gemma3Config())))
    assert not any(map(reads_images, (TEXT, CLIPConfig(), Gemma3TextConfig())))


def saved_tiny(folder: Path, processor, config, **changes) -> Path:
    """A folder as a checkpoint has it, but for the weights."""
    token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    config.image_token_id = token
    for name, value in changes.items():
        setattr(config, name, value)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


HALVES = {
    "qwen3_vl": (transformers.Qwen3VLProcessor, Qwen3VLConfig),
    "qwen2_5_vl": (transformers.Qwen2_5_VLProcessor, transformers.Qwen2_5_VLConfig),
    "qwen2_vl": (transformers.Qwen2VLProcessor, transformers.Qwen2VLConfig),
}


@pytest.mark.skipif(is_torchvision_available(), reason="the whole processors load")
@pytest.mark.parametrize("name", HALVES)
def test_a_processor_with_a_video_half_is_loaded_for_images(name, processor, tmp_path):
    """REPORTS 24."""
    known, config = HALVES[name]
    made = image_only(known)(processor.image_processor, processor.tokenizer, chat_template=processor.chat_template)
    loaded = load_processor(saved_tiny(tmp_path / name, made, config()))
    assert isinstance(loaded, known)
    assert pickle.loads(pickle.dumps(loaded)).to_dict() == loaded.to_dict()
    ours, theirs = (Encoder(one).training([*drawn("pool", 2), *other_forms()]) for one in (loaded, processor))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", HALVES)
def test_what_is_saved_for_images_is_what_the_whole_processor_is_loaded_from(name, processor, tmp_path):
    """A machine with torchvision asks for each part of the known class, by its name."""
    known, config = HALVES[name]
    made = image_only(known)(processor.image_processor, processor.tokenizer, chat_template=processor.chat_template)
    folder = saved_tiny(tmp_path / name, made, config())
    saved = json.loads((folder / "processor_config.json").read_text())
    parts = set(known.get_attributes()) - {"tokenizer"}
    assert parts == {"image_processor", "video_processor"}
    assert parts <= saved.keys()
    assert saved["processor_class"] == known.__name__
    assert json.loads((folder / "tokenizer_config.json").read_text())["processor_class"] == known.__name__
    assert saved["image_processor"]["image_processor_type"] == "Qwen2VLImageProcessor", "no name of a half alone"
    assert saved["video_processor"]["patch_size"] == saved["image_processor"]["patch_size"]


@pytest.mark.parametrize("name", HALVES)
def test_a_checkpoint_without_a_video_half_loads_where_one_could_be_made(name, processor, tmp_path, monkeypatch):
    """As saved by versions that knew nothing of it."""
    known, config = HALVES[name]
    made = image_only(known)(processor.image_processor, processor.tokenizer, chat_template=processor.chat_template)
    file = saved_tiny(tmp_path / name, made, config()) / "processor_config.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in whole.items() if key != "video_processor"}))
    monkeypatch.setattr("ost.models.processor.is_torchvision_available", lambda: True)
    load_processor(tmp_path / name).save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "processor_config.json").read_text())
    assert again["processor_class"] == known.__name__ and again["video_processor"]["patch_size"]


@pytest.mark.skipif(is_torchvision_available(), reason="the whole processors load")
def test_settings_for_videos_come_back_as_they_were(folder):
    kept = {"video_processor_type": "Qwen3VLVideoProcessor", "fps": 3, "patch_size": 8}
    whole = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(whole | {"video_processor": kept}))
    load_processor(folder).save_pretrained(folder / "again")
    assert json.loads((folder / "again" / "processor_config.json").read_text())["video_processor"] == kept
    (folder / "processor_config.json").write_text(
        json.dumps({k: v for k, v in whole.items() if k != "video_processor"})
    )
    (folder / "video_preprocessor_config.json").write_text(json.dumps(kept))
    load_processor(folder).save_pretrained(folder / "again")
    assert json.loads((folder / "again" / "processor_config.json").read_text())["video_processor"] == kept


# --- tied heads -------------------------------------------------------------------------------------------------------


def test_a_head_that_the_text_config_alone_ties_is_tied_and_said(proxy, saved, folder):
    """REPORTS 22."""
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"] = False, True
    (folder / "config.json").write_text(json.dumps(config))
    loaded, batch = ost.load_checkpoint(folder), Encoder(proxy.processor).prompts(drawn("pool", 2))
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, proxy.model(**batch).logits)
    assert len(loaded.notes) == 1 and "tie_word_embeddings of its text_config" in loaded.notes[0]
    loaded.save(folder.parent / "again")
    assert not ost.load_checkpoint(folder.parent / "again").notes
    assert not ost.load_checkpoint(saved).notes


def test_a_head_that_nothing_ties_is_still_missed(folder):
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks 1 of the model's weights, such as lm_head\.weight"):
        ost.load_checkpoint(folder)


# --- proxy and target -------------------------------------------------------------------------------------------------

QWEN, MOE, TEXT = Qwen3VLConfig(), Qwen3VLMoeConfig(), LlamaConfig()


@pytest.mark.parametrize("override", [False, True])
def test_a_text_only_proxy_never_stands_in_for_one_that_sees(override):
    with pytest.raises(ModelError, match=r"\(llama\) reads text only.*\(qwen3_vl\) reads images"):
        check_pair(TEXT, QWEN, allow_cross_family=override)


@pytest.mark.parametrize("other", [LlavaConfig, Idefics3Config, SmolVLMConfig])
def test_another_family_needs_the_override(other):
    with pytest.raises(ModelError, match=r"the target of 'qwen3_vl'.*models\.allow_cross_family: true"):
        check_pair(other(), QWEN)
    check_pair(other(), QWEN, allow_cross_family=True)


@pytest.mark.parametrize(("proxy_config", "target"), [(QWEN, MOE), (MOE, QWEN), (QWEN, QWEN), (TEXT, TEXT)])
def test_dense_and_mixture_of_one_design_are_one_family(proxy_config, target):
    check_pair(proxy_config, target)
    assert family(proxy_config) == family(target)


def test_the_saved_proxy_suits_the_built_in_target(saved, processor):
    check_pair(load_config(saved), build_model(TARGET, processor, 0).config)


# --- sizes and devices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "millions"), [(TARGET, 0.7), (PROXY, 0.4)], ids=["target", "proxy"])
def test_the_tiny_models_have_the_size_they_say(spec, millions, processor):
    assert build_model(spec, processor, 0).num_parameters() == pytest.approx(millions * 1e6, rel=0.15)


def test_a_built_model_follows_its_seed_and_leaves_the_global_one_alone(processor):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (build_model(PROXY, processor, seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected), "building a model moved the caller's random numbers"
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_tokenizer_takes_any_text(processor):
    text = "Größe: 3 m², 数字 🙂\n\t<b> 0123"
    tokens = processor.tokenizer.encode(text, add_special_tokens=False)
    assert processor.tokenizer.decode(tokens) == text


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="torch sees no CUDA device; set it to `auto` or `cpu`"):
        resolve_device("cuda")
    assert {resolve_device(name).type for name in ("auto", "cpu")} == {"cpu"}


def test_auto_takes_cuda_where_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [resolve_device(name).type for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


@pytest.mark.parametrize("hidden", [32, 64, 128, 256])
def test_built_in_models_come_in_other_widths(hidden, processor):
    model = build_model(sized(PROXY, hidden), processor, 0)
    assert model.config.text_config.hidden_size == hidden
    assert generate(Checkpoint(model.eval(), processor), drawn("benchmark", 1), max_new_tokens=2).completion_tokens


def test_a_tiny_llava_is_saved_loaded_trained_and_scored_with(processor, tmp_path):
    """Another family: patches of a stretched image, a class token, another decoder."""
    build_llava(PROXY, processor.tokenizer, 0).save(tmp_path / "llava")
    llava, lessons = ost.load_checkpoint(tmp_path / "llava"), drawn("pretrain", 32)
    assert family(llava.model.config) == "llava"
    first = train(llava, lessons, Recipe(steps=2, batch_size=16, learning_rate=2e-3)).loss
    assert train(llava, lessons, Recipe(steps=20, batch_size=16, learning_rate=2e-3)).loss < first
    utility = [
        ost.score(lessons, drawn("anchors", 8), llava, method=method, layers="language", checks=0).table["utility"]
        for method in ("gradient", "transposed")
    ]
    assert spearmanr(*(column.to_numpy() for column in utility)).statistic > 0.999
    with pytest.raises(ModelError, match="no rule for CLIPVisionEmbeddings"):
        ost.score(lessons, drawn("anchors", 8), llava, method="gradient", checks=0)


def test_a_hub_name_may_be_pinned_to_a_revision(proxy, tmp_path):
    """By a cache as the hub's own client leaves it, in which `main` is another commit than the one that is pinned."""
    pinned, newest = "a" * 40, "b" * 40
    cache = tmp_path / "hub/models--org--own"
    proxy.save(cache / "snapshots" / pinned)
    other = copy_of(proxy)
    other.model.lm_head.weight.data.zero_()
    other.save(cache / "snapshots" / newest)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(newest)
    script = (
        "from ost.models import commit_of, load_checkpoint\n"
        "for name in ('org/own', 'org/own@' + 'a' * 40):\n"
        "    own = load_checkpoint(name)\n"
        "    print(commit_of(name), bool(own.model.lm_head.weight.any()), own.processor is not None)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    said = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert said.stdout.splitlines()[-2:] == [f"{newest} False True", f"{pinned} True True"]
    assert revision_of("org/own") == ("org/own", None) and revision_of("org/own@v2") == ("org/own", "v2")
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert revision_of(folder) == (folder, None), "a folder's name is no pin"
