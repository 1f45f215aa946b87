#!/bin/sh
# Installs Go from the goproxy_vm host that was asked for this script, then points it at that host by setup.sh:
#
#   curl -fsS http://HOST:8080/vm/install.sh | sh
#   wget -qO- http://HOST:8080/vm/install.sh | sh -s -- --help
#
# What is installed is the toolchain that go itself would fetch through the host, in which every file is the one
# that the checksum database has. It is hashed here before it is used.

# From the server; empty for what it leaves alone.
proxy=''
vm_go=''

most=1073741824 # bytes that an archive may unpack to: four times what Go has

usage() {
    cat <<'EOF'
usage: install.sh [--version VERSION] [--h1 HASH] [--dir DIR] [--no-setup] [--no-report] [--print]
       install.sh --uninstall [--dir DIR] [--no-setup] [--print]

  --version VERSION  which Go, as 1.26.8 (default: the host's, else the newest release that it can prove)
  --h1 HASH          what the checksum database says of it, from a place that you trust:
                     https://sum.golang.org/lookup/golang.org/toolchain@v0.0.1-goVERSION.OS-ARCH
                     setup.sh, which nothing proves, is not run then
  --dir DIR          where to, in place of /usr/local/lib/goproxy-vm (root) or ~/.local/share/goproxy-vm (others);
                     nothing is done to PATH then
  --no-setup         do not run the host's setup.sh
  --no-report        do not tell the host what was installed, nor have setup.sh do it
  --print            print the commands that would run, and change nothing
  --uninstall        remove what was installed, after setup.sh --undo
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

# A word as a shell reads it.
quoted() {
    case $1 in
        *[!A-Za-z0-9_=:/.,+@%-]*) printf '%s' "'$(printf '%s' "$1" | sed "s/'/'\\\\''/g")'" ;;
        *) printf '%s' "$1" ;;
    esac
}

# Print a command and, unless it is to be printed only, run it.
step() {
    line=
    for word in "$@"; do
        line="$line${line:+ }$(quoted "$word")"
    done
    printf '%s\n' "$line"
    if [ -z "$print" ]; then
        "$@"
    fi
}

# What is at URL, to stdout.
get() {
    if command -v curl >/dev/null; then
        curl -fsS "$1"
    else
        wget -qO- "$1"
    fi
}

# The same for a text; where the host refuses, curl shows what it says. For curl, more options after URL.
ask() {
    if ! command -v curl >/dev/null; then
        wget -qO- "$1"
        return
    fi
    answer=$(curl -sS -w '\n%{http_code}' "$@") || return 1
    text=${answer%"$newline"*}
    text=${text%"$newline"}
    case ${answer##*"$newline"} in
        200 | 206) ;;
        *)
            printf '%s\n' "$text" >&2
            return 1
            ;;
    esac
    printf '%s\n' "$text"
}

# Where everything goes.
places() {
    profile=
    if [ -n "$base" ]; then
        link=$base/go
    elif [ "$(id -u)" -eq 0 ]; then
        base=/usr/local/lib/goproxy-vm
        link=/usr/local/go
        if [ -d /etc/profile.d ]; then
            profile=/etc/profile.d/goproxy-vm.sh
        fi
    else
        if [ -z "${HOME-}" ]; then
            fail "HOME is not set: run this as the user who builds, in a login shell, or name a place with --dir"
        fi
        case ${XDG_DATA_HOME-} in
            /*) base=$XDG_DATA_HOME/goproxy-vm ;;
            *) base=$HOME/.local/share/goproxy-vm ;;
        esac
        link=$base/go
        profile=$HOME/.profile
    fi
    record=$base/goproxy-vm.installed # a line for each version: its name, platform and h1
    mark='# goproxy-vm install.sh'
    path_line="export PATH=$(quoted "$link/bin"):\"\$PATH\" $mark"
}

# GOOS and GOARCH of this machine.
platform() {
    case $(uname -s) in
        Linux) os=linux ;;
        Darwin) os=darwin ;;
        *) fail "there is no Go for $(uname -s) here" ;;
    esac
    case $(uname -m) in
        x86_64 | amd64) arch=amd64 ;;
        aarch64 | arm64) arch=arm64 ;;
        i?86) arch=386 ;;
        armv*) arch=arm ;;
        riscv64 | ppc64le | s390x) arch=$(uname -m) ;;
        loongarch64 | loong64) arch=loong64 ;;
        *) fail "there is no Go for $(uname -m) here" ;;
    esac
}

# The h1 with which a version was installed; nothing where it was not, or not whole.
installed() {
    if [ -f "$record" ] && [ -x "$base/go$1/bin/go" ]; then
        sed -n "s/^go$1 $os-$arch //p" "$record" | tail -n 1
    fi
}

# Whether NAME is one that an installed version has: what else the record or the link says is not from here.
is_version() {
    case $1 in
        *[!0-9a-z.]*) return 1 ;;
        go[1-9]*) ;;
        *) return 1 ;;
    esac
}

# Remove VERSION, as the record names it.
remove() {
    if is_version "$1"; then
        step rm -rf "$base/$1"
    else
        say "$record names ${1:-nothing}, which is no version of Go: left alone"
    fi
}

# Refuse to touch what somebody else has put there.
check_places() {
    before=
    if [ -L "$link" ]; then
        target=$(readlink "$link")
        before=${target#"$base"/}
        if [ "$before" = "$target" ] || ! is_version "$before"; then
            fail "$link leads to another Go installation, $target: remove it (rm $link), or choose --dir DIR"
        fi
    elif [ -e "$link" ]; then
        fail "$link is another Go installation: remove it (rm -r $link), or choose another place with --dir DIR"
    fi
    broken=
    if [ -e "$base/go$version" ]; then
        if ! grep -q "^go$version " "$record" 2>/dev/null; then
            fail "$base/go$version is not from here: remove it, or choose another place with --dir DIR"
        elif [ -z "$(installed "$version")" ]; then
            broken=yes # or another platform's, as in a home that several machines share
        fi
    fi
}

# Which version, where nobody has said: the newest release of the last three that the host can prove.
choose() {
    if ! list=$(ask "$proxy/golang.org/toolchain/@v/list"); then
        fail "the host does not say which versions there are: name one with --version"
    fi
    releases=$(
        printf '%s\n' "$list" | sed -n "s/^v0\.0\.1-go\(1\.[0-9]*\.[0-9]*\)\.$os-$arch\$/\1/p" |
            sort -t . -k 2,2nr -k 3,3nr | head -n 3
    )
    for release in $releases; do
        if [ -n "$(installed "$release")" ] || ask "$proxy/vm/toolchain/go$release.$os-$arch.h1" >/dev/null; then
            version=$release
            return
        fi
    done
    fail "the host can prove no Go for $os-$arch; it was asked for ${releases:-none, for its list names none}"
}

# The h1 of the tree DIR as that of a module VERSION (golang.org/x/mod/sumdb/dirhash): the sums of all files, and
# the sum of these; nothing where a file cannot be read. For printf, which takes no \x everywhere, it is written
# in octal.
h1() (
    cd "$1"
    export LC_ALL=C
    module=golang.org/toolchain@$2
    if command -v sha256sum >/dev/null; then
        set -- sha256sum
    else
        set -- shasum -a 256
    fi
    find . -type f | sort | tr '\n' '\000' >"$work/names"
    xargs -0 "$@" <"$work/names" >"$work/sums" || exit
    sed "s,^\([0-9a-f]*\)  \./,\1  $module/," "$work/sums" | "$@" |
        awk '{
            digits = "0123456789abcdef"
            for (i = 1; i < 64; i += 2)
                printf "\\%03o", 16 * index(digits, substr($1, i, 1)) + index(digits, substr($1, i + 1, 1)) - 17
            print "" # read wants a whole line
        }' | {
        read -r octal
        # shellcheck disable=SC2059 # nothing else is in it
        printf 'h1:%s\n' "$(printf "$octal" | base64)"
    }
)

# Fetch, check and put into its place.
install() {
    archive=$proxy/vm/toolchain/go$version.$os-$arch
    if ! known=$(ask "$archive.h1"); then
        fail "the host has no go$version for $os-$arch, or cannot prove it; goproxy-vm doctor there says more"
    fi
    if [ -n "$expected" ] && [ "$known" != "$expected" ]; then
        fail "go$version of this host has $known, and not $expected; nothing was changed"
    fi
    top=$base # and above it what must be made
    while [ ! -d "$top" ]; do
        top=$(dirname "$top")
    done
    if [ -n "$print" ]; then
        step mkdir -p "$base/.new"
        fetching "$base/.new"
        printf '# go on if its h1 is %s\n' "$known"
        step mv "$base/.new/go" "$base/go$version"
        return
    fi
    trap clean_up EXIT
    trap 'exit 1' HUP INT TERM
    mkdir -p "$base"
    sweep
    work=$(mktemp -d "$base/.new.XXXXXX")
    mkdir "$work/new"
    fetching "$work/new"
    # A pipe has the status of its end alone.
    if ! { get "$archive.tar.gz" || echo $? >"$work/failed"; } | gzip -dc | head -c "$most" | (
        # A file may have holes that take nothing here, and yet would be hashed: this bounds what is no byte of
        # the archive. Where the limit is lower already it stays.
        ulimit -f $((most / 512)) 2>/dev/null || :
        exec tar -xof - -C "$work/new"
    ) || [ -e "$work/failed" ]; then
        if [ "$(cat "$work/failed" 2>/dev/null)" = 22 ]; then # by curl: the host refuses, and it says why to ask
            ask "$archive.tar.gz" -r 0-0 -m 10 >/dev/null || :
        fi
        fail "the download of go$version failed, was cut off or is too large; nothing was changed"
    fi
    unpacked=$work/new/go
    # Names of two lines would be two names where they are hashed; a second link may be to a file elsewhere.
    odd=$(find "$unpacked" \( ! -type f ! -type d \) -o -type f -links +1 -o -name "*$newline*" 2>&1 | head -n 1)
    if [ "$(ls -A "$work/new")" != go ] || [ -n "$odd" ]; then
        fail "the archive of go$version has what does not belong there; nothing was changed"
    fi
    found=$(h1 "$unpacked" "v0.0.1-go$version.$os-$arch") || :
    if [ "$found" != "$known" ]; then
        fail "what came of go$version has ${found:-no h1}, and not $known; nothing was changed"
    fi
    say "go$version for $os-$arch is what it should be${expected:+ by --h1}: $found"
    chmod -R a-s,u=rwX,go=rX "$unpacked" # of modes no hash knows
    # A module may have no go.mod below its root: go renames these as well.
    find "$unpacked" -name _go.mod | while IFS= read -r file; do
        cp "$file" "${file%_go.mod}go.mod"
    done
    mv "$unpacked" "$work/go$version"
    if [ -n "$broken" ]; then
        rm -rf "$base/go$version"
    fi
    printf 'go%s %s-%s %s\n' "$version" "$os" "$arch" "$found" >>"$record" # before there is what it names
    # It fails where another run of this was quicker; mv to a name would go into what is there.
    if ! step mv "$work/go$version" "$base/" 2>"$work/why" && [ ! -x "$base/go$version/bin/go" ]; then
        fail "go$version cannot be put into its place: $(cat "$work/why")"
    fi
    rm -rf "$work"
    work=
}

# The command that brings the archive into DIR.
fetching() {
    printf '%s | gzip -dc | head -c %s | tar -xof - -C %s\n' \
        "$fetch $(quoted "$archive.tar.gz")" "$most" "$(quoted "$1")"
}

# What runs that were killed have left, long ago.
sweep() {
    for old in "$base"/.new.*; do
        if [ -d "$old" ] && [ -n "$(find "$old" -prune -mtime +0)" ]; then
            rm -rf "$old"
        fi
    done
}

# shellcheck disable=SC2329 # by trap
clean_up() {
    if [ -n "$work" ] && ! rm -rf "$work" 2>/dev/null; then
        # An archive's directories that may not be written; files are left as they are, for they may be links.
        find "$work" -type d -exec chmod u+rwx {} \; || :
        rm -rf "$work" || :
    fi
    directory=$base
    while [ "$directory" != "$top" ] && rmdir "$directory" 2>/dev/null; do
        directory=$(dirname "$directory")
    done
}

# Keep the version before this one, and none before that.
prune() {
    if [ -z "$before" ] || [ "$before" = "go$version" ]; then
        return
    fi
    while read -r name rest; do
        if [ "$name" != "$before" ] && [ "$name" != "go$version" ]; then
            remove "$name"
        fi
    done <"$record"
    grep -e "^$before " -e "^go$version " "$record" >"$record.$$" # killed here, the record still names all
    mv "$record.$$" "$record"
}

add_path() {
    if [ -z "$profile" ] || grep -qxF "$path_line" "$profile" 2>/dev/null; then
        return
    fi
    printf 'echo %s >>%s\n' "$(quoted "$path_line")" "$(quoted "$profile")"
    if [ -n "$print" ]; then
        return
    fi
    if [ -s "$profile" ] && [ -n "$(tail -c 1 "$profile")" ]; then
        echo >>"$profile" # its last line has no end
    fi
    printf '%s\n' "$path_line" >>"$profile"
}

take_path_back() {
    if [ -n "$profile" ] && grep -qxF "$path_line" "$profile" 2>/dev/null; then
        say "$profile: without the line that has $link/bin on PATH"
        if [ -z "$print" ]; then
            kept=$(grep -vxF "$path_line" "$profile" || :; echo .)
            printf '%s' "${kept%.}" >"$profile" # a file that is a link stays one
            [ -s "$profile" ] || rm "$profile"
        fi
    fi
}

# Point it at the host. The script is kept for --uninstall, when the host may be gone.
set_up() {
    if [ -z "${HOME-}" ]; then
        say "HOME is not set, so nobody's go is pointed at the host: run $proxy/vm/setup.sh as the user who builds"
        return
    fi
    quiet=
    if [ -z "$report" ]; then
        quiet=--no-report
    fi
    if [ -n "$print" ]; then
        printf '%s %s | sh%s\n' "$fetch" "$(quoted "$proxy/vm/setup.sh")" "${quiet:+ -s -- $quiet}"
        return
    fi
    if ! ask "$proxy/vm/setup.sh" >"$base/setup.sh.$$"; then
        rm -f "$base/setup.sh.$$"
        fail "go$version is installed, but setup.sh did not come from the host: run $proxy/vm/setup.sh later"
    fi
    mv "$base/setup.sh.$$" "$base/setup.sh"
    if ! PATH=$link/bin:$PATH sh "$base/setup.sh" ${quiet:+"$quiet"}; then
        fail "go$version is installed, but setup.sh failed: run $proxy/vm/setup.sh later"
    fi
    report='' # setup.sh has done it
}

uninstall() {
    if [ ! -f "$record" ]; then
        say "nothing is installed in $base"
        return
    fi
    if [ -n "$setup" ] && [ -f "$base/setup.sh" ] && [ -n "${HOME-}" ]; then
        printf 'sh %s --undo\n' "$(quoted "$base/setup.sh")"
        if [ -z "$print" ] && ! PATH=$link/bin:$PATH sh "$base/setup.sh" --undo >&2; then
            say "setup.sh could not take back what it had set; see go env"
        fi
    fi
    if [ -L "$link" ]; then
        target=$(readlink "$link")
        if [ "$base/${target##*/}" = "$target" ] && is_version "${target##*/}"; then
            step rm "$link"
        fi
    fi
    while read -r name rest; do
        remove "$name"
    done <"$record"
    step rm -f "$base/setup.sh" "$record"
    if [ -z "$print" ]; then
        rm -rf "$base"/.new.* "$base"/setup.sh.* "$record".*
    fi
    take_path_back
    if [ -z "$print" ] && ! rmdir "$base" 2>/dev/null; then
        say "$base has other files, and stays"
    fi
}

# Tell the host, which counts its VMs by version, what setup.sh has not told it. Whatever comes of it.
tell() {
    seen="$proxy/vm/seen?script=install&go=go$version&bootstrap=go$version&os=$os&arch=$arch"
    if command -v curl >/dev/null; then
        curl -fs -m 1 -o /dev/null "$seen" || :
    elif command -v timeout >/dev/null; then # busybox's own -T may crash it
        timeout 1 wget -q -O /dev/null "$seen" 2>/dev/null || :
    fi
}

main() {
    set -eu
    umask 022
    newline='
'
    print='' removing='' setup=yes report=yes version='' expected='' base='' work='' top=''
    while [ $# -gt 0 ]; do
        case $1 in
            --version)
                version=${2-}
                version=${version#go}
                case $version in
                    *[!0-9a-z.]*) misused "--version: $2 is no version of Go" ;;
                    1.[0-9]*) ;;
                    *) misused "--version: a version as 1.26.8 is needed" ;;
                esac
                shift
                ;;
            --h1)
                expected=${2-}
                case $expected in
                    h1:*[!A-Za-z0-9+/=]* | h1:?*=?*) misused "--h1: $2 is no h1" ;;
                    h1:*=) ;;
                    *) misused "--h1: a hash as h1:...= is needed" ;;
                esac
                shift
                ;;
            --dir)
                case ${2-} in
                    *"$newline"*) misused "--dir: one line is needed" ;;
                    *[!/]*) ;;
                    *) misused "--dir: an absolute path is needed" ;;
                esac
                case $2 in
                    /*) base=${2%/} ;;
                    *) misused "--dir: an absolute path is needed" ;;
                esac
                shift
                ;;
            --no-setup) setup='' ;;
            --no-report) report='' ;;
            --print) print=yes ;;
            --uninstall) removing=yes ;;
            -h | --help)
                usage
                exit
                ;;
            *) misused "unknown option $1" ;;
        esac
        shift
    done
    places
    if [ -n "$removing" ]; then
        uninstall
        return
    fi
    if [ -z "$proxy" ]; then
        fail "this copy names no host: get it from a server, at /vm/install.sh"
    fi
    if command -v curl >/dev/null; then
        fetch='curl -fsS'
    elif command -v wget >/dev/null; then
        fetch='wget -qO-'
    else
        fail "there is neither curl nor wget on PATH: install one of them"
    fi
    platform
    if [ -z "$version" ]; then
        version=${vm_go%%+*} # it may say +auto or +path, which is for GOTOOLCHAIN
        version=${version#go}
    fi
    if [ -z "$version" ]; then
        choose
    fi
    check_places
    found=$(installed "$version")
    if [ -z "$found" ]; then
        install
    elif [ -n "$expected" ] && [ "$found" != "$expected" ]; then
        fail "go$version is installed with $found, and not $expected; nothing was changed"
    else
        say "go$version is installed in $base"
    fi
    if [ "$before" != "go$version" ]; then
        # Some remove the old one first, and then fail where another run of this has made the new one.
        step ln -sfn "$base/go$version" "$link" || [ "$(readlink "$link")" = "$base/go$version" ]
    fi
    if [ -z "$print" ]; then
        prune
    fi
    add_path
    if [ -n "$setup" ] && [ -n "$expected" ]; then
        say "setup.sh was not run, for nothing proves it as --h1 does Go; who builds points go at the host by:" \
            "go env -w GOPROXY=$(quoted "$proxy")"
    elif [ -n "$setup" ]; then
        set_up
    fi
    if [ -n "$print" ]; then
        say "nothing was changed"
        return
    fi
    if [ -n "$report" ]; then
        tell
    fi
    if ! said=$(cd / && GOTOOLCHAIN=local "$link/bin/go" version 2>&1); then
        fail "go$version is installed in $base, but does not run: $said (without /proc it needs GOROOT=$link)"
    fi
    say "$said; in new login shells, or now by: export PATH=$(quoted "$link/bin"):\"\$PATH\""
}

# In braces, so that a download that was cut off runs nothing.
{ main "$@"; exit; }
