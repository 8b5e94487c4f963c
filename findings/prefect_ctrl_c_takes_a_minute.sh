#!/usr/bin/env bash
# Prefect: a flow with a server of its own ends at once when it alone is told to, and after a minute by a Ctrl-C
#
# Versions: prefect 3.9.1.
# Where no PREFECT_API_URL is set, a flow starts a server in a process of its own, and in the terminal's process group. A
# Ctrl-C goes to the whole group: the server is gone before the flow can tell it that it has ended, and the client, which
# takes the refused connection for an outage, tries again and again. The flow's own code has long been interrupted by
# then. A supervisor that signals the process alone (`kill -INT`, systemd with KillMode=process) never sees this; `timeout`,
# which runs in the foreground's group, does.
#
# Output seen (seconds from the signal to the end of the process; what is said of refused connections):
#   SIGINT to the process alone    3 s
#   SIGINT to its process group  155 s, httpx.ConnectError (on a busy machine; 72 s on a quieter one)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
"$uv" pip install --quiet --python "$work/env/bin/python" prefect==3.9.1
export PREFECT_HOME="$work/home" PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=120
unset PREFECT_API_URL
cd "$work"

cat > work.py <<'PY'
import time
from pathlib import Path

from prefect import flow


@flow
def work():
    Path("begun").touch()
    time.sleep(600)


work()
PY

cat > interrupt.py <<'PY'
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts behind `&` ignore it


def interrupted(send) -> tuple[float, str]:
    Path("begun").unlink(missing_ok=True)
    with open("said", "w") as said:
        process = subprocess.Popen([sys.executable, "work.py"], stdout=said, stderr=said, start_new_session=True)
    while not Path("begun").exists():
        assert process.poll() is None, Path("said").read_text()
        time.sleep(0.1)
    time.sleep(2)
    started = time.monotonic()
    send(process.pid, signal.SIGINT)
    process.wait(300)
    took = time.monotonic() - started
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return took, Path("said").read_text()


alone, said_alone = interrupted(os.kill)
group, said = interrupted(os.killpg)
print(f"  SIGINT to the process alone  {alone:3.0f} s")
print(f"  SIGINT to its process group  {group:3.0f} s{', httpx.ConnectError' * ('httpx.ConnectError' in said)}")
assert "httpx.ConnectError" not in said_alone and "httpx.ConnectError" in said
assert group > 30 and group > 2 * alone
PY
"$work/env/bin/python" interrupt.py
