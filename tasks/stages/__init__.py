"""The stages: each loads what it needs, calls the library, and saves what came of it."""
