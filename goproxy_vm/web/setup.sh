#!/bin/sh
# Points the go command of this user at the goproxy_vm host that was asked for this script:
#
#   curl -fsS http://HOST:8080/vm/setup.sh | sh
#   curl -fsS http://HOST:8080/vm/setup.sh | sh -s -- --help
#
# All is set by go env -w. A file beside the one that go env writes keeps what was there before, for --undo.

# From the server; empty for what it leaves alone.
proxy=''
sumdb=''
nosumdb=''
toolchain=''

usage() {
    cat <<'EOF'
usage: setup.sh [--print] [--cache DIR] [--toolchain VALUE] [--fallback URL] [--no-report]
       setup.sh --undo [--print]

  --print            print the commands that would run, and change nothing
  --undo             take back what earlier runs have set and nobody has changed since
  --cache DIR        where GOMODCACHE and GOCACHE go, in a directory for each Go version;
                     must be on a local disk (default: $XDG_CACHE_HOME/go-vm or ~/.cache/go-vm)
  --toolchain VALUE  GOTOOLCHAIN: local, auto, path or a version like go1.25.0
  --fallback URL     whom go asks where the host does not answer or has nothing: another proxy, or direct
  --no-report        do not tell the host which Go version this VM has
EOF
}

# What is said goes to stderr: stdout has the commands that run, and nothing else.
say() {
    printf 'goproxy-vm: %s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

misused() {
    say "$*"
    usage >&2
    exit 2
}

# The go command as other shells have it: without this one's variables, in no module, and never switching
# to another toolchain, which may know less or not be had. The forms named here do not switch.
plain_go() (
    cd /
    unset GOPROXY GOSUMDB GONOSUMDB GOMODCACHE GOCACHE
    case $* in
        'env GOTOOLCHAIN' | 'env -w GOTOOLCHAIN='*) unset GOTOOLCHAIN ;;
        *) export GOTOOLCHAIN=local ;;
    esac
    exec go "$@"
)

# What follows PREFIX in the last line of FILE that begins with it.
after() {
    if [ -f "$2" ]; then
        sed -n "s/^$1//p" "$2" | tail -n 1
    fi
}

# Whether a line of FILE begins with PREFIX: go env -w KEY= leaves an empty value, which is not the default.
has() {
    if [ -f "$2" ] && grep -q "^$1" "$2"; then
        echo yes
    fi
}

# Find out about KEY: now, as go env -w left it; ours, what an earlier run has set and is still so;
# before, what stood there without us, if had says that something did.
look() {
    now=$(after "$1=" "$goenv")
    recorded=$(after "$1 set " "$state")
    ours=
    before=$now
    had=$(has "$1=" "$goenv")
    if [ -n "$now" ] && [ "$now" = "$recorded" ]; then
        ours=$now
        before=$(after "$1 was " "$state")
        had=$(has "$1 was " "$state")
    fi
}

# Plan that KEY be VALUE, or for an empty VALUE what it was without us.
plan() {
    look "$1"
    if [ -z "$2" ]; then
        if [ -n "$ours" ] && [ -n "$had" ]; then
            steps="$steps-w $1=$before$newline"
        elif [ -n "$ours" ]; then
            steps="$steps-u $1$newline"
        elif [ -n "$recorded" ]; then
            say "$1 was changed since the last run, and stays as it is"
        fi
        return
    fi
    effective=$(plain_go env "$1")
    if [ -z "$effective" ] && ! plain_go env | grep "^$1=" >/dev/null; then
        say "$version does not know $1, so it is not set"
        plan "$1" ''
        return
    fi
    eval "here=\${$1-}"
    # shellcheck disable=SC2154 # set by eval
    if [ -n "$here" ] && [ "$here" != "$2" ]; then
        say "warning: the environment variable $1 overrides what is set here: unset it" \
            "(see ~/.profile, /etc/environment, a Dockerfile's ENV)"
    fi
    if [ "$effective" != "$2" ]; then
        steps="$steps-w $1=$2$newline"
        tell_change "$1" "$effective" "$2"
    elif [ -z "$ours" ]; then
        return # it is so without us
    fi
    record="$record$1 set $2$newline"
    if [ -n "$had" ]; then
        record="$record$1 was $before$newline"
    fi
}

# Say that KEY changes FROM one value TO another, where builds may come out otherwise than before.
tell_change() {
    if [ "$1" = GOSUMDB ]; then
        say "note: GOSUMDB changes from $2 to $3: go checks modules against that database, through this host"
    elif [ "$1" = GOTOOLCHAIN ] && [ "$3" = auto ]; then
        say "note: GOTOOLCHAIN changes from $2 to auto: where a go.mod needs a newer Go, go fetches it through" \
            "this host; --toolchain local prevents that"
    elif [ "$1" = GOTOOLCHAIN ] && [ "$3" = local ]; then
        say "note: GOTOOLCHAIN changes from $2 to local: where a go.mod needs a newer Go, the build fails;" \
            "this is the default where the host cannot prove toolchains"
    elif [ "$1" = GOTOOLCHAIN ]; then
        say "note: GOTOOLCHAIN changes from $2 to $3"
    fi
}

# The user's own patterns and those of the server.
exempt() {
    if [ -z "$nosumdb" ]; then
        return
    fi
    look GONOSUMDB
    patterns=${before:-$(plain_go env GOPRIVATE)}
    IFS=,
    for pattern in $nosumdb; do
        case ,$patterns, in
            *",$pattern,"*) ;;
            *) patterns=${patterns:+$patterns,}$pattern ;;
        esac
    done
    printf '%s' "$patterns"
}

plan_all() {
    version=$(plain_go version | sed -n 's/.*\(go[0-9][0-9A-Za-z.]*\).*/\1/p')
    version=${version:-devel}
    bootstrap=$version
    case $toolchain in
        go1*)
            # The caches of the version that will run, where this one knows how to switch to it.
            if plain_go env | grep '^GOTOOLCHAIN=' >/dev/null; then
                version=${toolchain%%+*}
            fi
            ;;
    esac
    if [ -z "$caches" ]; then
        case ${XDG_CACHE_HOME-} in
            /*) caches=$XDG_CACHE_HOME/go-vm ;;
            *) caches=$HOME/.cache/go-vm ;;
        esac
    fi
    look GOMODCACHE
    old=${before:-$(plain_go env GOPATH | sed 's/:.*//')/pkg/mod}
    plan GOPROXY "$proxy${fallback:+|$fallback}"
    plan GOSUMDB "$sumdb"
    plan GONOSUMDB "$(exempt)"
    plan GOMODCACHE "$caches/$version/mod"
    plan GOCACHE "$caches/$version/build"
    plan GOTOOLCHAIN "$toolchain"
    check_caches
    database=${GOSUMDB:-$(plain_go env GOSUMDB)}
    if [ -z "$sumdb" ] && [ "$database" != off ]; then
        say "note: this host mirrors no checksum database, so go asks $database directly;" \
            "if this VM cannot reach it, switch the check off: go env -w GOSUMDB=off"
    fi
    around=$(plain_go env GONOPROXY)
    if [ -n "$fallback" ]; then
        say "note: go asks $fallback for whatever this host refuses or does not have"
    fi
    if [ -n "$around" ] && [ "$around" != none ]; then # none: a pattern that matches nothing
        say "note: go fetches modules that match GONOPROXY or GOPRIVATE without this host: $around"
    fi
}

# A module cache that several machines write breaks on permissions, symlinks and locks.
check_caches() {
    directory=$caches
    while [ ! -d "$directory" ]; do
        directory=$(dirname "$directory")
    done
    numbers=' \{1,\}[0-9]\{1,\} \{1,\}[0-9]\{1,\} \{1,\}[0-9]\{1,\} \{1,\}[0-9-]\{1,\}%\{0,1\} '
    kind=$(df -PT "$directory" 2>/dev/null | sed -n "2s/^.* \([^ ]\{1,\}\)$numbers.*/\1/p")
    case $kind in
        9p | afs | ceph | cifs | drvfs | glusterfs | gpfs | lustre | nfs* | prl_fs | smb* | vboxsf | virtiofs | \
            vmhgfs | fuse.sshfs | fuse.vmhgfs-fuse | fuse.glusterfs | fuse.rclone | fuse.s3fs)
            say "warning: $caches is on a shared file system ($kind), where Go's caches break;" \
                "choose a local disk with --cache DIR"
            ;;
    esac
}

# A word as a shell reads it.
quoted() {
    case $1 in
        *[!A-Za-z0-9_=:/.,+@%-]*) printf '%s' "'$(printf '%s' "$1" | sed "s/'/'\\\\''/g")'" ;;
        *) printf '%s' "$1" ;;
    esac
}

# Ask the host for a module as go does, and nobody else. What was set stays, whatever comes of it.
try() {
    scratch=$(mktemp -d) || return 0
    started=$(date +%s)
    if answer=$(
        cd / # and in a cache of its own: what is in the other one is not asked for
        env GOPROXY="$proxy" GONOPROXY=none GOMODCACHE="$scratch" GOFLAGS=-modcacherw GO111MODULE=on \
            GOTOOLCHAIN=local go list -m "$sample" 2>&1
    ); then
        say "test: $sample came through the host in $(($(date +%s) - started)) s"
    else
        say "test: $sample did not come through the host; the settings stay as they are now. go says:"
        printf '%s\n' "$answer" | sed 's/^/  /' >&2
        say "try curl -fsS $proxy/readyz here, and goproxy-vm doctor on the host;" \
            "a host that is offline serves only what it has stored"
    fi
    rm -rf "$scratch"
}

# Tell the host what this VM has, for whoever runs it to see which are behind; whether it listens does not matter.
report() {
    eval "here=\${GOTOOLCHAIN-}" # in the environment it overrides what was set, where this go knows it
    if [ -n "$here" ] && plain_go env | grep '^GOTOOLCHAIN=' >/dev/null; then
        case $here in
            go1*) version=${here%%+*} ;;
            *) version=$bootstrap ;;
        esac
    fi
    query="script=setup&go=$version&bootstrap=$bootstrap&os=$(plain_go env GOOS)&arch=$(plain_go env GOARCH)"
    if command -v curl >/dev/null; then
        curl -fs -m 1 -o /dev/null "$proxy/vm/seen?$query" || :
    elif command -v wget >/dev/null && command -v timeout >/dev/null; then # busybox's own -T may crash it
        timeout 1 wget -q -O /dev/null "$proxy/vm/seen?$query" 2>/dev/null || :
    fi
}

# Name a directory that nothing uses any more, its size, and how to remove it: its files are read-only.
left_behind() {
    if [ -d "$1" ]; then
        size=$(du -sh "$1" 2>/dev/null | sed 's/[[:space:]].*//')
        say "$1 (${size:-?}) is not used any more; to remove it:" \
            "chmod -R u+w $(quoted "$1") && rm -r $(quoted "$1")"
    fi
}

# Print and, unless it is to be printed only, run each step.
act() {
    if [ -z "$print" ] && [ -n "$record" ] && [ "$record" != "$(cat "$state" 2>/dev/null)$newline" ]; then
        mkdir -p "$(dirname "$state")"
        printf '%s' "$record" >"$state.new"
        mv -f "$state.new" "$state" # before anything changes
    fi
    while IFS= read -r step; do
        if [ -z "$step" ]; then
            continue
        fi
        option=${step%% *}
        argument=${step#* } # to its last blank
        printf 'go env %s %s\n' "$option" "$(quoted "$argument")"
        if [ -z "$print" ]; then
            plain_go env "$option" "$argument"
        fi
    done <<EOF
$steps
EOF
    if [ -z "$print" ] && [ -z "$record" ]; then
        rm -f "$state"
    fi
    if [ -z "$steps" ]; then
        say "nothing to do: $goenv stays as it is"
    elif [ -n "$print" ]; then
        say "nothing was changed in $goenv"
    else
        say "done, in $goenv"
    fi
}

main() {
    set -euf
    newline='
'
    print='' undo='' quiet='' caches='' fallback='' sample=golang.org/x/text@v0.3.0 steps='' record=''
    while [ $# -gt 0 ]; do
        case $1 in
            --print) print=yes ;;
            --undo) undo=yes ;;
            --no-report) quiet=yes ;;
            --cache)
                case ${2-} in
                    *"$newline"*) misused "--cache: one line is needed" ;;
                    /*) caches=$2 ;;
                    *) misused "--cache: an absolute path is needed" ;;
                esac
                shift
                ;;
            --toolchain)
                case ${2-} in
                    *[!0-9a-z.+]*) misused "--toolchain: $2 is no GOTOOLCHAIN" ;;
                    local | auto | path | go1*) toolchain=$2 ;;
                    *) misused "--toolchain: local, auto, path or a version is needed" ;;
                esac
                shift
                ;;
            --fallback)
                case ${2-} in
                    *[!A-Za-z0-9_:/.,@%~\|-]*) misused "--fallback: $2 is no URL of a proxy" ;;
                    http://?* | https://?* | direct) fallback=$2 ;;
                    *) misused "--fallback: the URL of a proxy, or direct is needed" ;;
                esac
                shift
                ;;
            -h | --help)
                usage
                exit
                ;;
            *) misused "unknown option $1" ;;
        esac
        shift
    done
    if [ -z "$proxy" ]; then
        fail "this copy names no host: get it from a server, at /vm/setup.sh"
    fi
    if ! command -v go >/dev/null; then
        fail "there is no go command on PATH: install Go, or add its bin directory (often /usr/local/go/bin) to PATH"
    fi
    if [ -z "${HOME-}" ]; then
        fail "HOME is not set: run this as the user who builds, in a login shell"
    fi
    goenv=$(plain_go env GOENV)
    case $goenv in
        '' | off) fail "go env -w is switched off (GOENV=off): unset GOENV" ;;
    esac
    state=$goenv.goproxy-vm
    if [ -n "$undo" ]; then
        look GOMODCACHE
        old=${ours%/mod} # the build cache is beside it
        for key in GOPROXY GOSUMDB GONOSUMDB GOMODCACHE GOCACHE GOTOOLCHAIN; do
            plan "$key" ''
        done
    else
        plan_all
    fi
    act
    if [ -n "$print" ]; then
        return
    fi
    if [ -z "$undo" ]; then
        try
        if [ -z "$quiet" ]; then
            report
        fi
    fi
    # GOMODCACHE: the environment may have the old one in use
    if [ -n "$old" ] && [ -z "${GOMODCACHE-}" ] && [ "$old" != "$(plain_go env GOMODCACHE)" ]; then
        left_behind "$old"
    fi
}

# In braces, so that a download that was cut off runs nothing.
{ main "$@"; exit; }
