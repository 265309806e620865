"""Open a database from a URL, and show a URL without its password."""

import errno
import os
import re
import sqlite3
import time
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import peewee

from .database.constraints import remedy as known_remedy
from .database.internals import uses_psycopg3
from .database.postgresql import IsoPostgresqlDatabase
from .database.read_only import ReadOnlySqliteDatabase, may
from .errors import DatabaseUnavailableError, DatabaseURLError, one_line
from .fields.compression import configure

_FORMS = (
    "sqlite:///file.db, sqlite:////absolute/file.db, postgresql://user:password@host/name, or "
    "postgresql+psycopg://… for psycopg 3"
)
_PREPARING = "postgresql+psycopg"
"""The scheme for psycopg 3, the same as SQLAlchemy's."""
_SQLITE_OPTIONS = {"compress_over": re.compile(r"\d{1,9}", re.ASCII), "mode": re.compile("ro")}
_RETRY_SECONDS = 0.02
_SHOWN_OPTIONS = ("host", "hostaddr", "port", "dbname", "user", "sslmode")


def connect(url: str, *, timeout: float = 5.0, must_exist: bool = False) -> peewee.Database:
    """Connect to the SQLite or PostgreSQL database of a URL, and check that it answers.

    A SQLite database gets write-ahead logging, `synchronous=NORMAL`, enforced foreign keys, and
    transactions that take the write lock when they begin. A PostgreSQL URL is passed to libpq
    unchanged, with all of libpq's options. The client encoding is UTF-8 unless the URL sets
    another, and the server writes dates in ISO format.

    Args:
        url: one of
            `sqlite:///relative.db`, `sqlite:////absolute.db` or `sqlite:///:memory:`, with
            `?compress_over=CHARACTERS` to compress large documents, or with `?mode=ro` to read a
            file without changing it, also one that this user may not write;
            `postgresql://user:password@host:port/name`;
            `postgresql+psycopg://…` for psycopg 3, which prepares statements on the server. That
            is faster, but does not work with PgBouncer in transaction mode.
        timeout: on SQLite, seconds to wait for a lock that another connection holds; on
            PostgreSQL, seconds to wait for the connection, unless the URL sets connect_timeout.
        must_exist: raise DatabaseUnavailableError for a missing SQLite file, instead of
            creating it.

    Returns:
        The Peewee database without an open connection: Peewee opens one per thread at first use.
        Only `:memory:` keeps the calling thread's connection open, because closing it deletes
        the content; every other thread then has a separate, empty database.

    Raises:
        DatabaseURLError: the URL is malformed, or its scheme is unknown.
        DatabaseUnavailableError: the database cannot be opened.
        AIContentError: the URL has compress_over, and zstd is not installed.
    """
    parts = _split(url)
    if parts.scheme == "sqlite":
        return _sqlite(parts, timeout, must_exist)
    if parts.scheme in ("postgresql", "postgres", _PREPARING):
        # Peewee and libpq accept the scheme only in lower case.
        return _postgresql("postgresql" + url[url.index("://") :], parts, timeout)
    raise DatabaseURLError(f"unknown scheme in the database URL: use {_FORMS}")


def redact(url: str) -> str:
    """Remove the password and unknown options from a URL, so that it can be shown."""
    try:
        parts = _split(url)
        if parts.scheme == "sqlite":
            _sqlite_name(parts)
            return url
        _check_postgresql(parts)
    except DatabaseURLError:
        return f"{url.partition(':')[0]}://…"
    userinfo, at, hosts = parts.netloc.rpartition("@")
    options = [(key, value) for key, value in parse_qsl(parts.query) if key in _SHOWN_OPTIONS]
    shown = f"{parts.scheme}://{userinfo.partition(':')[0]}{at}{hosts}{parts.path}"
    return f"{shown}?{urlencode(options, safe='/:,')}" if options else shown


def _split(url: str) -> SplitResult:
    if not isinstance(url, str) or "://" not in url:
        raise DatabaseURLError(f"not a database URL: use {_FORMS}")
    # Python's parser drops these characters and libpq does not: the two would see different URLs.
    if url != url.strip() or not unquote(url).isprintable():
        raise DatabaseURLError(f"white space or control characters in the URL: use {_FORMS}")
    try:
        return urlsplit(url)
    except ValueError:
        raise DatabaseURLError(f"malformed database URL: use {_FORMS}") from None


def _sqlite_name(parts: SplitResult) -> str:
    if parts.netloc or not parts.path.strip("/"):
        raise DatabaseURLError(
            "a SQLite URL has three slashes before a relative file, four before an absolute one: "
            "use sqlite:///file.db or sqlite:////absolute/file.db"
        )
    options = parse_qsl(parts.query, keep_blank_values=True)
    if (
        parts.fragment
        or len(dict(options)) < len(options)
        or any(n not in _SQLITE_OPTIONS or not _SQLITE_OPTIONS[n].fullmatch(v) for n, v in options)
    ):
        raise DatabaseURLError(
            "a SQLite URL takes two options: compress_over=CHARACTERS, a number of one to nine "
            "digits, and mode=ro (aicontent.configure sets others); write ? in a file name as %3F"
        )
    return unquote(parts.path[1:])


def _sqlite(parts: SplitResult, timeout: float, must_exist: bool) -> peewee.Database:
    name, options = _sqlite_name(parts), dict(parse_qsl(parts.query))
    in_memory = name == ":memory:"
    reads_only = "mode" in options and not in_memory
    if (must_exist or reads_only) and not in_memory and not Path(name).exists():
        raise DatabaseUnavailableError(
            f"there is no SQLite database {name}: check the path; "
            "`aicontent migrate --create-users` creates a new one"
        )
    database = (ReadOnlySqliteDatabase if reads_only else peewee.SqliteDatabase)(
        name,
        # NORMAL is safe with WAL: a power cut may lose the last commits but never corrupts the
        # file. A log of 16 MB instead of 4 MB halves the time of reuse() on a million rows, because
        # it changes the same pages repeatedly and each page is written back once per log.
        pragmas={"foreign_keys": 1, "synchronous": 1, "wal_autocheckpoint": 4000},
        timeout=timeout,
        # With WAL a transaction that reads first and writes later fails at once if another
        # connection wrote in between. A transaction that begins with the lock waits instead.
        lock_type="IMMEDIATE",
    )
    if "compress_over" in options:
        configure(database, compress_over=int(options["compress_over"]))
    try:
        with database.connection_context():
            if reads_only:
                database.pragma("schema_version")
            else:
                _write_ahead(database, timeout)
        if in_memory:
            database.connect()
    except (peewee.DatabaseError, sqlite3.Error) as error:
        raise DatabaseUnavailableError(_sqlite_remedy(name, error)) from error
    return database


def _write_ahead(database: peewee.SqliteDatabase, timeout: float) -> None:
    # The file stores the mode, so it is set once, not per connection. SQLite's timeout does not
    # apply to this switch, so processes that start at the same time must retry.
    deadline = time.monotonic() + timeout
    while True:
        try:
            if database.pragma("journal_mode") not in ("wal", "memory"):
                database.pragma("journal_mode", "wal")
            return
        except peewee.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _sqlite_remedy(name: str, error: Exception) -> str:
    path = Path(name)
    if not path.parent.is_dir():
        remedy = f"the folder {path.parent} does not exist: create it"
    elif path.is_dir():
        remedy = "it is a folder: name a file"
    elif "readonly" in str(error):
        remedy = (
            "it cannot be written: give this user write permission on it and its folder, or only "
            "read it (add ?mode=ro)"
        )
    elif "locked" in str(error):
        remedy = "another process holds its lock: try again later, or set a longer timeout"
    elif _has_too_many_files():
        remedy = "this process has too many open files: close some, or raise the limit (ulimit -n)"
    elif path.exists() and not may(os.R_OK, path):
        remedy = "this user may not read it: give the user read permission"
    elif "unable to open" in str(error):
        remedy = "it cannot be opened: check that this user may write to it and to its folder"
    elif "not a database" in str(error):
        remedy = "it is not a SQLite database: name another file"
    else:
        known = known_remedy(error)
        remedy = f"{error}: {known}" if known else str(error)
    return f"cannot open the SQLite database {name}: {remedy}"


def _has_too_many_files() -> bool:
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _postgresql(url: str, parts: SplitResult, timeout: float) -> peewee.Database:
    _check_postgresql(parts)
    prepares = parts.scheme == _PREPARING
    database = IsoPostgresqlDatabase(url, prefer_psycopg3=prepares)
    if uses_psycopg3(database):
        if not prepares:
            database.connect_params["prepare_threshold"] = None
    elif prepares:
        raise DatabaseUnavailableError(
            f"{_PREPARING}:// needs psycopg 3: pip install 'psycopg[binary]', or use postgresql://"
        )
    options = dict(parse_qsl(parts.query))
    if "client_encoding" not in options:
        # The server's default may lack characters, or be SQL_ASCII, which drivers return as bytes.
        database.connect_params["client_encoding"] = "UTF8"
    if "connect_timeout" not in options:
        # libpq takes whole seconds, and 0 means no limit.
        database.connect_params["connect_timeout"] = max(1, round(timeout))
    try:
        with database.connection_context():
            pass
    except peewee.ImproperlyConfigured:
        raise DatabaseUnavailableError(
            "PostgreSQL needs a driver: pip install psycopg2-binary (or psycopg2, or psycopg)"
        ) from None
    except peewee.ProgrammingError:
        raise _malformed() from None
    except (peewee.OperationalError, UnicodeError) as error:
        # libpq's message has the host, the port and the reason, never the password:
        # _check_postgresql refuses URLs in which libpq would read part of a password as a host.
        reason = one_line(error)
        raise DatabaseUnavailableError(f"cannot reach {redact(url)}: {reason}") from None
    return database


def _check_postgresql(parts: SplitResult) -> None:
    # libpq would read the text after a reserved character in a password as a host, a port, a
    # name or an option, and repeat it in its error message.
    userinfo, _, hosts = parts.netloc.rpartition("@")
    if "@" in userinfo or "@" in parts.path or parts.fragment:
        raise _malformed()
    for host in hosts.split(","):
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host else ""
        if port and not (port.isascii() and port.isdigit()):
            raise _malformed()
    try:
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise _malformed() from None


def _malformed() -> DatabaseURLError:
    return DatabaseURLError(
        "malformed PostgreSQL URL: use postgresql://user:password@host:port/name, optionally "
        "followed by ? and libpq's options; in the user and the password write reserved "
        "characters in percent form (@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25)"
    )
