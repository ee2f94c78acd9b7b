#!/usr/bin/env bash
# Makes or mends .venv: the packages of requirements/runtime.txt, and mmcoke itself, editable.
#
#   bash tools/setup_env.sh [tests]      tests: the packages of requirements/tests.txt too
#
# PYTHON names the interpreter to build on, MMCOKE_DISK_MB the free space to insist on.
# quickstart.sh and run_tests.sh source this file and go on with $root and $python.
set -euo pipefail
shopt -s extglob lastpipe

# What would lead pip or Python out of .venv.
unset CDPATH PYTHONHOME PYTHONPATH PIP_PREFIX PIP_TARGET PIP_USER VIRTUAL_ENV

uv_version=0.13.8
disk_mb=${MMCOKE_DISK_MB:-6500} # .venv takes 5.8 GB, nearly all of it torch and CUDA

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
stamp=$venv/.mmcoke-stamp
unfinished=$venv/.mmcoke-unfinished

locks=(requirements/runtime.txt)
case ${1:-} in
    tests) locks+=(requirements/tests.txt) ;;
    ?*) printf 'usage: bash tools/setup_env.sh [tests]\n' >&2 && exit 2 ;;
esac

say() { printf 'mmcoke: %s\n' "$*" >&2; }
die() { say "$*" && exit 1; }

python_version() {
    "$1" -c 'import sys; assert (3, 10) <= sys.version_info < (3, 15); print(sys.version)' 2>/dev/null
}

# What .venv is made of; with tests.txt the text is longer, so one that has it serves both.
fingerprint() {
    python_version "$python" && printf '%s\n' "$root" &&
        (cd "$root" && sha256sum setup.py tools/setup_env.sh "${locks[@]}")
}

usable() {
    [[ ! -e $unfinished ]] && python_version "$python" >/dev/null &&
        [[ -z ${PYTHON:-} || $(python_version "$PYTHON") == "$(python_version "$python")" ]]
}

up_to_date() { usable && [[ -e $stamp && $(<"$stamp") == "$(fingerprint)"* ]]; }

# Candidates are run, not looked up: a pyenv shim is on PATH even if no Python is behind it.
find_python() {
    local candidate candidates=(python3 python3.{13..10} python) without_venv=
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        python_version "$candidate" >/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            # Of an active environment, the Python below it: .venv must not depend on the other.
            "$candidate" -c 'import sys; print(sys._base_executable)'
            return
        fi
        without_venv=$candidate
    done
    [[ -z $without_venv ]] || die "$without_venv cannot make virtual environments: install its venv" \
        "module (Debian, Ubuntu: apt-get install python3-venv), or set PYTHON to another Python."
    die "no Python 3.10 to 3.14 among: ${candidates[*]}. Install one, or set PYTHON to its path."
}

# uv unpacks into its cache and links from there, so both places need the room.
check_disk() {
    local folder free installed=0
    if [[ -d $venv ]]; then read -r installed _ < <(du -sm "$venv/"); fi
    for folder in "$venv" "${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-$root}/.cache}}"; do
        until [[ -d $folder ]]; do folder=$(dirname "$folder"); done
        { read -r _ && read -r _ _ _ free _; } < <(df -Pm "$folder")
        ((free + installed >= disk_mb)) || die "too little disk space: $folder has $free MB free, and" \
            "$((disk_mb - installed)) MB are needed. Free some, or, if uv has the packages in its" \
            "cache, run again with MMCOKE_DISK_MB=0."
    done
}

# Runs pip or uv, without the addresses in their messages, and ends with the remedy if they fail.
install() {
    local line remedy="see the messages above; to begin anew, remove .venv and run this again."
    (cd "$root" && "$@") 2>&1 | while IFS= read -r line; do
        case $line in
            *'No space left'*) remedy="the disk is full: free some space and run this again." ;;
            *[Cc]onnect* | *[Nn]etwork* | *'dns error'* | *'timed out'* | *certificate*)
                remedy="the package index could not be reached. Check the network and the proxy, then"
                remedy+=" run this again: it continues with what it has." ;;
        esac
        line=${line//+([a-z])':'\/\/+([^ ])/(address)}
        [[ $line == ' + '* ]] || printf '  %s\n' "${line//host=+([^ ,)])/(address)}" >&2
    done || die "installation failed: $remedy"
}

set_up() {
    local base mirror
    say "setting up $venv from ${locks[*]}"
    check_disk
    if ! usable || ! "$python" -m pip --version &>/dev/null; then
        base=$(find_python)
        say "making it anew with $base: about 3 GB to download, unless in uv's cache, and 6 GB on disk"
        install "$base" -m venv --clear --without-pip "$venv"
        : >"$unfinished"
        install "$python" -m ensurepip
    fi
    rm -f "$stamp"
    : >"$unfinished"

    say "installing uv $uv_version, then the packages"
    install "$python" -m pip install -q --disable-pip-version-check --retries 2 "uv==$uv_version"
    # uv does not read pip's settings, where many users name a mirror.
    mirror=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
    if [[ -n $mirror ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$mirror}; fi
    local pip=("$venv/bin/uv" pip install --python "$python" --no-deps)
    install "${pip[@]}" "${locks[@]/#/--requirement=}"
    install "${pip[@]}" --no-build-isolation --editable .
    # Else, where PYTHONDONTWRITEBYTECODE is set, as in many containers, each start of Python does
    # it anew. Not everything in there can be compiled: packages carry templates, for instance.
    say "compiling the packages"
    "$python" -m compileall -q -j 0 "$venv/lib" &>/dev/null || true

    fingerprint >"$unfinished"
    mv "$unfinished" "$stamp"
    say "done"
}

up_to_date || set_up
