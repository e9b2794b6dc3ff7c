# shellcheck shell=bash
# Servers that scripts start and stop: nats-server, PostgreSQL, notify-server.
# Sourced behind lib.sh, not run. What is started is in `pid` and `address` by the name that it was given.

declare -A pid=() address=()
folder=""
secret=""
nats=""

# How long a process may take to start, in tenths of a second.
readonly SERVICE_START=300

begin_services() {
  command -v nats-server >/dev/null || fail "nats-server is missing; 'scripts/install-test-tools servers' installs it"
  command -v openssl >/dev/null || fail "openssl is missing"
  command -v curl >/dev/null || fail "curl is missing"
  trap end_services EXIT
  trap 'exit 130' INT TERM
  folder=$(mktemp -d)
  secret=$(openssl rand -base64 32)
}

# The release build, from the files as they are.
build_release() {
  local binary=$TARGET_DIR/release/notify-server
  if [[ ! -x $binary || -n $(find src migrations web docs/asyncapi.yaml Cargo.toml Cargo.lock -newer "$binary" -print -quit) ]]; then
    scripts/build-release
  fi
}

end_services() {
  local status=$? name
  for name in "${!pid[@]}"; do
    # Asked by TERM, PostgreSQL would wait for its clients.
    if [[ $name == postgres ]]; then stop_service postgres INT; else stop_service "$name"; fi
  done
  [[ -z $folder ]] || rm -rf "$folder"
  exit "$status"
}

# Stops what has a name, and waits for its end.
stop_service() {
  local name=$1 signal=${2:-TERM}
  [[ -n ${pid[$name]:-} ]] || return 0
  kill "-$signal" "${pid[$name]}" 2>/dev/null || true
  wait "${pid[$name]}" 2>/dev/null || true
  unset "pid[$name]"
}

# Again on the same port, and with the same store, where it was there before.
start_nats() {
  local port=-1
  [[ -z $nats ]] || port=${nats##*:}
  : >"$folder/nats.log"
  nats-server --addr 127.0.0.1 --port "$port" --jetstream --store_dir "$folder/nats" --log "$folder/nats.log" >/dev/null 2>&1 &
  pid[nats]=$!
  wait_for_address nats 'client connections on \K127\.0\.0\.1:[0-9]+'
  nats=nats://${address[nats]}
}

# A cluster of its own, which trusts everybody on this machine.
start_postgres() {
  local bin options="-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c port=$1"
  for bin in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -Vr) "$(dirname "$(command -v initdb || echo /-)")"; do
    [[ ! -x $bin/initdb ]] || break
  done
  [[ -x $bin/initdb ]] || fail "PostgreSQL is missing; 'scripts/install-test-tools servers' installs it"
  local run=()
  # It refuses to run as root.
  if [[ $(id -u) == 0 ]]; then
    chown nobody "$folder"
    chmod 755 "$folder"
    run=(setpriv --reuid=nobody --clear-groups --)
  fi
  mkdir -p "$folder/postgres"
  [[ $(id -u) != 0 ]] || chown nobody "$folder/postgres"
  [[ -e $folder/postgres/PG_VERSION ]] ||
    "${run[@]}" "$bin/initdb" --pgdata "$folder/postgres" --username notify --auth trust --no-sync >"$folder/initdb.log" 2>&1 ||
    fail "initdb: $(tail -n 5 "$folder/initdb.log")"
  : >"$folder/postgres.log"
  # shellcheck disable=SC2086
  "${run[@]}" "$bin/postgres" -D "$folder/postgres" $options >>"$folder/postgres.log" 2>&1 &
  pid[postgres]=$!
  wait_for_address postgres 'listening on IPv4 address "127.0.0.1", port \K[0-9]+'
  address[postgres]=127.0.0.1:${address[postgres]}
  local waited=0
  until grep -q 'ready to accept connections' "$folder/postgres.log"; do
    ((++waited < SERVICE_START)) || fail "PostgreSQL is not ready: $(tail -n 5 "$folder/postgres.log")"
    sleep 0.1
  done
}

# The tables of the shipped configuration in a database.
migrate() {
  DATABASE_URL=$1 JWT_SECRET=$secret "$TARGET_DIR/release/notify-server" migrate &>"$folder/migrate.log" ||
    fail "migrate: $(cat "$folder/migrate.log")"
}

# With the shipped configuration and further settings, each NAME=VALUE. Where it was there before, on the same port.
start_server() {
  local name=$1 port=0 scheme=http waited=0
  shift
  [[ -z ${address[$name]:-} ]] || port=${address[$name]##*:}
  [[ "$*" != *TLS__CERT_FILE* ]] || scheme=https
  : >"$folder/$name.log"
  env JWT_SECRET="$secret" NATS_URL="$nats" NOTIFY_SERVER__DATA_DIR="$folder/data-$name" "$@" \
    "$TARGET_DIR/release/notify-server" serve --host 127.0.0.1 --port "$port" --log-format json \
    >/dev/null 2>>"$folder/$name.log" &
  pid[$name]=$!
  wait_for_address "$name" '"address":"\K127\.0\.0\.1:[0-9]+'
  until curl --silent --fail --insecure --output /dev/null "$scheme://${address[$name]}/ready"; do
    ((++waited < SERVICE_START)) || fail "$name is not ready: $(curl --silent --insecure "$scheme://${address[$name]}/ready")"
    sleep 0.1
  done
}

# With port 0, only the process knows; it writes it to its log.
wait_for_address() {
  local name=$1 pattern=$2 waited found
  for ((waited = 0; waited < SERVICE_START; waited++)); do
    if found=$(grep -oPm 1 "$pattern" "$folder/$name.log" 2>/dev/null); then
      address[$name]=$found
      return
    fi
    kill -0 "${pid[$name]}" 2>/dev/null || break
    sleep 0.1
  done
  fail "$name did not start: $(tail -n 5 "$folder/$name.log" 2>/dev/null)"
}
