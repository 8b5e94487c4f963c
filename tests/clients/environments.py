"""The clients' environments: one each, since their pins exclude one another. Made once, kept while the pins stay.

By hand, all of them or one:

    python tests/clients/environments.py
    python tests/clients/environments.py trl
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".clients"
TORCH = "torch==2.13.0"
# torchvision's wheel is made for CUDA torch and breaks the other's imports; ms-swift and LLaMA-Factory ask for it, and
# for much that only their web pages use: they are installed without what they ask for.


@dataclass(frozen=True)
class Environment:
    """What one client runs in: pins, as they stand on a command line."""

    packages: str
    """Resolved together."""
    alone: str = ""
    """Installed without what they ask for."""
    modules: tuple[str, ...] = ()
    """Left empty: the client imports them, and calls them for neither images nor text."""

    @property
    def stamp(self) -> str:
        """A digest of the pins and of this interpreter's version: another one is another environment."""
        return hashlib.blake2b(repr((self, sys.version_info[:2])).encode(), digest_size=8).hexdigest()


ENVIRONMENTS = {
    "trl": Environment(
        f"{TORCH} transformers==5.24.0 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0 pillow==13.0.0 jinja2==3.1.6"
    ),
    "ms_swift": Environment(
        f"{TORCH} transformers==5.19.0 datasets==4.8.4 peft==0.20.0 trl==0.29.1 accelerate==1.15.0 modelscope==1.40.2"
        " pillow==13.0.0 json-repair==0.64.6 dacite==1.9.2 simplejson==4.3.0 sortedcontainers==2.4.0 addict==2.4.0"
        " attrdict==2.0.1 einops==0.8.2",
        alone="ms-swift==4.6.0",
    ),
    "llamafactory": Environment(
        f"{TORCH} transformers==5.6.0 datasets==4.0.0 peft==0.18.1 trl==0.24.0 accelerate==1.11.0"
        " pillow==13.0.0 omegaconf==2.4.0",
        alone="llamafactory==0.9.5",
        modules=("torchaudio",),
    ),
    "energon": Environment(
        f"{TORCH} webdataset==1.0.2 multi-storage-client==1.3.1 rapidyaml==0.15.2 mfusepy==3.1.1 filetype==1.2.0"
        " pillow==13.0.0 numpy==2.4.6 click==8.5.1 tqdm==4.70.1",
        alone="megatron-energon==7.4.1",
    ),
    "lmms_eval": Environment(
        f"{TORCH} transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0 evaluate==0.4.6 pillow==13.0.0 jinja2==3.1.6"
        " filelock==3.32.7 loguru==0.7.3 numexpr==2.14.2 pytablewriter==1.2.1 python-dotenv==1.2.4 pytz==2026.6"
        " requests==2.34.2 sacrebleu==2.6.0 tenacity==9.2.1 tqdm-multiprocess==0.0.11",
        alone="lmms-eval==0.7.3 decord==0.6.0",
    ),
    "webdataset": Environment("webdataset==1.0.2 numpy==2.4.6 pillow==13.0.0"),
}


def environment(client: str) -> Path:
    """The Python of a client's environment, which is made if there is none of these pins.

    Raises:
        subprocess.CalledProcessError: if uv cannot install it; what uv said is on standard error.
    """
    wanted, folder = ENVIRONMENTS[client], FOLDER / client
    python, stamp = folder / "bin" / "python", folder / "made-of"
    if stamp.is_file() and stamp.read_text() == wanted.stamp:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _uv("venv", "--python", sys.executable, str(folder))
    _uv("pip", "install", "--python", str(python), *_find_links(), *wanted.packages.split())
    if wanted.alone:
        _uv("pip", "install", "--python", str(python), "--no-deps", *wanted.alone.split())
    for module in wanted.modules:
        (next((folder / "lib").glob("python*")) / "site-packages" / f"{module}.py").touch()
    stamp.write_text(wanted.stamp)  # last: half an environment has none
    return python


def run(client: str, *arguments: Path) -> dict:
    """What a client's script prints of a folder, in the client's own environment.

    Raises:
        RuntimeError: if the script ends with an error, with the end of what it said.
    """
    script = Path(__file__).with_name(f"load_with_{client}.py")
    with tempfile.TemporaryDirectory() as caches:
        done = subprocess.run(
            [environment(client), script, *arguments], env=_alone(Path(caches)), capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(f"{script.name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _alone(caches: Path) -> dict[str, str]:
    """This process's variables, with no hub, caches that nobody else has, and one thread."""
    alone = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "WANDB_DISABLED": "true"}
    alone |= {name: str(caches / name) for name in ("HF_HOME", "HF_DATASETS_CACHE", "MODELSCOPE_CACHE")}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # slow imports
    return inherited | alone


def _find_links() -> list[str]:
    """A folder of wheels that pip knows of; uv has to be told."""
    return ["--find-links", os.environ["PIP_FIND_LINKS"]] if os.environ.get("PIP_FIND_LINKS") else []


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")  # the project's own, as `make install` laid it
    subprocess.run([uv if uv.is_file() else "uv", *arguments, "--quiet"], check=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or ENVIRONMENTS:
        begun = time.monotonic()
        environment(name)
        sys.stdout.write(f"{name}: {time.monotonic() - begun:.1f} s\n")
