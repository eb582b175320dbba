#!/usr/bin/env bash
# Runs a command as a pod would: first process of its own PID namespace, read-only root with only /tmp writable,
# working folder /app, another user than root, no capabilities, no way to gain any. Only the network is the machine's.
#
#   unshare --mount --pid --fork --kill-child tests/support/pod.sh APP WRITABLE PYTHON_PREFIX PYTHON_BASE NAME=value … COMMAND
set -euo pipefail

app=$1 writable=$2 prefix=$3 base=$4
shift 4
root=$(mktemp -d "$writable/root.XXXX")
mount --make-rprivate / # nothing of this is seen outside
mount -t tmpfs -o mode=755 none "$root"

# Lays a folder of this machine into the pod.
lay() {
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mount -o "remount,bind,nosuid,$3" "$root$2"
}
for folder in bin lib lib64 sbin; do
    if [[ -L /$folder ]]; then cp -P "/$folder" "$root"; elif [[ -d /$folder ]]; then lay "/$folder" "/$folder" ro; fi
done
for folder in /usr /etc /sys "$base" "$prefix"; do lay "$folder" "$folder" ro; done
lay /dev /dev rw
lay "$app" /app ro
install -d -m 1777 "$writable/tmp"
lay "$writable/tmp" /tmp rw
mkdir "$root/proc"
mount -t proc proc "$root/proc"
mount -o remount,ro "$root"

exec chroot "$root" /usr/bin/env -i /usr/bin/setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs --bounding-set=-all \
    env --chdir=/app PATH=/usr/bin:/bin PYTHON="$prefix/bin/python" TEMP=/tmp LOG_CONFIG=/app/log4j2.xml "$@"
