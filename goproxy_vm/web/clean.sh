#!/bin/sh
# Prunes this user's Go module cache and build cache, precisely, and beside builds that run:
#
#   curl -fsS http://HOST:8080/vm/clean.sh | sh -s -- --age 30
#   curl -fsS http://HOST:8080/vm/clean.sh | sh -s -- --help
#
# Saved to a file it works alone. Needs find, xargs -0, awk and stat, of any kind; flock where there is one.

# From the server; empty: nothing is reported.
proxy=''

usage() {
    cat <<'EOF'
usage: clean.sh [--dry-run] [--list] [--age DAYS] [--keep DIR]... [--module GLOB]... [--size SIZE] [--zips]
                [--build-age DAYS] [--all-versions] [--every HOURS] [--modcache DIR] [--gocache DIR]
                [--force] [--no-report]

What goes; without any of these, --age 30:
  --age DAYS         versions of modules and toolchains that no go has used for DAYS
  --keep DIR         what the go.sum files below DIR name stays, and the toolchains that the go.mod files there
                     name; without --age, --module or --size, everything else goes; may be given again
  --module GLOB      what matches, as in 'k8s.io/*' or 'example.com/m@v1.*', however lately used; may be given again
  --size SIZE        of the rest what was used longest ago, until SIZE is left in each module cache, as in 500M or 2G
  --zips             the zips of versions that are extracted: no build needs them
  --build-age DAYS   entries of the build cache that no go has used for DAYS
  --all-versions     look at the caches of all Go versions that setup.sh has made; one that is not the current go's
                     and has not been used for DAYS of --age, or 30, goes as a whole

What was used within a day stays, but for --module: a build may be reading it.

  --dry-run          delete nothing; the table and the list are those of a real run
  --list             write a line for each version that goes: reason, module@version, KiB, days unused, with tabs
                     between; the table then goes to stderr
  --every HOURS      do nothing if a run was completed less than HOURS ago
  --modcache DIR     instead of what go env GOMODCACHE says
  --gocache DIR      instead of what go env GOCACHE says
  --force            no go runs meanwhile: take what was used within a day too, and allow a shared file system
  --no-report        do not tell the host of this run
EOF
}

# What is said goes to stderr: stdout has the table, or the list.
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

refuse() {
    say "$*"
    exit 2
}

# Something could not be deleted: go on, and end with status 1.
failed() {
    say "$* could not be deleted"
    echo "$*" >>"$work/failed"
}

whole_number() {
    case ${2-} in
        '' | *[!0-9]* | 0?* | ??????*) misused "$1: a whole number is needed" ;;
    esac
}

# SIZE in KiB.
in_kib() {
    case $1 in
        *[KMGT]iB) set -- "${1%iB}" ;;
    esac
    case ${1%[KMGT]} in
        "$1" | '' | *[!0-9]* | ??????????*) misused "--size: a size like 500M or 2G is needed" ;;
    esac
    echo "$1" | awk '{
        unit = substr($1, length($1))
        printf "%.0f\n", substr($1, 1, length($1) - 1) * 1024 ^ (index("KMGT", unit) - 1)
    }'
}

# The go command in no module, never switching to another toolchain.
plain_go() (
    cd /
    case $* in
        'env GOTOOLCHAIN') ;; # this form does not switch, and without this variable is what others will be told
        *) export GOTOOLCHAIN=local ;;
    esac
    exec go "$@"
)

ask_go() {
    if ! command -v go >/dev/null; then
        if [ -z "$modcache" ] || { [ -n "$build_age" ] && [ -z "$gocache" ]; }; then
            fail "there is no go command on PATH: add its bin directory (often /usr/local/go/bin)," \
                "or give --modcache and --gocache"
        fi
        return 0
    fi
    answers=$(plain_go env GOMODCACHE GOCACHE GOPROXY GOHOSTOS GOHOSTARCH)
    {
        IFS= read -r answer
        modcache=${modcache:-$answer}
        IFS= read -r answer
        gocache=${gocache:-$answer}
        IFS= read -r goproxy
        IFS= read -r os
        IFS= read -r arch
    } <<EOF
$answers
EOF
    bootstrap=$(plain_go version | sed -n 's/.*\(go[0-9][0-9A-Za-z.]*\).*/\1/p')
    bootstrap=${bootstrap:-devel}
    toolchain=$(plain_go env GOTOOLCHAIN)
    case $toolchain in
        go1*) toolchain=${toolchain%%+*} ;; # and +auto, +path
        *) toolchain=$bootstrap ;;
    esac
}

# How to ask stat for times of access and change in seconds, for a name, and for an owner.
learn_stat() {
    if stat -c %X / >/dev/null 2>&1; then
        form=-c times='%X %Y' changed=%Y named=%n owner='%u %U'
    else
        form=-f times='%a %m' changed=%m named=%N owner='%u %Su'
    fi
}

# Nothing that is deleted here may be anything but a module cache on a file system that locks.
check_modcache() {
    case $1 in
        / | "$home") refuse "$1 is no module cache" ;;
    esac
    [ -d "$1/cache/download" ] || refuse "$1 is no module cache: it has no cache/download"
    numbers=' \{1,\}[0-9]\{1,\} \{1,\}[0-9]\{1,\} \{1,\}[0-9]\{1,\} \{1,\}[0-9-]\{1,\}%\{0,1\} '
    kind=$(df -PT "$1" 2>/dev/null | sed -n "2s/^.* \([^ ]\{1,\}\)$numbers.*/\1/p")
    case $kind in
        9p | afs | ceph | cifs | drvfs | glusterfs | gpfs | lustre | nfs* | prl_fs | smb* | vboxsf | virtiofs | \
            vmhgfs | fuse.sshfs | fuse.vmhgfs-fuse | fuse.glusterfs | fuse.rclone | fuse.s3fs)
            if [ -z "$force" ]; then
                refuse "$1 is on a shared file system ($kind), where locks may not lock:" \
                    "stop go on all machines that use it, and give --force"
            fi
            ;;
    esac
}

# Whose a module cache is, where this is root and that is somebody else: who could lead root out of it by links.
somebody_else() {
    if [ "$(id -u)" = 0 ]; then
        for each in "$1" "$1/cache" "$1/cache/download"; do
            stat $form "$owner" "$each"
        done | sed -n '/^0 /!{s/.* //p;q;}'
    fi
}

# Take the module cache for this run, by fd 8 or else a directory; 1 where another clean.sh has it.
claim() {
    if [ -n "$dry" ]; then
        return 0
    fi
    held=$1/cache/goproxy-vm.lock
    if [ -n "$locks" ]; then
        if ! (: >>"$held") 2>/dev/null; then
            fail "$1 cannot be written: run this as the user who builds"
        fi
        exec 8>>"$held"
        flock -n 8 8>&8
        return
    fi
    held=$held.d
    if ! mkdir "$held" 2>/dev/null; then
        if [ ! -d "$held" ]; then
            fail "$1 cannot be written: run this as the user who builds"
        fi
        holder=$(cat "$held/pid" 2>/dev/null) || holder=
        # A run that was killed has left it; one that has just begun has not written its number.
        if [ -n "$holder" ] && kill -0 "$holder" 2>/dev/null || [ -z "$(find "$held" -prune -mmin +1440)$holder" ]; then
            return 1
        fi
    fi
    echo "$held" >>"$work/held"
    echo $$ >"$held/pid"
}

# Give back what claim has taken without flock, and delete the notes.
# shellcheck disable=SC2329 # by a trap
finish() {
    if [ -e "$work/held" ]; then
        tr '\n' '\0' <"$work/held" | xargs -0 rm -rf
    fi
    rm -rf "$work"
}

# Whether reading a file shows in its time of access here. Tried, not looked up: noatime comes in many ways.
reads_show() {
    probe=$(mktemp "$1/cache/.goproxy-vm-probe.XXXXXX" 2>/dev/null) ||
        fail "$1 cannot be written: run this as the user who builds"
    printf x >"$probe"
    touch -a -t 200001010000 "$probe"
    cat "$probe" >/dev/null
    shown=$(find "$probe" -atime -2)
    rm -f "$probe"
    [ -n "$shown" ]
}

# Whether the last complete run began less than HOURS ago. A clock that was set back makes it none.
cleaned_lately() {
    [ -e "$1" ] && stat $form $changed "$1" | awk -v now="$now" -v every="$every" \
        '{ exit !($1 <= now && now - $1 < every * 3600) }'
}

# Into $work/kept: "module@version" of go.sum files below the directories, "toolchain VERSION" of go.mod files.
read_keep() {
    while IFS= read -r directory; do
        if [ -z "$directory" ]; then
            continue
        fi
        # Not in module caches: each module there has a go.sum of its own.
        find "$directory/." \( -type d -name '*@v[0-9]*' -prune \) -o \
            -type f \( -name go.sum -o -name go.work.sum -o -name go.mod -o -name go.work \) -exec awk '
                BEGIN { print "found" }
                { sub(/\r$/, "") }
                FILENAME ~ /sum$/ && $2 !~ /\/go\.mod$/ { print $1 "@" $2 }
                FILENAME !~ /sum$/ && $1 == "go" { print "toolchain go" $2 }
                FILENAME !~ /sum$/ && $1 == "toolchain" { print "toolchain " $2 }' {} + >"$work/found" ||
            fail "--keep: not all of $directory could be read, so nothing is deleted"
        if [ ! -s "$work/found" ]; then
            refuse "--keep: there is no go.mod and no go.sum below $directory"
        fi
        cat "$work/found" >>"$work/kept"
    done <<EOF
$keep
EOF
}

# Into $work/matched: the names among $work/known that match a --module. By the shell: its patterns are those meant.
match_modules() {
    : >"$work/matched"
    while IFS= read -r pattern; do
        if [ -z "$pattern" ]; then
            continue
        fi
        while IFS=$tab read -r _ _ _ _ name; do
            # shellcheck disable=SC2254 # a pattern it is
            case $name in
                $pattern) echo "$name" >>"$work/matched" ;;
            esac
        done <"$work/known"
    done <<EOF
$modules
EOF
}

# In a module cache: its versions, the one used longest ago first, into $work/known, and their KiB into $work/sizes.
# Last use is what the hash of a version's zip says: go reads it for each build, and wrote it when it downloaded.
look_at_modules() {
    find cache/download -type f -name '*.ziphash' ! -path "$odd" -exec stat $form "$times $named" {} + | awk '
        {
            used = $1 > $2 ? $1 : $2
            times = $1 " " $2
            sub(/^[0-9]+ [0-9]+ /, "")
            sub(/\.ziphash$/, "")
            stem = tree = $0
            sub(/^cache\/download\//, "", tree)
            sub(/\/@v\//, "@", tree)
            rest = tree
            name = ""
            while ((i = index(rest, "!")) > 0) {
                name = name substr(rest, 1, i - 1) toupper(substr(rest, i + 1, 1))
                rest = substr(rest, i + 2)
            }
            print used "\t" times "\t" stem "\t" tree "\t" name rest
        }' | sort -n >"$work/known"
    : >"$work/sizes"
    if [ -s "$work/known" ]; then # xargs would run du on nothing
        awk -F '\t' '{ print $4; print $3 ".zip" }' "$work/known" | tr '\n' '\0' |
            xargs -0 du -sk >"$work/sizes" 2>/dev/null || : # of some only one is there
    fi
}

# Decide, into $work/plan: reason, days unused, KiB, module@version, stem, tree, times.
plan_modules() {
    if [ -n "$modules" ]; then
        match_modules
    fi
    awk -F '\t' -v now="$now" -v age="$age" -v size="$size" -v zips="$zips" -v others="$others" -v force="$force" \
        -v work="$work" '
        function kept(name,  version) {
            if (name in keep) return 1
            if (name !~ /^golang\.org\/toolchain@v0\.0\.1-/) return 0
            version = substr(name, 29)
            sub(/\.[a-z0-9]*-[a-z0-9]*$/, "", version)
            return ("toolchain " version) in keep
        }
        BEGIN {
            while ((getline line < (work "/kept")) > 0) keep[line]
            while ((getline line < (work "/matched")) > 0) matched[line]
            while ((getline line < (work "/sizes")) > 0) {
                split(line, part, "\t")
                kib[part[2]] = part[1]
            }
        }
        {
            n++
            unused[n] = now - $1
            times[n] = $2
            stem[n] = $3
            tree[n] = $4
            name[n] = $5
            extracted = $4 in kib
            zip[n] = kib[$3 ".zip"] + 0
            all[n] = kib[$4] + zip[n]
            total += all[n]
            # The kernel notes a reading again after a day: what is younger may be read right now.
            spared[n] = kept($5) || (unused[n] < 86400 && !force)
            if (($5 in matched) && !kept($5)) why[n] = "module"
            else if (!spared[n] && age != "" && unused[n] >= age * 86400) why[n] = "age"
            else if (!spared[n] && others) why[n] = "unneeded"
            else if (zips && zip[n] && extracted) why[n] = "zip"
            if (why[n] != "") gone += why[n] == "zip" ? zip[n] : all[n]
        }
        END {
            for (i = 1; i <= n && size != "" && total - gone > size; i++) {
                if (spared[i] || (why[i] != "" && why[i] != "zip")) continue
                gone += all[i] - (why[i] == "zip" ? zip[i] : 0)
                why[i] = "size"
            }
            for (i = 1; i <= n; i++) if (why[i] != "")
                printf "%s\t%d\t%d\t%s\t%s\t%s\t%s\n", why[i], unused[i] < 0 ? 0 : unused[i] / 86400, \
                    why[i] == "zip" ? zip[i] : all[i], name[i], stem[i], tree[i], times[i]
            printf "modules before %d %d\n", n, total >>(work "/sums")
            if (size != "" && total - gone > size)
                printf "goproxy-vm: %d MiB are left: what is kept, or was used within a day, stays\n", \
                    (total - gone) / 1024 >(work "/over")
        }' "$work/known" >"$work/plan"
    if [ -e "$work/over" ]; then
        cat "$work/over" >&2
        rm -f "$work/over"
    fi
}

# Whether nothing has used the version since the plan.
still_unused() {
    [ "$why" = module ] || [ "$(stat $form "$times" "$stem.ziphash" 2>/dev/null)" = "$stamp" ]
}

# Remove one version of the plan; 1 where that cannot be, 3 where somebody uses it. At no moment does go find half
# a tree, or a zip that is about to go; and wherever this ends, go can work with what is left.
remove_version() {
    if [ -n "$locks" ]; then
        flock -n 9 9>&9 || return 3 # go extracts it
    fi
    if [ "$why" = zip ]; then
        if [ -d "$tree" ] && [ ! -e "$stem.partial" ] && [ -e "$stem.ziphash" ]; then
            rm -f "$stem.zip"
            return
        fi
        return 3
    fi
    still_unused || return 3
    rm -f "$stem.zip" || return 1 # before the tree: while that is there nothing asks for the zip
    if [ -d "$tree" ]; then
        [ ! -e "$tree.tmp-clean" ] || return 1 # mv would move into it
        mv -f "$tree" "$tree.tmp-clean" || return 1
        if ! still_unused; then # a build that came meanwhile has noted its use before it reads the tree
            [ -e "$tree" ] || mv -f "$tree.tmp-clean" "$tree" || return 1 # else it is extracted again
            return 3
        fi
    fi
    rm -f "$stem.ziphash" || return 1 # last: by it the next run finds what this one has not finished
}

# Delete the trees that were renamed, now or by a run that was killed.
sweep() {
    find . -path ./cache -prune -o \
        -type d -name '*@*' -prune -name '*.tmp-clean' ! -path "$odd" -print >"$work/sweep" || :
    if [ ! -s "$work/sweep" ]; then
        return 0
    fi
    tr '\n' '\0' <"$work/sweep" | xargs -0 chmod -R u+w || :
    tr '\n' '\0' <"$work/sweep" | xargs -0 rm -rf || failed "something that $1 was renamed to .tmp-clean for that"
    if [ -n "$force" ]; then # otherwise a go may have seen that they are there, and be about to extract into them
        sed 's|/[^/]*$||' "$work/sweep" | sort -u | tr '\n' '\0' | xargs -0 rmdir -p 2>/dev/null || : # if empty
    fi
}

clean_modules() {
    cd "$1"
    if [ -z "$dry" ]; then
        sweep "$1"
    fi
    look_at_modules
    plan_modules
    while IFS=$tab read -r why days kib name stem tree stamp; do
        if [ -z "$dry" ]; then
            state=0
            if [ -n "$locks" ]; then
                { remove_version; } 9>>"$stem.lock" || state=$?
            else
                remove_version || state=$?
            fi
            case $state in
                0) ;;
                3)
                    say "$name is in use, and stays"
                    continue
                    ;;
                *)
                    failed "$name"
                    continue
                    ;;
            esac
        fi
        echo "modules $why 1 $kib" >>"$work/sums"
        if [ -n "$list" ]; then
            printf '%s\t%s\t%s\t%s\n' "$why" "$name" "$kib" "$days"
        fi
    done <"$work/plan"
    if [ -z "$dry" ]; then
        sweep "$1"
    fi
}

# The entries of a build cache, all or those unused for so many days; go notes a use within the hour.
build_entries() {
    if [ -n "$1" ]; then
        set -- -mmin "+$(($1 * 1440 + 60))"
    else
        set --
    fi
    find . -path './[0-9a-f][0-9a-f]/*-[ad]' -prune "$@" ! -path "$odd" -print
}

clean_builds() {
    cd "$1"
    echo "builds before $(build_entries '' | wc -l) $(du -sk . | sed 's/[^0-9].*//')" >>"$work/sums"
    if [ -z "$build_age" ]; then
        return 0
    fi
    build_entries "$build_age" >"$work/entries" || : # a go that trims takes some away meanwhile
    if [ ! -s "$work/entries" ]; then
        return 0
    fi
    tr '\n' '\0' <"$work/entries" | xargs -0 du -sk 2>/dev/null |
        awk '{ kib += $1; n++ } END { printf "builds unused %d %d\n", n, kib }' >"$work/unused"
    if [ -z "$dry" ] && ! tr '\n' '\0' <"$work/entries" | xargs -0 rm -rf; then
        failed "a part of $1"
    fi
    cat "$work/unused" >>"$work/sums"
}

is_modcache() {
    [ -d "$1/cache/download" ]
}

is_gocache() {
    [ -d "$1/00" ] && [ -d "$1/ff" ] # go makes all 256
}

# What lies in a directory beside the mod and build that setup.sh makes there.
beside_caches() {
    find "$1/." ! -name . -prune ! \( -type d \( -name mod -o -name build \) \) -print
}

# Whether a directory is one that setup.sh has made for a Go version: caches, and nothing else.
is_version() {
    [ ! -e "$1/mod" ] || is_modcache "$1/mod" || return 1
    [ ! -e "$1/build" ] || is_gocache "$1/build" || return 1
    [ -e "$1/mod" ] || [ -e "$1/build" ] || return 1
    beside=$(beside_caches "$1") && [ -z "$beside" ]
}

clean_caches() {
    if is_modcache "$1"; then
        (clean_modules "$1")
    fi
    if is_gocache "$2"; then
        (clean_builds "$2")
    fi
}

# Whether go has used the caches of one version for the last days. What cannot be read may have been.
version_used() {
    : >"$work/used"
    if is_modcache "$1/mod"; then
        find "$1/mod/cache/download" -type f -name '*.ziphash' \( -atime "-$2" -o -mtime "-$2" \) -print \
            >>"$work/used" || return 0
    fi
    if is_gocache "$1/build"; then
        find "$1/build" -type f -mtime "-$2" -print >>"$work/used" || return 0
    fi
    [ -s "$work/used" ]
}

# Remove the caches of a Go version as a whole: renamed first, and back if a go has come meanwhile.
drop_version() {
    days=${age:-30}
    if [ -n "$unseen" ] && [ -z "$force" ]; then
        return 1 # --keep says nothing of other versions
    fi
    if ! is_version "$1" || version_used "$1" "$days"; then
        return 1
    fi
    kib=$(du -sk "$1/mod" 2>/dev/null | sed 's/[^0-9].*//')
    build_kib=$(du -sk "$1/build" 2>/dev/null | sed 's/[^0-9].*//')
    count=$(find "$1" -type f -name '*.ziphash' | wc -l)
    entries=$(cd "$1" && find . -path './build/[0-9a-f][0-9a-f]/*-[ad]' -prune -print | wc -l)
    if [ -z "$dry" ]; then
        [ ! -e "$1.tmp-clean" ] || return 1 # mv would move into it
        mv -f "$1" "$1.tmp-clean" || return 1
        if version_used "$1.tmp-clean" "$days"; then
            [ -e "$1" ] || mv -f "$1.tmp-clean" "$1" # else a go has begun anew, and the next run deletes it
            return 1
        fi
        chmod -R u+w "$1.tmp-clean" || :
        if ! rm -rf "$1.tmp-clean"; then
            failed "$1.tmp-clean"
        fi
    fi
    for what in before version; do
        echo "modules $what $((count)) ${kib:-0}"
        echo "builds $what $((entries)) ${build_kib:-0}"
    done >>"$work/sums"
    if [ -n "$list" ]; then
        printf 'version\t%s\t%s\t%s\n' "${1##*/}" "$((${kib:-0} + ${build_kib:-0}))" "$days"
    fi
}

# Clean the caches of another Go version, or drop them.
clean_version() {
    if is_modcache "$1/mod"; then
        user=$(somebody_else "$1/mod")
        if [ -n "$user" ]; then
            say "$1 is $user's, and this is root: it stays"
            return 0
        fi
        if [ -z "$dry" ] && [ ! -w "$1/mod/cache" ]; then
            failed "what is unused in $1"
            return 0
        fi
        if ! claim "$1/mod"; then
            say "another clean.sh is at work in $1: it stays"
            return 0
        fi
    fi
    case ${1##*/} in
        "$bootstrap" | "$toolchain") ;;
        *)
            if drop_version "$1"; then
                return 0
            fi
            ;;
    esac
    clean_caches "$1/mod" "$1/build"
}

# The directories of Go versions, and those that a run has renamed.
versions_in() {
    find "$1/." ! -name . -prune -type d \( -name 'go[0-9]*' -o -name devel -o -name devel.tmp-clean \) \
        ! -path "$odd" -print | sed 's|/\./|/|' | sort
}

# The caches of the other Go versions, where setup.sh has put them.
clean_other_versions() {
    caches=${modcache%/mod}
    case ${caches##*/}/${modcache##*/} in
        go[0-9]*/mod | devel/mod) caches=${caches%/*} ;; # setup.sh --cache
        *)
            case ${XDG_CACHE_HOME-} in
                /*) caches=$XDG_CACHE_HOME/go-vm ;;
                *) caches=${HOME-}/.cache/go-vm ;;
            esac
            ;;
    esac
    if [ ! -d "$caches" ]; then
        return 0
    fi
    caches=$(cd "$caches" && pwd -P)
    if [ -z "$dry" ]; then # first: a version whose name is taken cannot be renamed
        versions_in "$caches" | sed -n '/\.tmp-clean$/p' >"$work/versions"
        while IFS= read -r directory; do
            if beside=$(beside_caches "$directory") && [ -z "$beside" ]; then
                chmod -R u+w "$directory" || :
                rm -rf "$directory" || failed "$directory"
            fi
        done <"$work/versions"
    fi
    versions_in "$caches" | sed '/\.tmp-clean$/d' >"$work/versions"
    while IFS= read -r directory; do
        if [ "$directory/mod" = "$modcache" ] || [ "$directory/build" = "$gocache" ]; then
            continue
        fi
        (clean_version "$directory") # a shell of its own, for a lock of its own
    done <"$work/versions"
}

free_kib() {
    df -Pk "$modcache" | awk 'NR == 2 { print $4 }'
}

show_table() {
    awk '
        function row(text, n, kib) { printf "%-22s %8d %10.1f\n", text, n, kib / 1024 }
        function part(kind, title, counted,  r) {
            if (!((kind, "before") in count)) return
            printf "%-22s %8s %10s\n", title, counted, "MiB"
            row("before", count[kind, "before"], kib[kind, "before"])
            for (i = 2; i <= n; i++) {
                r = reasons[i]
                if ((kind, r) in count) {
                    row("  - " r, count[kind, r], kib[kind, r])
                    kib[kind, "before"] -= kib[kind, r]
                    if (r != "zip") count[kind, "before"] -= count[kind, r]
                }
            }
            row("after", count[kind, "before"], kib[kind, "before"])
        }
        { count[$1, $2] += $3; kib[$1, $2] += $4 }
        END {
            n = split("before version module age unneeded size zip unused", reasons, " ")
            part("modules", "modules", "versions")
            part("builds", "build cache", "entries")
        }' "$work/sums"
    if [ -n "$dry" ]; then
        echo "nothing was deleted: a dry run"
        return
    fi
    free_kib | awk -v before="$free" '
        { printf "free on disk: %.1f GB, before %.1f GB\n", $1 * 1.024e-6, before * 1.024e-6 }'
    if [ -n "$goproxy" ]; then
        echo "the next go build fetches what it lacks from $goproxy"
    fi
}

# Tell the host that this was run, and how large the caches are; nothing depends on it.
report() {
    sizes=$(awk '
        { kib[$1] += $2 == "before" ? $4 : -$4 }
        END { printf "modcache_mib=%d&gocache_mib=%d", kib["modules"] / 1024, kib["builds"] / 1024 }' "$work/sums")
    url="$proxy/vm/seen?script=clean&go=$toolchain&bootstrap=$bootstrap&os=$os&arch=$arch&$sizes"
    if command -v curl >/dev/null; then
        curl -fsS -m 1 -o /dev/null "$url" 2>/dev/null || :
    elif command -v wget >/dev/null && command -v timeout >/dev/null; then
        timeout 1 wget -q -O /dev/null "$url" 2>/dev/null || : # not -T: some wgets of busybox crash on it
    fi
}

# The directory that follows option $1, as an absolute path.
directory_of() {
    case ${2-} in
        '' | *"$newline"*) misused "$1: a directory is needed" ;;
    esac
    (cd "$2/." 2>/dev/null && pwd -P) || misused "$1: there is no directory $2"
}

take_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry=yes ;;
            --list) list=yes ;;
            --zips) zips=yes ;;
            --all-versions) all_versions=yes ;;
            --force) force=yes ;;
            --no-report) proxy='' ;;
            --age | --build-age | --every)
                whole_number "$1" "${2-}"
                case $1 in
                    --age) age=$2 ;;
                    --build-age) build_age=$2 ;;
                    --every) every=$2 ;;
                esac
                shift
                ;;
            --size)
                size=$(in_kib "${2-}") || exit
                shift
                ;;
            --keep)
                directory=$(directory_of "$1" "${2-}") || exit
                keep=$keep$directory$newline
                shift
                ;;
            --modcache)
                modcache=$(directory_of "$1" "${2-}") || exit
                shift
                ;;
            --gocache)
                gocache=$(directory_of "$1" "${2-}") || exit
                shift
                ;;
            --module)
                case ${2-} in
                    '' | *[!]A-Za-z0-9._~/@+*?[!-]*) misused "--module: a pattern of module@version is needed" ;;
                    *@*) modules=$modules$2$newline ;;
                    *) modules=$modules$2@\*$newline ;;
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
    if [ "$age" = 0 ] && [ -z "$force" ]; then
        misused "--age: at least 1 is needed, for a build may be reading what was used today; 0 with --force"
    fi
    if [ "$build_age" = 0 ]; then
        misused "--build-age: at least 1 is needed"
    fi
    if [ -z "$age$keep$modules$size$zips$build_age" ]; then
        age=30
    fi
    if [ -n "$keep" ] && [ -z "$age$modules$size" ]; then
        others=yes
    fi
}

main() {
    set -euf
    unset CDPATH # cd would go elsewhere
    export LC_ALL=C
    newline='
'
    tab=$(printf '\t')
    odd="*[$tab$newline]*" # paths that no go has made, and that would be taken for several
    dry='' list='' zips='' all_versions='' force='' age='' build_age='' every='' size='' keep='' modules='' others=''
    unseen=''
    modcache='' gocache='' goproxy='' os='' arch='' bootstrap='' toolchain=''
    take_arguments "$@"
    modcache_given=$modcache gocache_given=$gocache
    ask_go
    learn_stat
    now=$(date +%s)
    home=$(cd "${HOME:-/}" 2>/dev/null && pwd -P) || home=/
    case $modcache in
        /*) ;;
        *) fail "go names no module cache (is HOME set?): give --modcache" ;; # not what is here
    esac
    if [ -z "$modcache_given" ] && ! (cd "$modcache" && [ -n "$(find . ! -name . -prune)" ]) 2>/dev/null; then
        say "nothing to clean: there is no module cache at $modcache"
        return 0
    fi
    modcache=$(cd "$modcache" && pwd -P)
    case $gocache in
        /*) gocache=$(cd "$gocache" 2>/dev/null && pwd -P) || gocache=/ ;;
        *) gocache=/ ;; # off, or none
    esac
    check_modcache "$modcache"
    user=$(somebody_else "$modcache")
    if [ -n "$user" ]; then
        refuse "$modcache is $user's, and this is root: run it as that user, as by su $user -c '…'"
    fi
    if [ -n "$gocache_given" ] && ! is_gocache "$gocache"; then
        refuse "$gocache is no build cache: it has no directories 00 to ff"
    fi
    mark=$modcache/cache/goproxy-vm.cleaned
    if [ -n "$every" ] && cleaned_lately "$mark"; then
        say "nothing to do: cleaned less than $every h ago"
        return 0
    fi
    # Never cd '': that stays here, and what is here would go at the end.
    if ! scratch=$(mktemp -d) || [ -z "$scratch" ] || ! work=$(cd "$scratch/." && pwd); then
        fail "no directory could be made in ${TMPDIR:-/tmp}: set TMPDIR to one that can be written"
    fi
    trap finish EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    : >"$work/mark"
    : >"$work/sums"
    locks=$(command -v flock) || locks=
    if ! claim "$modcache"; then
        say "nothing to do: another clean.sh is at work here"
        return 0
    fi
    if [ -n "$age$size$others$all_versions" ] && ! reads_show "$modcache"; then
        unseen=yes
        if [ -z "$keep$force" ]; then
            refuse "reading a file leaves no time of access here (noatime?), so what builds use does not show:" \
                "name what you need with --keep, or give --force, and days count from the download"
        fi
        say "warning: reading a file leaves no time of access here (noatime?), so days count from the download"
    fi
    if [ "$goproxy" = off ] && [ -n "$age$size$others$modules" ]; then
        say "warning: GOPROXY is off here: what goes does not come back by itself"
    fi
    if [ -n "$toolchain" ]; then
        echo "toolchain $toolchain" >>"$work/kept" # no go works without
    fi
    if [ -n "$keep" ]; then
        read_keep
    fi
    free=$(free_kib)
    clean_caches "$modcache" "$gocache"
    if [ -n "$all_versions" ]; then
        clean_other_versions
    fi
    if [ -n "$list" ]; then
        show_table >&2
    else
        show_table
    fi
    if [ -z "$dry" ] && [ -n "$proxy" ] && [ -n "$bootstrap" ]; then
        report
    fi
    if [ -e "$work/failed" ]; then
        return 1
    fi
    if [ -z "$dry" ]; then
        mv -f "$work/mark" "$mark" # with the time at which this run began
    fi
}

# In braces, so that a download that was cut off runs nothing.
{ main "$@"; exit; }
