"""The tables of index.db, one step for each schema version; ``PRAGMA user_version`` counts them."""

from __future__ import annotations

SCHEMAS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE files (
            id INTEGER PRIMARY KEY,
            path TEXT NOT NULL UNIQUE,         -- below modules/, escaped
            module TEXT NOT NULL,              -- unescaped
            version TEXT NOT NULL,
            kind TEXT NOT NULL,                -- info, mod, zip
            length INTEGER NOT NULL,           -- bytes
            blocks INTEGER NOT NULL,           -- allocated, of 512 bytes
            sha256 BLOB NOT NULL,              -- of the bytes
            h1 TEXT,                           -- of mod and zip
            fetched REAL NOT NULL,             -- epoch seconds
            last_used REAL NOT NULL,           -- epoch seconds
            hits INTEGER NOT NULL DEFAULT 0,
            segment INTEGER NOT NULL DEFAULT 0,  -- 0 probation, 1 protected
            pinned INTEGER NOT NULL DEFAULT 0,
            state INTEGER NOT NULL DEFAULT 0   -- 0 stored, 1 dying
        ) STRICT
        """,
        "CREATE INDEX files_version ON files (module, version, kind)",
        """
        CREATE TABLE known (
            module TEXT NOT NULL,
            version TEXT NOT NULL,
            kind TEXT NOT NULL,                -- mod, zip
            h1 TEXT NOT NULL,
            seen REAL NOT NULL,                -- epoch seconds
            database TEXT NOT NULL DEFAULT '',  -- the checksum database that has proven it
            PRIMARY KEY (module, version, kind)
        ) STRICT, WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE new_files (
            id INTEGER PRIMARY KEY AUTOINCREMENT,  -- grows for ever: what is above the clean mark is unsure
            path TEXT NOT NULL UNIQUE,
            module TEXT NOT NULL,
            version TEXT NOT NULL,
            kind TEXT NOT NULL,
            length INTEGER NOT NULL,
            blocks INTEGER NOT NULL,
            sha256 BLOB NOT NULL,
            h1 TEXT,
            fetched REAL NOT NULL,             -- epoch seconds
            last_used REAL NOT NULL,           -- seconds of the logical clock (clock.py)
            rank REAL NOT NULL,                -- the same, of the place within its segment
            checked REAL NOT NULL,             -- the same, when its bytes were last compared with sha256
            hits INTEGER NOT NULL DEFAULT 0,
            segment INTEGER NOT NULL DEFAULT 0,  -- 0 probation, 1 protected
            pinned INTEGER NOT NULL DEFAULT 0,
            unsure INTEGER NOT NULL DEFAULT 0,  -- 1: perhaps not on disk when the power failed
            state INTEGER NOT NULL DEFAULT 0   -- 0 stored, 1 dying
        ) STRICT
        """,
        """
        INSERT INTO new_files (id, path, module, version, kind, length, blocks, sha256, h1, fetched,
            last_used, rank, checked, hits, state)
        SELECT id, path, module, version, kind, length, blocks, sha256, h1, fetched,
            last_used, last_used, fetched, hits, state FROM files
        """,
        "DROP TABLE files",
        "ALTER TABLE new_files RENAME TO files",
        "CREATE INDEX files_version ON files (module, version, kind)",
        "CREATE INDEX files_order ON files (pinned, segment, rank, blocks) WHERE kind = 'zip' AND state = 0",
        "CREATE INDEX files_idle ON files (kind, last_used)",
        "CREATE INDEX files_sizes ON files (kind, pinned, blocks)",
        "CREATE INDEX files_checked ON files (checked)",
        """
        CREATE TABLE strays (                  -- files without a row: not served until proven in place
            path TEXT PRIMARY KEY,
            kind TEXT NOT NULL,
            blocks INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID",
        """
        CREATE TABLE pins (
            pattern TEXT PRIMARY KEY,
            source TEXT NOT NULL               -- config, api
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE removals (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,                  -- epoch seconds
            module TEXT NOT NULL,
            version TEXT NOT NULL,
            kind TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            reason TEXT NOT NULL               -- size, idle, min_free, evict, purge, corrupt
        ) STRICT
        """,
        "CREATE INDEX removals_version ON removals (module, version, kind, id)",
        """
        CREATE TABLE passes (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            reason TEXT NOT NULL,              -- size, idle, min_free, evict, scrub, recovery
            finished REAL,                     -- epoch seconds; NULL while it runs, or was killed
            target INTEGER,                    -- bytes
            record TEXT NOT NULL               -- JSON, see ledger.py
        ) STRICT
        """,
    ),
    (
        "ALTER TABLE known ADD COLUMN number INTEGER",  # of its record in the log of ``database``
        """
        CREATE TABLE first_seen (              -- versions that no checksum database knows the age of
            module TEXT NOT NULL,
            version TEXT NOT NULL,
            seen REAL NOT NULL,                -- epoch seconds
            PRIMARY KEY (module, version)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX first_seen_order ON first_seen (seen)",
    ),
)
"""Statements that lead from each schema version to the next."""
