"""Whatever is given to a command, it answers with a result or a clear error, and never with a traceback."""

import gzip
import io
import json
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli.main import app
from ost.data import write_samples
from ost.errors import OSTError
from ost.formats.json_reader import MOST_RECORD
from ost.worlds import handmath

COMMANDS = get_command(app).commands
QUICK = ("check", "score", "select", "export", "plan", "lineage", "rollback", "init", "curate", "report")
"""Commands that tell what is wrong before they start a server, or work for long."""
ODD_TEXT = st.one_of(
    st.sampled_from(
        ["", " ", "-", "--", "~", ".", "..", "/nowhere", "*", "é\u0301", "a=b", "=", "0", "-1", "nan", "1e999", "null"]
    ),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30).filter(
        lambda text: not text.startswith("/")  # the whole machine is no small input
    ),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Inputs of every kind of wrongness, and a few that are right, by what they are."""
    root = tmp_path_factory.mktemp("inputs") / "here"
    root.mkdir()
    rows = [handmath.to_sample(one) for one in handmath.draw("pool", 4, 0)]
    write_samples(root / "good.parquet", rows)
    (root / "good.jsonl").write_text(
        "".join(json.dumps({"prompt": str(n), "completion": "x"}) + "\n" for n in range(3))
    )
    contents = {
        "empty.parquet": b"",
        "empty.jsonl": b"",
        "empty.json": b"",
        "blank.jsonl": b"\n\n \n",
        "binary.jsonl": bytes(range(256)) * 9,
        "binary.parquet": b"PAR1" + bytes(999) + b"PAR1",
        "binary.tar": bytes(range(256)) * 9,
        "half.parquet": (root / "good.parquet").read_bytes()[:-200],
        "half.jsonl": b'{"messages": [{"role": "user", "content": "a"',
        "other.json": b'{"a": {"b": [1, 2, {"c": null}]}}',
        "number.json": b"7",
        "list.json": b'[1, "a", null, [], {}]',
        "messages.jsonl": b'{"messages": 7}\n{"messages": [7]}\n{"messages": []}\n{"messages": [{"role": "user"}]}\n',
        "plain.txt": b"hello",
        "noise.gz": b"\x1f\x8b" + bytes(99),
        "params.yaml": b"select: [1, 2",
    }
    for name, content in contents.items():
        (root / name).write_bytes(content)
    with gzip.open(root / "text.jsonl.gz", "wt") as file:
        file.write("{}\n[]\n")
    picture = io.BytesIO()
    Image.new("RGB", (9, 9)).save(picture, "PNG")
    with tarfile.open(root / "lone.tar", "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = len(picture.getvalue())
        tar.addfile(member, io.BytesIO(picture.getvalue()))
    with (root / "enormous.jsonl").open("wb") as file:
        os.ftruncate(file.fileno(), MOST_RECORD + 1)  # one line of zeros, which takes no room
    (root / "folder").mkdir()
    (root / "model").mkdir()
    (root / "model/config.json").write_text('{"model_type": "unheard-of"}')
    workspace = root / "workspace"
    workspace.mkdir()
    (workspace / "params.yaml").write_text("data: {pool: nowhere.jsonl, truth: null}\n")
    return root


@pytest.fixture(autouse=True)
def _apart(files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@st.composite
def lines(draw) -> list[str]:
    """A command line: values of the right number at the right places, of any kind."""
    command = draw(st.sampled_from(QUICK))
    value = st.one_of(st.sampled_from(FILES.split()), ODD_TEXT)
    line = [command]
    for one in COMMANDS[command].params:
        if one.name == "help":
            continue
        is_argument = one.param_type_name == "argument"
        if is_argument or one.required or draw(st.integers(0, 7)) == 0:
            given = [] if is_argument else [one.opts[-1]]
            line += given if getattr(one, "is_flag", False) else [*given, draw(value)]
    if command == "curate":  # what is right would be run
        line += [
            "--set",
            draw(st.sampled_from(["select.unheard=1", "sft.steps=-1", "score.method=", "=", "a.b.c=[[["])),
        ]
    if command == "init":  # which writes where it is told to
        line[1:2] = [draw(st.sampled_from(["folder/new", "good.jsonl", "workspace"]))]
    return line


FILES = """good.parquet good.jsonl empty.parquet empty.jsonl empty.json blank.jsonl binary.jsonl binary.parquet
binary.tar half.parquet half.jsonl other.json number.json list.json messages.jsonl plain.txt noise.gz text.jsonl.gz
lone.tar enormous.jsonl folder model workspace params.yaml s3:// s3:///a http://127.0.0.1:1/pool.jsonl
missing.jsonl missing/"""


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(line=lines())
def test_a_command_never_ends_in_a_traceback(line):
    done = CliRunner().invoke(app, line)
    if isinstance(done.exception, OSTError):  # which `main` prints
        assert str(done.exception).strip()
        return
    assert done.exception is None or isinstance(done.exception, SystemExit), (line, done.exc_info)
    assert done.exit_code in (0, 1, 2), done.output
