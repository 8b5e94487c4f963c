"""From a user's own files to checked sample sets: workers, checks, and a reason for every record that is kept out."""

from ost.ingestion.ingest import Ingested, ingest
from ost.ingestion.taken import Quarantined, SetName, write_quarantine

__all__ = ["Ingested", "Quarantined", "SetName", "ingest", "write_quarantine"]
