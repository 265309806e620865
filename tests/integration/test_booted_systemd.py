"""Boot systemd in a separate Debian, and run the units as the docs say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_packaging import LEFT_OUT, build

from helpers import PYTHON, ROOT

PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv"

SCRIPT = """
set -eu
unit=/opt/aicontent/bin/aicontent
as_lessons() { runuser -u lessons -- env -C /opt/lessons /opt/aicontent/bin/python "$@"; }
useradd lessons
install -d -o lessons -m 700 /var/lib/lessons
sqlite="--sqlite /var/lib/lessons/content.db --user lessons"
$unit systemd-unit cleanup $sqlite > /etc/systemd/system/aicontent-cleanup.service
$unit systemd-unit cleanup --timer > /etc/systemd/system/aicontent-cleanup.timer
$unit systemd-unit worker $sqlite > /etc/systemd/system/aicontent-worker.service
install -d /etc/aicontent
install -m 600 /dev/null /etc/aicontent/worker-environment
mkdir /etc/systemd/system/aicontent-{cleanup.timer,worker.service}.d
printf '[Timer]\\nOnCalendar=\\nOnCalendar=*:*:*\\nRandomizedDelaySec=0\\n' \
    > /etc/systemd/system/aicontent-cleanup.timer.d/now.conf
printf '[Service]\\nWorkingDirectory=/opt/lessons\\nExecStart=\\nExecStart=%s\\n' \
    "$unit work lessons:generate" > /etc/systemd/system/aicontent-worker.service.d/function.conf
systemctl daemon-reload
as_lessons lessons.py prepare
systemctl start aicontent-cleanup.timer
as_lessons lessons.py wait_for_the_cleanup
systemctl stop aicontent-cleanup.timer
journalctl --no-pager -o cat -u aicontent-cleanup.service
systemctl start aicontent-worker.service
as_lessons lessons.py wait_for_the_worker
systemctl stop --no-block aicontent-worker.service
until [ "$(systemctl show -P ActiveState aicontent-worker)" = deactivating ]; do :; done
touch /var/lib/lessons/go
until [ "$(systemctl show -P ActiveState aicontent-worker)" = inactive ]; do :; done
systemctl show -P Result aicontent-worker.service
journalctl --no-pager -o cat -u aicontent-worker.service
as_lessons lessons.py report
$unit check -d sqlite:////var/lib/lessons/content.db
echo all was run
"""

LESSONS = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aicontent
from aicontent import AIGeneratedContent, User

STARTED, GO = Path("/var/lib/lessons/started"), Path("/var/lib/lessons/go")


def generate(content):
    STARTED.touch()
    while not GO.exists():
        pass
    return {"title": content.request_payload["topic"]}


def prepare():
    aicontent.migrate(database, create_users=True)
    user = User.create()
    now = datetime.now(UTC)
    row = {"user": user, "type": "lesson", "status": "completed", "request_payload": {}}
    AIGeneratedContent.create_many([row | {"expires_at": now - timedelta(hours=1)}] * 3 + [row])
    AIGeneratedContent.request(user, "lesson", {"topic": "tea"})
    AIGeneratedContent.request(user, "lesson", {"topic": "coffee"})


def wait_for_the_cleanup():
    while AIGeneratedContent.select().count() > 3:
        pass


def wait_for_the_worker():
    while not STARTED.exists():
        pass


def report():
    for content in AIGeneratedContent.select().order_by(AIGeneratedContent.created_at):
        print("row", content.status, content.generated_data)


if __name__ == "__main__":
    database = aicontent.connect("sqlite:////var/lib/lessons/content.db")
    aicontent.bind(database)
    globals()[sys.argv[1]]()
"""


@pytest.fixture
def root(tmp_path):
    """Return the root folder of a Debian with the package in /opt/aicontent."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to boot a systemd")
    if not os.environ.get("AICONTENT_LONG_TESTS"):
        pytest.skip("takes a minute: set AICONTENT_LONG_TESTS=1")
    if not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap")
    targets = ("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Identifier: Packages")
    site, release = subprocess.run(targets, capture_output=True, text=True).stdout.split()[:2]
    root = tmp_path / "root"
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, root, site)
    run("chroot", root, "python3", "-m", "venv", "--without-pip", "/opt/aicontent")
    (packages,) = (root / "opt/aicontent/lib").glob("python3.*/site-packages")
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=LEFT_OUT)
    (tmp_path / "wheel").mkdir()
    wheel = build("wheel", checkout, tmp_path / "wheel")
    version = packages.parent.name.removeprefix("python")
    pip = ("-m", "pip", "install", "--quiet", "--only-binary=:all:", "--python-version", version)
    run(*PYTHON, *pip, "--target", packages, wheel)
    program = root / "opt/aicontent/bin/aicontent"
    program.write_text(
        "#!/opt/aicontent/bin/python\nfrom aicontent.scripts.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    return root


def run(*command):
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, (ran.stdout, ran.stderr)


def test_the_units_run(root):
    (root / "opt/lessons").mkdir()
    (root / "opt/lessons/lessons.py").write_text(LESSONS)
    (root / "root/script").write_text(SCRIPT)
    boot = ["bash", Path(__file__).with_name("boot.sh"), root]
    try:
        console = subprocess.run(boot, capture_output=True, text=True, timeout=120).stdout
    except subprocess.TimeoutExpired as error:
        console = str(error.stdout)
    output = root / "root/output"
    assert output.exists(), console
    said = output.read_text()
    print(said, file=sys.stderr)
    assert "all was run" in said.splitlines()
    assert "deleted 3 expired, 0 failed" in said
    assert "completed 1, failed 0, retried 0, released 0" in said
    assert "\nsuccess\n" in said
    assert "row completed {'title': 'tea'}\nrow pending None" in said
    assert "\nok\n" in said
