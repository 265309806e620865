"""With the settings of the docs, a host's migration tools leave this package's tables alone."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import peewee
import pytest
from peewee_migrate import Router
from playhouse.db_url import connect
from playhouse.migrations import Runner, template
from playhouse.schema_diff import diff_models
from psycopg2.extensions import parse_dsn

import aicontent
from aicontent.schema.history import applied, available
from helpers import ROOT, plain, run_python, run_script

PAGE = (ROOT / "docs/guides/host-migrations.md").read_text("utf-8")


def section(title: str) -> dict[str, str]:
    """Return the code blocks of a section of the page, by the file names in their first lines."""
    text = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert text is not None
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```", text[1], re.M | re.S)
    return dict(blocks)


def assert_untouched(database: peewee.Database) -> None:
    """Check the schema, the migration history, and the content of the fixture."""
    assert aicontent.check(database) == []
    assert applied(database) == available()
    assert aicontent.for_database(database).select().count() == 1


ALEMBIC = """
import shutil
import sys
from pathlib import Path

import alembic.command
from alembic.config import Config

sys.path.insert(0, ".")
url = sys.argv[1]
config = Config()
config.set_main_option("sqlalchemy.url", url)
config.set_main_option("script_location", "migrations")
templates = Path(alembic.__file__).parent / "templates/generic"
Path("migrations/versions").mkdir(parents=True)
shutil.copy(templates / "script.py.mako", "migrations")
env = Path("migrations/env.py")

def operations(name, text):
    env.write_text(text, "utf-8")
    script = alembic.command.revision(config, name, autogenerate=True)
    code = Path(script.path).read_text("utf-8")
    return [line.strip() for line in code.splitlines() if line.startswith("    op.")]

ours = Path("env.py").read_text("utf-8")
first = operations("courses", ours)
assert len(first) == 2, first
assert "create_table('courses'" in first[0] and "drop_table('courses'" in first[1], first
alembic.command.upgrade(config, "head")
assert operations("nothing", ours) == []
alembic.command.upgrade(config, "head")
alembic.command.downgrade(config, "base")
alembic.command.upgrade(config, "head")

# Without the settings, it would drop the tables.
bare = ours.replace("include_name=include_name,", "").replace("include_object=include_object,", "")
bare = bare.replace("render_as_batch=True", "render_as_batch=False")
assert len(bare) < len(ours)
dropped = str(operations("bare", bare))
assert "drop_table('aicontent_migratehistory')" in dropped, dropped
assert "drop_table('users')" in dropped and "drop_index" in dropped, dropped
print("left alone")
"""

ALEMBIC_MODELS = """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

class Base(DeclarativeBase):
    pass

content = sa.Table(
    "ai_generated_content", Base.metadata, sa.Column("id", sa.String(36), primary_key=True)
)

class Course(Base):
    __tablename__ = "courses"
    id = sa.Column(sa.Integer, primary_key=True)
    lesson = sa.Column(sa.ForeignKey(content.c.id))
"""


def test_alembic(tmp_path, url, database, store, kind):
    store()
    env = section("Alembic")["env.py"]
    assert env.count('"aicontent_migratehistory"}') == 1
    # This package owns the users table of the fixture.
    env = env.replace('"aicontent_migratehistory"}', '"aicontent_migratehistory", "users"}')
    (tmp_path / "env.py").write_text(env, "utf-8")
    models = ALEMBIC_MODELS
    if kind == "postgresql-partitioned":  # a partitioned table's key has two columns
        models = models.replace("sa.ForeignKey(content.c.id)", "sa.String(36)")
    (tmp_path / "models.py").write_text(models, "utf-8")
    database.close()
    # Since 2.1, SQLAlchemy's default driver for PostgreSQL is psycopg 3.
    named = plain(url).replace("postgresql://", "postgresql+psycopg2://")
    assert run_script(ALEMBIC, tmp_path, named).splitlines()[-1] == "left alone"
    assert "lesson" in {column.name for column in database.get_columns("courses")}
    assert_untouched(database)


PEEWEE_MODELS = """
import peewee
from aicontent import AIGeneratedContent, User

class Course(peewee.Model):
    title = peewee.TextField()
    lesson = peewee.CharField(max_length=36, null=True)
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Return a function that writes a module of the host's models, and returns its name."""

    def make(text: str) -> str:
        name = f"host_models_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "path", list(sys.path))  # the tool appends to sys.path
        return name

    return make


@pytest.mark.plain  # the host's table cannot reference a key of two columns
def test_peewee_migrate(tmp_path, database, store, models):
    content = store()
    scope: dict[str, object] = {}
    exec(section("peewee-migrate")["migrations/conf.py"], scope)
    (tmp_path / "migrations").mkdir()

    def router() -> Router:
        return Router(database, tmp_path / "migrations", ignore=scope["IGNORE"])

    name = router().create("courses", auto=models(PEEWEE_MODELS))
    path = tmp_path / "migrations" / f"{name}.py"
    text = path.read_text("utf-8")
    assert re.findall(r"class (\w+)\(", text) == ["Course"]
    by_hand = re.search(r"constraints=\[pw\.SQL\(.*?\)\]", PAGE)
    assert by_hand is not None
    column = "lesson = pw.CharField(max_length=36, null=True"
    assert column in text
    path.write_text(text.replace(column, f"{column}, {by_hand[0]}"), "utf-8")
    assert router().run() == [name]
    assert [key.dest_table for key in database.get_foreign_keys("course")] == [
        "ai_generated_content"
    ]
    assert router().create("nothing", auto=models(PEEWEE_MODELS)) is None
    router().rollback()
    assert not database.table_exists("course")
    assert_untouched(database)
    assert content == type(content).get()


def test_peewee_migrate_without_the_setting_writes_python(tmp_path, database, models):
    (tmp_path / "migrations").mkdir()
    router = Router(database, tmp_path / "migrations")
    name = router.create("all", auto=models(PEEWEE_MODELS))
    text = (tmp_path / "migrations" / f"{name}.py").read_text("utf-8")
    ast.parse(text)
    assert "status = pw.TextField(default='pending')" in text
    assert "id = pw.CharField(max_length=36, primary_key=True)" in text  # the tool omits new_id()
    assert "remove_model('ai_generated_content')" in text
    with pytest.raises(TypeError, match="FieldDatabaseHook"):  # before any change
        router.run()
    assert aicontent.check(database) == []


def test_defaults_are_written_as_plain_values(empty):
    code = template(diff_models(empty, [aicontent.AIGeneratedContent]))
    ast.parse(code)
    assert "status = EnumField(default='pending')" in code
    assert "# TODO: id: default <function new_id" in code  # only a comment
    assert aicontent.AIGeneratedContent().status is aicontent.ContentStatus.PENDING


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_rebuild_of_users_without_foreign_keys_enforced(tmp_path, url, empty_url):
    scope: dict[str, object] = {}
    exec(section("peewee-migrate")["migrations/conf.py"], scope)
    assert str(scope["DATABASE"]).startswith("sqlite:///")
    database = aicontent.connect(empty_url)
    database.execute_sql("CREATE TABLE users (id INTEGER PRIMARY KEY, age INTEGER NOT NULL)")
    aicontent.migrate(database)
    database.execute_sql("INSERT INTO users (id, age) VALUES (1, 7)")
    aicontent.for_database(database).create(user=1, type="lesson", request_payload={})
    database.close()
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations/001_age.py").write_text(
        "import peewee\n"
        "def migrate(migrator, database, fake=False):\n"
        "    class User(peewee.Model):\n"
        "        age = peewee.IntegerField()\n"
        "        class Meta:\n"
        "            table_name = 'users'\n"
        "    migrator.orm.add(User)\n"
        "    migrator.drop_not_null('users', 'age')\n",
        "utf-8",
    )
    tool = connect(empty_url)
    assert Router(tool, tmp_path / "migrations").run() == ["001_age"]
    tool.close()
    assert next(c for c in database.get_columns("users") if c.name == "age").null
    assert_untouched(database)


def test_peewees_own_tools(tmp_path, database, store, models, kind):
    store()
    name = models(section("Peewee's own tools")["models.py"])
    module = __import__(name)
    diff = diff_models(database, module.MIGRATED)
    assert [model.__name__ for model in diff.create_tables] == ["Course"]
    assert not any(diff[1:])
    runner = Runner(database, str(tmp_path / "migrations"))
    runner.create("courses", template(diff))
    assert runner.up() == ["0001_courses"]
    assert not diff_models(database, module.MIGRATED)
    # The model declares no index, so the diff drops each one that Peewee sees: none of a
    # partitioned table.
    indexes = 0 if kind == "postgresql-partitioned" else 14
    assert len(diff_models(database, [module.Content]).drop_indexes) == indexes
    assert_untouched(database)


def test_pwmigrate(tmp_path, url, database, store):
    store()
    (tmp_path / "models.py").write_text(section("Peewee's own tools")["models.py"], "utf-8")
    line = re.search(r"^    pwmigrate (.*)$", PAGE, re.M)
    assert line is not None
    arguments = line[1].replace("sqlite:///host.db", plain(url)).split()
    code = "import sys\nfrom playhouse.migrations import main\nsys.exit(main())"
    ran = run_python(code, *arguments, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (path,) = Path(tmp_path, "migrations").glob("*.py")
    text = path.read_text("utf-8")
    assert re.findall(r"class (\w+)\(", text) == ["Course"]
    assert "drop" not in text.partition("def down")[0]
    assert_untouched(database)


DJANGO_SETTINGS = """
import sys
from datetime import UTC, datetime
import django
from django.conf import settings
from django.core.management import call_command

sys.path.insert(0, ".")
settings.configure(
    DATABASES={"default": DATABASE},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "host"],
    AUTH_USER_MODEL="host.User",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()
"""

DJANGO = """
from pathlib import Path
import aicontent

call_command("makemigrations", "host", verbosity=0)
call_command("migrate", verbosity=0)
db = aicontent.connect(sys.argv[1])
aicontent.migrate(db)
Ours = aicontent.for_database(db)

from host.models import Content, User

ada = User.objects.create(username="ada")
request, answer = {"topic": "café"}, {"title": "En la cafetería"}
stored = Ours.create(
    user=ada.id,
    type="lesson",
    level="A2",
    status="completed",
    request_payload=request,
    generated_data=answer,
    expires_at=datetime(2030, 1, 1, tzinfo=UTC),
)
stored = Ours.get_by_id(stored.id)
read = ada.contents.get(generated_data__title="En la cafetería")
assert (read.id, read.user, read.type, read.status) == (stored.id, ada, "lesson", "completed")
assert (read.request_payload, read.generated_data, read.level) == (request, answer, "A2")
assert (read.expires_at, read.created_at) == (stored.expires_at, stored.created_at)

# Django sees no change to make, and a rebuild of users keeps the content.
call_command("makemigrations", "host", check_changes=True, dry_run=True, verbosity=0)
Path("host/migrations/0002_longer.py").write_text(LONGER, "utf-8")
call_command("migrate", verbosity=0)
assert aicontent.check(db) == [], aicontent.check(db)
assert Content.objects.count() == Ours.select().count() == 1

ada.delete()
assert Ours.select().count() == 0
call_command("migrate", "host", "0001", verbosity=0)
assert aicontent.check(db) == [], aicontent.check(db)
print(*aicontent.migrate(db), "left alone")
"""

LONGER = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("host", "0001_initial")]
    operations = [
        migrations.AlterField("user", "first_name", models.CharField(max_length=200, null=True)),
    ]
"""


def django_database(url: str) -> dict[str, object]:
    """Return the Django settings for a database."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": path}
    parts = parse_dsn(plain(url))
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host"}
    named = {name: parts[part] for name, part in names.items() if part in parts}
    return {"ENGINE": "django.db.backends.postgresql", "PORT": parts.get("port", ""), **named}


def test_django(tmp_path, empty_url):
    app = tmp_path / "host"
    (app / "migrations").mkdir(parents=True)
    (app / "__init__.py").touch()
    (app / "migrations/__init__.py").touch()
    (app / "models.py").write_text(section("Django")["models.py"], "utf-8")
    constants = f"DATABASE = {django_database(empty_url)!r}\nLONGER = {LONGER!r}\n"
    out = run_script(constants + DJANGO_SETTINGS + DJANGO, tmp_path, empty_url)
    assert out == "left alone\n"
