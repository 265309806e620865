#!/bin/bash
# Boots the systemd of a Debian root folder in namespaces of its own, and runs a script there.
# usage: boot.sh ROOT      it runs ROOT/root/script, whose output goes to ROOT/root/output
set -eu
root=$1
cat > "$root/etc/systemd/system/script.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=append:/root/output
StandardError=inherit
ExecStart=/bin/bash -x /root/script
ExecStopPost=/bin/systemctl poweroff --force --force
UNIT
wants="$root/etc/systemd/system/multi-user.target.wants"
mkdir -p "$wants" "$root/old"
ln -sf ../script.service "$wants/script.service"
export root
exec unshare --mount --pid --fork --ipc --uts --cgroup bash -ec '
    mount --make-rprivate /
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 none "$root/sys/fs/cgroup"
    mount -t tmpfs tmpfs "$root/run"
    mount -t devtmpfs devtmpfs "$root/dev"
    cd "$root"
    pivot_root . old  # a chroot would keep PrivateUsers= from working
    export container=namespace
    exec /bin/bash -c "umount -l /old; exec /lib/systemd/systemd --system --log-target=console"
'
