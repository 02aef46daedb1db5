# shellcheck shell=bash
# Runs a private PostgreSQL on a free port of this machine. Other scripts source this file after tools.sh and call
# ensure_python and ensure_postgres first.
# shellcheck disable=SC2154

free_port() {
    "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start_postgres DIRECTORY [OPTION...]: a new server in DIRECTORY, with these options of its own. Its URL is in
# $postgres_url. As root it runs under another account, which must be able to enter the parent directories.
start_postgres() {
    local directory=$1 port
    shift
    port=$(free_port)
    mkdir "$directory"
    if [ "$(id -u)" = 0 ]; then chown "$(postgres_account)" "$directory"; fi
    as_postgres "$postgres_bin/initdb" -D "$directory" -U hookgate -A trust -E UTF8 --no-sync >/dev/null
    as_postgres "$postgres_bin/pg_ctl" -D "$directory" -w -l "$directory/log" \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= $*" start >/dev/null
    # shellcheck disable=SC2034
    postgres_url="postgres://hookgate@127.0.0.1:$port/postgres"
}

# stop_postgres DIRECTORY: stops its server, if there is one, and removes it.
stop_postgres() {
    if [ -d "$1" ]; then
        as_postgres "$postgres_bin/pg_ctl" -D "$1" -m immediate stop >/dev/null 2>&1 || true
        rm -rf "$1"
    fi
}

# work_directory NAME [PARENT]: a new directory of this process, printed; what processes that were killed have left
# is stopped and removed.
work_directory() {
    local parent=${2:-${TMPDIR:-/tmp}} left process
    for left in "$parent/hookgate-$1."*; do
        process=${left#"$parent/hookgate-$1."}
        process=${process%%.*}
        case $process in '' | *[!0-9]*) continue ;; esac
        if kill -0 "$process" 2>/dev/null; then continue; fi
        if [ -n "${postgres_bin:-}" ]; then stop_postgres "$left/pg"; fi
        rm -rf "$left"
    done
    mktemp -d "$parent/hookgate-$1.$$.XXXXXX"
}
