"""The stages as plain functions: load, call `ost`, save. Flows and DVC run them through `tasks.stages.run.execute`."""
