"""Commands that only read work on a read-only database."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import peewee
import pytest

import aicontent
from helpers import replayed, run_here

ON_SQLITE = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)


@pytest.fixture
def folder(tmp_path):
    """Yield a folder on a file system that `freeze` makes read-only."""
    folder = tmp_path / "frozen"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def freeze(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def looks(url, rows):
    """Assert that stats, check and export read this number of rows."""
    status, out, err = run_here("check", "--database", url)
    assert (status, out.splitlines()[0]) == (0, "ok"), err
    status, out, err = run_here("export", "--database", url)
    assert (status, len(out.splitlines())) == (0, rows), err
    status, out, err = run_here("stats", "--json", "--database", url)
    assert (status, f'"rows": {rows}' in out) == (0, True), err


def copy_of(url, target):
    """Copy a database file with its write-ahead log; no connection has the copy open."""
    database = aicontent.connect(url)
    for path in Path(database.database).parent.glob(f"{Path(database.database).name}*"):
        shutil.copy(path, target)
    return target / Path(database.database).name


@ON_SQLITE
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_file_system_that_cannot_be_written(fill, url, database, folder, mode):
    fill(3)
    database.pragma("journal_mode", mode)
    database.close()
    path = copy_of(url, folder)
    freeze(folder)
    looks(f"sqlite:///{path}", 3)
    looks(f"sqlite:///{path}?mode=ro", 3)
    for command in ("cleanup", "requeue", "migrate"):
        status, _, err = run_here(command, "--database", f"sqlite:///{path}")
        assert status == 1
        assert err.startswith(f"Error: cannot open the SQLite database {path}: ")
    status, _, err = run_here("rollback", "--yes", "--database", f"sqlite:///{path}?mode=ro")
    assert (status, "read-only: migrate the primary or a writable file" in err) == (1, True)
    Content = aicontent.for_database(aicontent.connect(f"sqlite:///{path}?mode=ro"))  # noqa: N806
    found = Content.first_reusable(Content.get().user_id, "lesson")
    assert found is not None
    with pytest.raises(peewee.OperationalError, match="readonly"):
        found.mark_accessed()


@ON_SQLITE
@pytest.mark.parametrize("through", ["the file", "a link"])
def test_a_log_that_cannot_be_read_is_not_passed_over(
    fill, url, database, folder, tmp_path, through
):
    fill(3)  # the open connection keeps the write-ahead log
    path = copy_of(url, folder)
    (folder / f"{path.name}-shm").unlink()
    freeze(folder)
    name = path
    if through == "a link":
        name = tmp_path / "link.db"
        name.symlink_to(path)
    for command in ("stats", "check", "export"):
        status, _, err = run_here(command, "--database", f"sqlite:///{name}")
        assert status == 1
        assert f"its newest content is in {path.name}-wal" in err


@contextmanager
def another_user():
    """Act as a user with almost no rights to write."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to act as another user")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def shared(url):
    """Yield a folder that every user can read, with a copy of the database."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@ON_SQLITE
@pytest.mark.parametrize("rights", [0o755, 0o777])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_file_of_another_user(fill, url, database, shared, mode, rights):
    """A read by this user leaves no file that the owner cannot write."""
    fill(3)
    database.pragma("journal_mode", mode)
    database.close()
    path = copy_of(url, shared)
    shared.chmod(rights)
    looks(f"sqlite:///{path}", 3)  # this loads modules that the other user may be unable to read
    before = path.read_bytes()
    with another_user():
        looks(f"sqlite:///{path}", 3)
        looks(f"sqlite:///{path}?mode=ro", 3)
        reader = aicontent.connect(f"sqlite:///{path}?mode=ro")
    assert [each.name for each in shared.iterdir()] == [path.name]
    assert path.read_bytes() == before
    writer = aicontent.connect(f"sqlite:///{path}")
    Content = aicontent.for_database(writer)  # noqa: N806
    Content.create(user=Content.get().user_id, type="lesson", request_payload={})
    with another_user():  # the next connection of this user reads the write-ahead log
        Reader = aicontent.for_database(reader)  # noqa: N806
        assert Reader.select().count() == 4
        with pytest.raises(peewee.OperationalError, match="readonly"):
            Reader.delete().execute()
        reader.close()
    writer.close()
    path.chmod(0o600)
    with another_user():
        status, _, err = run_here("stats", "--database", f"sqlite:///{path}")
    assert (status, "this user may not read it" in err) == (1, True)


@ON_SQLITE
def test_looking_changes_no_file(fill, url, database, tmp_path):
    fill(3)
    database.pragma("journal_mode", "delete")
    database.close()
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    path = copy_of(url, snapshot)
    before = path.read_bytes()
    looks(f"sqlite:///{path}", 3)
    looks(f"sqlite:///{path}?compress_over=9&mode=ro", 3)
    for command in ("cleanup", "requeue", "migrate"):
        assert run_here(command, "--dry-run", "--database", f"sqlite:///{path}")[0] == 0
    assert path.read_bytes() == before
    assert [each.name for each in snapshot.iterdir()] == [path.name]
    with pytest.raises(aicontent.DatabaseUnavailableError, match="there is no SQLite database"):
        aicontent.connect(f"sqlite:///{tmp_path}/none.db?mode=ro")
    assert not (tmp_path / "none.db").exists()
    for options in ("mode=rw", "mode=ro&mode=ro", "mode=", "compress_over=1&more=1"):
        with pytest.raises(aicontent.DatabaseURLError, match="takes two options"):
            aicontent.connect(f"sqlite:///{path}?{options}")


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_hot_standby(fill, url, database, standby):
    fill(3)
    fill(1, expires_at=datetime.now(UTC) - timedelta(hours=1))
    host = parse_qs(urlsplit(standby).query)["host"][0]
    parts = urlsplit(url)
    replica_url = parts._replace(query=f"host={host}").geturl()
    maintenance = aicontent.connect(urlsplit(standby)._replace(scheme=parts.scheme).geturl())
    replayed(database, maintenance)
    maintenance.close()
    looks(replica_url, 4)
    replica = aicontent.connect(replica_url)
    Content = aicontent.for_database(replica)  # noqa: N806
    user = Content.get().user_id
    found = Content.first_reusable(user, "lesson")
    assert found is not None
    assert list(Content.find_by_user_and_type(user, "lesson")) != []
    for call in (found.mark_accessed, Content.cleanup, lambda: Content.reuse(user, "lesson")):
        with pytest.raises(peewee.PeeweeException, match="read-only transaction|recovery"):
            call()
    for command in (["cleanup"], ["rollback", "--yes"]):
        status, _, err = run_here(*command, "--database", replica_url)
        assert (status, "primary" in err) == (1, True), err
    replica.close()
