"""How far a conversion is."""

from __future__ import annotations

from dataclasses import dataclass

from dinotrain.preparing.record import ShardRecord


@dataclass
class Progress:
    """Counts that grow while images are gone through."""

    total: int
    what: str = "converted"
    """What is done to the images."""
    looked_at: int = 0
    kept: int = 0
    failed: int = 0
    dropped: int = 0
    bytes_in: int = 0

    def count(self, record: ShardRecord) -> None:
        """Add a complete shard."""
        self.looked_at = record.end
        self.kept += len(record.images)
        self.failed += len(record.failures)
        self.dropped += len(record.duplicates)
        self.bytes_in += record.bytes_in
