#!/usr/bin/env bash
# Measures the release binary beside nginx, in one run on this machine: CPU per proxied request, memory at rest and per
# waiting request, start to first request. Prints a table. Needs Linux with two cores; takes about five minutes.
#
#   bench/compare/run.sh            everything
#   ROUNDS=1 SECONDS_EACH=3 bench/compare/run.sh    a quick look
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/../.."

ROUNDS=${ROUNDS:-3}
SECONDS_EACH=${SECONDS_EACH:-8}
CONNECTIONS=32
WAITING=8000
PROXY_CORE=0
LOAD_CORE=1
BINARY=target/release/cooldown-proxy
HERE=$PWD/bench/compare
WORK=$(mktemp -d)
declare -A PIDS=() FIGURES=()

skip() { echo "bench/compare: skipped: $1"; exit 0; }
note() { echo "bench/compare: $1" >&2; }

cleanup() {
    # Not when a subshell ends.
    (( BASHPID == $$ )) || return 0
    for name in "${!PIDS[@]}"; do stop "$name"; done
    rm -rf "$WORK"
}
trap cleanup EXIT

main() {
    prepare
    start_upstream
    measure_cpu
    measure_bodies
    measure_memory
    measure_start
    table
}

# --- preparation

prepare() {
    [[ $(uname -s) == Linux ]] || skip "it reads /proc, so it needs Linux"
    (( $(nproc) >= 2 )) || skip "it needs two cores: one for the proxy, one for the load and the upstream"
    local missing=()
    for tool in nginx wrk; do command -v "$tool" > /dev/null || missing+=("$tool"); done
    if (( ${#missing[@]} )); then
        note "installing ${missing[*]}"
        apt-get install --yes --no-install-recommends "${missing[@]}" > "$WORK/apt.log" 2>&1 \
            || skip "${missing[*]} cannot be installed by apt-get here"
    fi
    ulimit -n "$(ulimit -Hn)"
    local most=$(( $(ulimit -n) - 1000 ))
    if (( WAITING > most )); then WAITING=$most; fi
    cargo build --quiet --release --locked --bin cooldown-proxy
    UPSTREAM_PORT=$(free_port) NGINX_PORT=$(free_port) PROXY_PORT=$(free_port) ADMIN_PORT=$(free_port)
}

free_port() {
    local port
    while port=$(( 20000 + RANDOM % 12000 )); (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do :; done
    echo "$port"
}

# --- processes

# start NAME CORE COMMAND...: in the background, pinned to a core.
start() {
    local name=$1 core=$2
    shift 2
    taskset -c "$core" "$@" > "$WORK/$name.log" 2>&1 &
    PIDS[$name]=$!
}

stop() {
    local pid=${PIDS[$1]} tries
    unset "PIDS[$1]"
    kill -TERM "$pid" 2> /dev/null || return 0
    # Nobody waits for requests that are in line on purpose.
    for (( tries = 0; tries < 30; tries++ )); do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
}

# The process and its children: nginx works in a child of its master.
family() { echo "$1"; cat "/proc/$1/task/$1/children" 2> /dev/null || true; }

# first_answer PORT: asks until there is an answer, without starting a process for it.
first_answer() {
    local line tries
    for (( tries = 0; tries < 20000; tries++ )); do
        if { exec 3<> "/dev/tcp/127.0.0.1/$1"; } 2> /dev/null; then
            printf 'GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n' >&3
            if read -r -t 2 line <&3 && [[ $line == *" 200 "* ]]; then exec 3>&-; return 0; fi
            exec 3>&-
        fi
    done
    note "no answer on port $1"; cat "$WORK"/*.log >&2; return 1
}

start_upstream() {
    sed "s/@PORT@/$UPSTREAM_PORT/; s#@WORK@#$WORK#g" "$HERE/upstream.conf" > "$WORK/upstream.conf"
    start upstream "$LOAD_CORE" nginx -c "$WORK/upstream.conf"
    first_answer "$UPSTREAM_PORT"
}

# start_nginx RATE BURST
start_nginx() {
    sed "s/@PORT@/$NGINX_PORT/; s/@UPSTREAM@/$UPSTREAM_PORT/; s#@RATE@#$1#; s#@BURST@#$2#; s/@FILES@/$(ulimit -n)/; s#@WORK@#$WORK#g" \
        "$HERE/nginx.conf" > "$WORK/nginx.conf"
    start nginx "$PROXY_CORE" nginx -c "$WORK/nginx.conf"
}

# start_proxy LIMIT [CONFIGURATION]
start_proxy() {
    sed "s/@PORT@/$PROXY_PORT/; s/@UPSTREAM@/$UPSTREAM_PORT/; s#@LIMIT@#$1#; s/@ADMIN@/$ADMIN_PORT/" \
        "$HERE/${2:-proxy.yaml}" > "$WORK/proxy.yaml"
    start proxy "$PROXY_CORE" "$BINARY" --config "$WORK/proxy.yaml"
}

# --- figures

# CPU time of a family so far, in clock ticks.
ticks() {
    local pid sum=0 stat
    for pid in $(family "$1"); do
        stat=$(< "/proc/$pid/stat")
        set -- ${stat##*) }
        sum=$(( sum + ${12} + ${13} ))
    done
    echo "$sum"
}

# Resident memory of a family, in kB; pages that processes share count once.
resident() {
    local pid sum=0 kb
    for pid in $(family "$1"); do
        kb=$(awk '/^Pss:/ {print $2}' "/proc/$pid/smaps_rollup")
        sum=$(( sum + kb ))
    done
    echo "$sum"
}

median() { sort -n | awk '{value[NR] = $1} END {print value[int((NR + 1) / 2)]}'; }

# cpu_round NAME PORT [WRK OPTIONS]: µs of CPU a request, and requests a second.
cpu_round() {
    local name=$1 url=http://127.0.0.1:$2/ pid=${PIDS[$1]} before after requests
    shift 2
    taskset -c "$LOAD_CORE" wrk -t 1 -c "$CONNECTIONS" -d 1s "$@" "$url" > /dev/null
    before=$(ticks "$pid")
    taskset -c "$LOAD_CORE" wrk -t 1 -c "$CONNECTIONS" -d "${SECONDS_EACH}s" "$@" "$url" > "$WORK/wrk.txt"
    after=$(ticks "$pid")
    if grep -q 'Non-2xx' "$WORK/wrk.txt"; then note "$name answered with errors:"; cat "$WORK/wrk.txt" >&2; return 1; fi
    requests=$(awk '/requests in/ {print $1}' "$WORK/wrk.txt")
    awk -v ticks=$(( after - before )) -v hz="$(getconf CLK_TCK)" -v requests="$requests" -v seconds="$SECONDS_EACH" \
        'BEGIN {printf "%.2f %.0f\n", ticks / hz * 1e6 / requests, requests / seconds}'
}

measure_cpu() {
    local round
    start_nginx 1000000r/s "100000 nodelay"
    start_proxy 1000000/s
    first_answer "$NGINX_PORT"
    first_answer "$PROXY_PORT"
    for (( round = 1; round <= ROUNDS; round++ )); do
        note "CPU per request, round $round of $ROUNDS"
        cpu_round nginx "$NGINX_PORT" >> "$WORK/nginx.cpu"
        cpu_round proxy "$PROXY_PORT" >> "$WORK/proxy.cpu"
    done
    for name in nginx proxy; do
        FIGURES[$name.cpu]=$(cut -d ' ' -f 1 "$WORK/$name.cpu" | median)
        FIGURES[$name.rate]=$(cut -d ' ' -f 2 "$WORK/$name.cpu" | median)
        stop "$name"
    done
}

# A JSON body forwarded by both as it is, and by us to where its model is served.
measure_bodies() {
    local bytes way round
    for bytes in 2000 200000; do
        export BODY_BYTES=$bytes
        for (( round = 1; round <= ROUNDS; round++ )); do
            note "bodies of $bytes bytes, round $round of $ROUNDS"
            for way in nginx proxy models; do
                case $way in
                    nginx) start_nginx 1000000r/s "100000 nodelay"; first_answer "$NGINX_PORT"
                        cpu_round nginx "$NGINX_PORT" -s "$HERE/chat.lua" >> "$WORK/$way.$bytes" ;;
                    proxy) start_proxy 1000000/s; first_answer "$PROXY_PORT"
                        cpu_round proxy "$PROXY_PORT" -s "$HERE/chat.lua" >> "$WORK/$way.$bytes" ;;
                    models) start_proxy 1000000/s models.yaml; sleep 0.5
                        cpu_round proxy "$PROXY_PORT" -s "$HERE/chat.lua" >> "$WORK/$way.$bytes" ;;
                esac
                stop "${way/models/proxy}"
            done
        done
        for way in nginx proxy models; do
            FIGURES[$way.$bytes]=$(cut -d ' ' -f 1 "$WORK/$way.$bytes" | median)
        done
    done
}

# waiting NAME: how many requests are in line, as the server itself tells; 0 when it is too busy to tell.
waiting() {
    local line count=0 port=$ADMIN_PORT path=/metrics
    if [[ $1 == nginx ]]; then port=$NGINX_PORT path=/status; fi
    if { exec 3<> "/dev/tcp/127.0.0.1/$port"; } 2> /dev/null; then
        printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nConnection: close\r\n\r\n' "$path" "$port" >&3
        while read -r -t 2 line <&3; do
            case $line in
                "Active connections: "*) line=${line#Active connections: }; count=${line%%[!0-9]*} ;;
                cooldown_upstream_waiting_requests*) line=${line##* }; count=${line%%[!0-9]*} ;;
            esac
        done 2> /dev/null
        exec 3>&-
    fi
    echo "${count:-0}"
}

measure_memory() {
    local name port pid idle tries load
    start_nginx 10r/s "20000"
    start_proxy 10/s
    for name in nginx proxy; do
        note "memory of $WAITING waiting requests: $name"
        if [[ $name == nginx ]]; then port=$NGINX_PORT; else port=$PROXY_PORT; fi
        first_answer "$port"
        pid=${PIDS[$name]}
        idle=$(resident "$pid")
        FIGURES[$name.idle]=$(awk -v kb="$idle" 'BEGIN {printf "%.1f", kb / 1024}')
        taskset -c "$LOAD_CORE" wrk -t 1 -c "$WAITING" -d 60s --timeout 60s -s "$HERE/post.lua" \
            "http://127.0.0.1:$port/" > /dev/null 2>&1 &
        load=$!
        for (( tries = 0; tries < 100; tries++ )); do
            sleep 0.2
            if (( $(waiting "$name") >= WAITING - 50 )); then break; fi
        done
        sleep 1
        FIGURES[$name.waiting]=$(awk -v kb="$(resident "$pid")" -v idle="$idle" -v waiting="$(waiting "$name")" \
            'BEGIN {if (waiting < '"$(( WAITING - 100 ))"') print "-"; else printf "%.2f", (kb - idle) / waiting}')
        kill "$load" 2> /dev/null || true
        wait "$load" 2> /dev/null || true
        stop "$name"
    done
}

measure_start() {
    local round began name port
    for name in nginx proxy; do
        note "start to first request: $name"
        for (( round = 0; round < 11; round++ )); do
            began=${EPOCHREALTIME/./}
            if [[ $name == nginx ]]; then start_nginx 1000000r/s "100000 nodelay"; port=$NGINX_PORT
            else start_proxy 1000000/s; port=$PROXY_PORT; fi
            first_answer "$port"
            echo $(( ${EPOCHREALTIME/./} - began )) >> "$WORK/$name.start"
            stop "$name"
        done
        FIGURES[$name.start]=$(awk -v us="$(median < "$WORK/$name.start")" 'BEGIN {printf "%.0f", us / 1000}')
    done
}

table() {
    row() { printf '  %-52s %12s %16s\n' "$@"; }
    echo
    echo "  $("$BINARY" version | head -n 1), $(nginx -v 2>&1 | sed 's/.*: //'), $(nproc) cores:$(
        awk -F: '/model name/ {print $2; exit}' /proc/cpuinfo), Linux $(uname -r)"
    row "" nginx "cooldown-proxy"
    row "CPU per proxied request, µs" "${FIGURES[nginx.cpu]}" "${FIGURES[proxy.cpu]}"
    row "requests a second on one core" "${FIGURES[nginx.rate]}" "${FIGURES[proxy.rate]}"
    row "CPU, JSON body of 2 kB forwarded, µs" "${FIGURES[nginx.2000]}" "${FIGURES[proxy.2000]}"
    row "CPU, JSON body of 2 kB routed by its model, µs" "" "${FIGURES[models.2000]}"
    row "CPU, JSON body of 200 kB forwarded, µs" "${FIGURES[nginx.200000]}" "${FIGURES[proxy.200000]}"
    row "CPU, JSON body of 200 kB routed by its model, µs" "" "${FIGURES[models.200000]}"
    row "memory at rest, MB" "${FIGURES[nginx.idle]}" "${FIGURES[proxy.idle]}"
    row "memory per waiting request ($WAITING waiting), kB" "${FIGURES[nginx.waiting]}" "${FIGURES[proxy.waiting]}"
    row "start to first proxied request, ms" "${FIGURES[nginx.start]}" "${FIGURES[proxy.start]}"
    echo
    echo "  $CONNECTIONS keep-alive connections by wrk, one core for the proxy, another for wrk and the upstream; median of"
    echo "  $ROUNDS rounds of $SECONDS_EACH s. Both pace (a limit that is never reached), both keep upstream connections alive,"
    echo "  neither writes access lines; cooldown-proxy counts its metrics."
}

main
