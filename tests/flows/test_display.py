"""What a flow shows while it runs."""

import os

from flows.display import PatientConsole


def test_a_run_outlives_whoever_reads_what_it_says():
    """As when a Prefect worker is killed, and its flow is not: the pipe that it wrote into has no other end."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        console = PatientConsole(file=stream)
        console.print("a stage is done")
        console.print("and another")
        stream.write("what others print is no error either\n")
