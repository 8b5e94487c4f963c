"""The stages as functions: what they refuse, and the manifest that each leaves."""

import subprocess

import pytest

from flows.parameters import set_params
from ost.errors import ConfigError, OSTError, WorkspaceError
from ost.store import digest, read_json
from ost.worlds import WORLDS
from tasks.pipeline import manifest_path, stages_of
from tasks.plan import Plan
from tasks.settings import Params, load_params
from tasks.stages.context import Context, git_state
from tasks.stages.run import execute


def test_an_unknown_stage_is_refused_with_the_known_ones(folder):
    with pytest.raises(WorkspaceError, match="no stage named 'scores'; they are named by world, base, ingest"):
        execute("scores", folder)


KEYED = ("score-lookahead", "select-lookahead-20", "select-random-20", "sft-lookahead-20-B", "evaluate-base")


@pytest.mark.parametrize(
    ("stage", "told"),
    [("score-utility", "no scores are named"), ("select-lookahead", "no subset is named")]
    + [
        (f"sft-{key}", "no (training|subset|arm) is named")
        for key in ("lookahead", "lookahead-C", "nobody-20-B", "", "-B")
    ],
)
def test_a_key_that_is_nobodys_is_refused(stage, told, folder):
    with pytest.raises(ConfigError, match=told):
        execute(stage, folder)


@pytest.mark.parametrize("stage", ["ingest", "warmup", "report", *KEYED])
def test_a_stage_without_its_inputs_names_the_file_and_the_remedy(folder, stage):
    with pytest.raises(WorkspaceError, match=f"stage {stage} needs .*, which is missing: run `ost curate`"):
        execute(stage, folder)
    assert not list(folder.rglob("*manifest.json")), "a stage that failed left a manifest, as if it had succeeded"


def test_a_wrong_parameter_stops_a_stage_before_it_works(folder):
    (folder / "params.yaml").write_text("select: {puritty: 0.1}")
    with pytest.raises(ConfigError, match="did you mean `purity`"):
        execute("base-target", folder)
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


def test_a_manifest_holds_all_that_reruns_the_stage(folder):
    manifest = execute("base-proxy", folder)
    assert manifest == read_json(folder / "models/proxy.manifest.json"), "what is returned and what is kept differ"
    assert manifest["stage"] == "base-proxy"
    assert manifest["outputs"] == {"models/proxy": digest(folder / "models/proxy")}
    assert manifest["inputs"] == {}
    assert manifest["params"]["base"]["proxy_steps"] == 4, "the manifest's parameters are not the run's"
    assert manifest["seconds"] > 0
    assert manifest["flops"] > 0
    assert {"python", "torch", "transformers", "datasets", "ost-pipeline"} <= set(manifest["versions"])
    assert not list(folder.rglob("*.part"))


def test_the_same_seed_gives_the_same_model_and_another_seed_another(folder):
    first = execute("base-proxy", folder)["outputs"]
    assert execute("base-proxy", folder)["outputs"] == first, "training is not reproducible bit by bit"
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("seed: 0", "seed: 1"))
    assert execute("base-proxy", folder)["outputs"] != first, "the seed reaches neither weights nor data"


def test_progress_of_a_stage_reaches_its_end(folder):
    seen = []
    execute("base-target", folder, lambda done, total, note="": seen.append((done, total)))
    assert seen[-1] == (4, 4)


def test_a_context_records_what_is_read_and_written(folder):
    ctx = Context(folder, "sft-lookahead-20-B", Params())
    assert ctx.key == "lookahead-20-B"
    ctx.input("params.yaml")
    ctx.output("x/y.json")
    assert (list(ctx.inputs), list(ctx.outputs)) == (["params.yaml"], ["x/y.json"])
    with pytest.raises(OSTError, match=r"needs nowhere\.parquet"):
        ctx.input("nowhere.parquet")
    assert "nowhere.parquet" not in ctx.inputs, "a file that was never read would stand in the manifest"


def test_the_git_state_tells_a_changed_file_and_survives_without_git(tmp_path):
    assert git_state(tmp_path) == {"commit": "", "dirty": False}

    def git(*arguments: str) -> str:
        author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        return subprocess.run(
            ["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True
        ).stdout.decode()

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "--all")
    git("commit", "--message", "one")
    commit = git("rev-parse", "HEAD").strip()
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "untracked").write_text("a run's outputs")
    assert not git_state(tmp_path)["dirty"], "outputs that git does not track are no local change"
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


@pytest.mark.parametrize("world", WORLDS)
def test_every_world_goes_through_the_stages_up_to_the_scores(world, folder):
    sizes = ["world.pool=40", "world.anchors=10", "world.benchmark=8", "world.errors=rules"]
    settings = ["sft.steps=10", "sft.batch_size=4", "warmup.fraction=0.5", "score.checks=0"]
    settings += ["score.lookahead.steps=2"]
    set_params(folder / "params.yaml", [f"world.name={world}", *sizes, *settings])
    for stage in stages_of(folder, Plan(load_params(folder / "params.yaml")))[:6]:
        manifest = execute(stage.name, folder)
        assert set(manifest["inputs"]) == set(stage.reads), "DVC is told of other dependencies than the stage has"
        assert {*manifest["outputs"], manifest_path(stage.name)} == set(stage.made)
    assert read_json(folder / "metrics/ingest.json")["counts"]["pool"]["kept"] == 40
    assert stage.name == "score-lookahead" and manifest["metrics"]["toxic_share"] < 1
