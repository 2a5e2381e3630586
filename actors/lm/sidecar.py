"""What is kept beside an image: its size and digest, when that was last checked, and who has proven it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.lm.image_file import Stamp

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sidecar:
    """`digest` and `nbytes` are those of the image as it came here.

    The file with the stamp `verified` had that digest at `checked_s` (the clock on the wall): until its stamp
    is another one, it is not hashed again but by scrubbing. `proven` are the keys of the engines in which the
    image has had an effect.
    """

    item: str
    nbytes: int
    digest: str
    verified: Stamp | None = None
    checked_s: float = 0.0
    proven: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Sidecar | None:
        """Return what a sidecar tells, None if it is missing or damaged."""
        try:
            fields = json.loads(path.read_bytes())
            verified = fields.get("verified")
            return cls(
                str(fields["item"]),
                int(fields["nbytes"]),
                str(fields["digest"]),
                None if verified is None else Stamp(*map(int, verified)),
                float(fields.get("checked_s", 0.0)),
                tuple(map(str, fields.get("proven", ()))),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def encoded(self) -> bytes:
        stamp = self.verified
        fields = {
            "item": self.item,
            "nbytes": self.nbytes,
            "digest": self.digest,
            "verified": None if stamp is None else [stamp.mtime_ns, stamp.nbytes, stamp.inode],
            "checked_s": self.checked_s,
            "proven": list(self.proven),
        }
        return json.dumps(fields).encode()
