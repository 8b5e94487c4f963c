"""From a user's own files to checked samples: readers, checks, and a reason for every record that is kept out."""

from ost.ingestion.ingest import Ingested, ingest
from ost.ingestion.quarantine import Quarantined, Reason, Source, write_quarantine
from ost.ingestion.readers import Broken, read_records

__all__ = [
    "Broken",
    "Ingested",
    "Quarantined",
    "Reason",
    "Source",
    "ingest",
    "read_records",
    "write_quarantine",
]
