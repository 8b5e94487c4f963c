"""`make stack`: the servers, a worker and the deployments, until Ctrl-C."""

import signal
import sys
from pathlib import Path

from flows.display import console
from stack.processes import ServerError
from stack.servers import write_secret
from stack.stack import deploy, prepare, stack, worker

FOLDER = Path(".stack").resolve()


def main() -> None:
    """Start everything, say where it is, and wait."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print("starting PostgreSQL, S3, MLflow and Prefect; their logs lie in .stack/")
    with stack(FOLDER) as servers:
        environment = servers.environment
        prepare(environment)
        deploy(Path.cwd(), environment)
        file = FOLDER / "environment"
        write_secret(file, "".join(f"export {name}={value}\n" for name, value in environment.items()))
        with worker(FOLDER, environment):
            console.print(f"Prefect  {environment['PREFECT_API_URL'].removesuffix('/api')}")
            console.print(f"MLflow   {environment['MLFLOW_TRACKING_URI']}")
            console.print(f"S3       {environment['AWS_ENDPOINT_URL']}")
            console.print("to work with them: source .stack/environment; Ctrl-C stops all")
            signal.pause()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        console.print("stopped; what they hold stays in .stack/")
    except ServerError as error:
        sys.exit(f"error: {error}")
