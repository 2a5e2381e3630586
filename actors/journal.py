"""The coordinator's memory on disk: what was registered, ordered and begun, and each item's story.

SQLite in WAL mode with synchronous=FULL: a call that has returned survives a crash. It never holds weights
and never an ObjectRef; where the bytes are is asked of the stores and engines, not of this file.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from placement.config.edits import Edit
from placement.state import Item, Place
from placement.tiers import Tier

#: Counts up with each change of a table that an older file may have.
LAYOUT = 2
#: Tables that `up` fills anew: what an older layout holds of them is not worth a conversion.
_FILLED_BY_UP = ("versions", "failures", "intents", "activations")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS versions (
    item TEXT PRIMARY KEY, role TEXT NOT NULL, digest TEXT NOT NULL, image_digest TEXT NOT NULL,
    nbytes INTEGER NOT NULL, node TEXT NOT NULL, source TEXT NOT NULL, kept TEXT NOT NULL,
    network INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS edits (
    role TEXT PRIMARY KEY, at REAL NOT NULL, fields TEXT, was TEXT);
CREATE TABLE IF NOT EXISTS failures (
    role TEXT PRIMARY KEY, code TEXT NOT NULL, message TEXT NOT NULL, hint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
    item TEXT NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (item, kind));
CREATE TABLE IF NOT EXISTS intents (
    op TEXT PRIMARY KEY, item TEXT NOT NULL, command TEXT NOT NULL,
    began REAL NOT NULL, ended REAL, outcome TEXT);
CREATE TABLE IF NOT EXISTS story (
    n INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, item TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS story_of ON story (item, n);
CREATE TABLE IF NOT EXISTS activations (
    n INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, item TEXT NOT NULL, source TEXT NOT NULL,
    nbytes INTEGER NOT NULL, total_s REAL NOT NULL, copy_s REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Version:
    """One registered adapter version: the durable facts that a restarted coordinator needs.

    `node` has its image; `kept` is how its source is: in place, copied or fetched; of a `network` version the
    source itself, with `digest`, is the durable copy.
    """

    item: str
    role: str
    digest: str
    image_digest: str
    nbytes: int
    node: str
    source: str
    kept: str
    network: bool

    def at(self, node: str) -> Version:
        """Return the version with its image on `node`."""
        return replace(self, node=node)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a role cannot serve."""

    role: str
    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an item's story; `at` is seconds since the epoch (wall clock, for people only)."""

    at: float
    item: str
    text: str

    def __str__(self) -> str:
        """Return the local time to the millisecond, and what happened."""
        at = datetime.fromtimestamp(self.at).astimezone()
        return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}  {self.text}"


@dataclass(frozen=True, slots=True)
class Activated:
    """One copy of an adapter into a slot: from which tier, and what it cost."""

    at: float
    item: str
    source: str
    nbytes: int
    total_s: float
    copy_s: float


class Journal:
    """Open with `Journal.open(path)`; every method commits before it returns. One owner, one thread."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open or create the file, for its owner alone (mode 0600; a new folder 0700): it holds secrets.

        What is forgotten is overwritten.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.chmod(0o600)
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA secure_delete=ON")
        return cls(_laid_out(database))

    @classmethod
    def glance(cls, path: Path) -> Journal:
        """Return in memory what `open` would find in a file that nobody has open; the file stays as it is."""
        unmerged = path.with_name(f"{path.name}-wal").exists()
        how = "mode=ro" if unmerged else "immutable=1"  # which leaves no file beside it
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as file:
            file.backup(memory)
        return cls(_laid_out(memory))

    def close(self) -> None:
        self._db.close()

    def fact(self, key: str) -> str | None:
        """Return what was last set under `key`, or None."""
        row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def next_epoch(self) -> int:
        """Count up and return this coordinator's epoch: commands of earlier ones are refused from now on."""
        epoch = int(self.fact("epoch") or 0) + 1
        self.set_fact("epoch", str(epoch))
        return epoch

    def register(self, version: Version) -> None:
        """Remember the adapter version of a role in the place of the one before it.

        What was ordered of that one holds for this; a failure noted for the role is forgotten.
        """
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM failures WHERE role = ?", (version.role,))
        known = self._db.execute("SELECT item FROM versions WHERE role = ?", (version.role,)).fetchall()
        for (before,) in known:
            self.hand_over(before, version.item)
        self._db.execute("DELETE FROM versions WHERE role = ?", (version.role,))
        self._db.execute(
            "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                version.item,
                version.role,
                version.digest,
                version.image_digest,
                version.nbytes,
                version.node,
                version.source,
                version.kept,
                version.network,
            ),
        )
        self._db.execute("COMMIT")

    def versions(self) -> list[Version]:
        rows = self._db.execute("SELECT * FROM versions ORDER BY role")
        return [replace(Version(*row), network=bool(row[-1])) for row in rows]

    def settle(self, item: str, node: str) -> None:
        """Remember that the durable image of a version is on another node now."""
        self._db.execute("UPDATE versions SET node = ? WHERE item = ?", (node, item))

    def forget_version(self, role: str) -> None:
        """Forget which version a role has."""
        self._db.execute("DELETE FROM versions WHERE role = ?", (role,))

    def forget_role(self, role: str) -> None:
        """Forget all that was known and ordered of a role; its story stays."""
        self.forget_version(role)
        self._db.execute("DELETE FROM failures WHERE role = ?", (role,))
        self.forget_orders(role)

    def forget_orders(self, name: str) -> None:
        """Forget moves and pins of a role or shard, and where its actor was ordered to."""
        self._db.execute(
            "DELETE FROM orders WHERE item = ? OR item GLOB ? OR item GLOB ?",
            (name, f"{name}@*", f"{name}#*"),
        )

    def edit(self, edit: Edit, at: float) -> None:
        """Remember what was said of a role in code or on the line; the last word counts."""
        fields, was = (None if part is None else json.dumps(part) for part in (edit.fields, edit.was))
        self._db.execute("INSERT OR REPLACE INTO edits VALUES (?, ?, ?, ?)", (edit.role, at, fields, was))

    def unsay(self, role: str) -> None:
        """Forget what was said of a role: the file says it, or says otherwise."""
        self._db.execute("DELETE FROM edits WHERE role = ?", (role,))

    def edits(self) -> list[Edit]:
        """Return what was said of each role, the oldest word first."""
        rows = self._db.execute("SELECT role, fields, was FROM edits ORDER BY at, role")
        return [
            Edit(str(role), *(None if part is None else json.loads(part) for part in (fields, was)))
            for role, fields, was in rows
        ]

    def fail(self, failure: Failure) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)",
            (failure.role, failure.code, failure.message, failure.hint),
        )

    def mend(self, name: str) -> None:
        """Forget that a role or shard could not serve."""
        self._db.execute("DELETE FROM failures WHERE role = ?", (name,))

    def failures(self) -> list[Failure]:
        return [Failure(*row) for row in self._db.execute("SELECT * FROM failures ORDER BY role")]

    def order(self, item: str, kind: str, value: object) -> None:
        """Remember what a person ordered for an item ("home", "pin"); the last order of a kind wins."""
        self._db.execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?)", (item, kind, json.dumps(value)))

    def disorder(self, item: str, kind: str) -> None:
        """Forget one order of an item."""
        self._db.execute("DELETE FROM orders WHERE item = ? AND kind = ?", (item, kind))

    def hand_over(self, old: str, new: str) -> None:
        """Let what was ordered of one version hold for the one that replaces it."""
        self._db.execute("UPDATE OR REPLACE orders SET item = ? WHERE item = ?", (new, old))

    def orders(self) -> list[tuple[str, str, object]]:
        """Return (item, kind, value) of every order that stands."""
        rows = self._db.execute("SELECT item, kind, value FROM orders ORDER BY item, kind")
        return [(str(item), str(kind), json.loads(value)) for item, kind, value in rows]

    def homes(self) -> dict[Item, Place]:
        """Return the ordered home of each item that has one."""
        orders = [(item, value) for item, kind, value in self.orders() if kind == "home"]
        return {
            Item(item): Place(str(value[0]), Tier(value[1]), str(value[2]))
            for item, value in orders
            if isinstance(value, list)
        }

    def pins(self) -> dict[Item, bool]:
        """Return what was ordered of each item that was pinned or unpinned."""
        return {Item(item): bool(value) for item, kind, value in self.orders() if kind == "pin"}

    def seats(self) -> dict[str, str]:
        """Return the node that each role's actor was ordered to."""
        return {name: str(value) for name, kind, value in self.orders() if kind == "seat"}

    def begin(self, op: str, item: str, command: str, at: float) -> None:
        """Write the intent before the work, and its line in the story."""
        self._db.execute("BEGIN")
        self._db.execute(
            "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, NULL, NULL)", (op, item, command, at)
        )
        self._db.execute("INSERT INTO story (at, item, text) VALUES (?, ?, ?)", (at, item, command))
        self._db.execute("COMMIT")

    def end(self, op: str, item: str, outcome: str, at: float) -> None:
        """Close an intent, and say in the story how it ended."""
        self._db.execute("BEGIN")
        self._db.execute("UPDATE intents SET ended = ?, outcome = ? WHERE op = ?", (at, outcome, op))
        self._db.execute("INSERT INTO story (at, item, text) VALUES (?, ?, ?)", (at, item, outcome))
        self._db.execute("COMMIT")

    def open_intents(self) -> list[tuple[str, str, str]]:
        """Return (op, item, command) of what was begun and never ended: what a crash cut off."""
        rows = self._db.execute(
            "SELECT op, item, command FROM intents WHERE ended IS NULL ORDER BY began, op"
        )
        return [(str(op), str(item), str(command)) for op, item, command in rows]

    def tell(self, item: str, text: str, at: float) -> None:
        self._db.execute("INSERT INTO story (at, item, text) VALUES (?, ?, ?)", (at, item, text))

    def story(self, name: str, *, last: int = 200) -> list[Line]:
        """Return the last lines about a role or shard, whatever its versions, or about one item of it."""
        rows = self._db.execute(
            "SELECT at, item, text FROM story WHERE item = ? OR item GLOB ? OR item GLOB ? "
            "ORDER BY n DESC LIMIT ?",
            (name, f"{name}@*", f"{name}#*", last),
        ).fetchall()
        return [Line(*row) for row in reversed(rows)]

    def activated(self, activation: Activated) -> None:
        self._db.execute(
            "INSERT INTO activations (at, item, source, nbytes, total_s, copy_s) VALUES (?, ?, ?, ?, ?, ?)",
            (
                activation.at,
                activation.item,
                activation.source,
                activation.nbytes,
                activation.total_s,
                activation.copy_s,
            ),
        )

    def activations(self) -> list[Activated]:
        """Return every activation since the lab was first brought up, oldest first."""
        rows = self._db.execute(
            "SELECT at, item, source, nbytes, total_s, copy_s FROM activations ORDER BY n"
        )
        return [Activated(*row) for row in rows]

    def forget_lab(self, *, said: bool) -> None:
        """Forget what belongs to a lab that was taken down; its story and its epoch stay.

        So do, unless `said`, who speaks after whom, what was said and ordered since its file, and what was
        fetched from where.
        """
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM versions WHERE NOT network")
        for table in (*_FILLED_BY_UP[1:], *(("versions", "edits", "orders") if said else ())):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  (names from the line above)
        self._db.execute("DELETE FROM facts WHERE key NOT IN ('epoch', 'entries', 'habits')")
        if said:
            self._db.execute("DELETE FROM facts WHERE key = 'habits'")
        self._db.execute("COMMIT")


def _laid_out(database: sqlite3.Connection) -> sqlite3.Connection:
    """Return a database with the tables of this layout; of an older one, what `up` fills anew is dropped."""
    (layout,) = database.execute("PRAGMA user_version").fetchone()
    if layout != LAYOUT:
        for table in _FILLED_BY_UP:
            database.execute(f"DROP TABLE IF EXISTS {table}")
    database.executescript(_SCHEMA)
    database.execute(f"PRAGMA user_version = {LAYOUT}")
    return database
