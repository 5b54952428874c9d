#!/usr/bin/env bash
# Real servers for the integration tests: redis-server (Debian) and Apache Kafka in KRaft mode, on loopback.
#
#   services.sh start [DIR [SETS]]   fetch what is absent, start both (SETS times), wait until they answer
#   services.sh stop [DIR]     end what `start` started in DIR, and nothing else
#   services.sh status [DIR]   say what runs; exit code 1 where something does not
#   services.sh env [DIR [SETS]]     print the variables that point the tests at them
#   services.sh fetch          fetch what is absent, start nothing
#   services.sh cluster DIR    start three brokers, kafka-1 to kafka-3, that keep every partition three times
#   services.sh halt DIR NAME [SIGNAL]   end one server of DIR (default TERM, then KILL after 30 s); its data stay
#   services.sh resume DIR NAME          start a server of DIR again on its data
#
# DIR keeps data, logs and pid files; default .cache/services of the repository. Kafka's jars (47, 43 MB) are
# kept in .cache/kafka-VERSION. Ports: TOLLGATE_SERVICES_REDIS_PORT (16379) and the one above it for TLS,
# TOLLGATE_SERVICES_KAFKA_PORT (19092) and the two above it for Kafka's controller and for TLS with SASL. Over TLS,
# Redis knows user "tollgate", Kafka "p" (PLAIN), "s256" and "s512" (SCRAM); the password of all is "secret".
# Broker N of a cluster has port TOLLGATE_SERVICES_KAFKA_PORT + 2N, its controller the one above; no TLS.
# Set N > 1 lies in DIR/N and has ports that are 100 (N-1) higher; of its doors with TLS nobody is told.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
command=${1:-}
dir=${2:-$root/.cache/services}
kafka_version=4.2.0
jars=$root/.cache/kafka-$kafka_version
redis_port=${TOLLGATE_SERVICES_REDIS_PORT:-16379}
kafka_port=${TOLLGATE_SERVICES_KAFKA_PORT:-19092}
redis_tls_port=$((redis_port + 1))
controller_port=$((kafka_port + 1))
kafka_tls_port=$((kafka_port + 2))
sets=${3:-1}
patience=60 # seconds until a server must answer

say() { printf 'services: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# started_at PID: when the process began, so that a pid used again by another process is not taken for ours.
started_at() { ps -o lstart= -p "$1" 2> /dev/null | tr -s ' ' | sed 's/^ //; s/ $//' || true; }

remember() { printf '%s\n%s\n' "$2" "$(started_at "$2")" > "$dir/$1.pid"; }

# running NAME: print the pid of what we started under this name, if it still runs.
running() {
  [ -f "$dir/$1.pid" ] || return 1
  local pid began
  { read -r pid && read -r began; } < "$dir/$1.pid" || return 1
  [ -n "$began" ] && [ "$(started_at "$pid")" = "$began" ] || return 1
  printf '%s\n' "$pid"
}

# answers PORT: something listens there.
answers() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

fail() { # NAME WHAT
  tail -n 20 "$dir/$1.log" >&2
  die "$1 $2, see $dir/$1.log"
}

await() { # NAME TEST...
  local name=$1 end=$((SECONDS + patience))
  shift
  until "$@"; do
    running "$name" > /dev/null || fail "$name" "ended while starting"
    [ "$SECONDS" -lt "$end" ] || fail "$name" "does not answer after $patience s"
    sleep 0.2
  done
}

redis_pong() { [ "$(redis-cli -p "$redis_port" ping 2> /dev/null)" = PONG ]; }

kafka_ready() { grep -q 'Kafka Server started' "$dir/kafka.log" && answers "$kafka_port"; }

# Brokers of a cluster, by number.
brokers='1 2 3'
broker_port() { echo $((kafka_port + 2 * $1)); }
broker_ready() { grep -q 'Kafka Server started' "$dir/kafka-$1.log" && answers "$(broker_port "$1")"; }

install_redis() {
  command -v redis-server > /dev/null && command -v redis-cli > /dev/null && return
  [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null ||
    die "redis-server is absent: install it (Debian: apt-get install redis-server)"
  say "installing redis-server"
  DEBIAN_FRONTEND=noninteractive apt-get update -qq
  # The package would start a server of its own; ours is started here, on its own port.
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -qq --no-install-recommends redis-server > /dev/null
}

fetch_kafka() {
  command -v java > /dev/null ||
    die "java is absent: install Java 17 or later (Debian: apt-get install openjdk-17-jre-headless)"
  [ -f "$jars/complete" ] && return
  command -v mvn > /dev/null || die "mvn is absent: install Maven (Debian: apt-get install maven)"
  say "fetching Apache Kafka $kafka_version (43 MB) into $jars"
  rm -rf "$jars"
  mkdir -p "$jars"
  mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars"
  ls "$jars"/kafka_2.13-$kafka_version.jar > /dev/null || die "Maven copied no kafka_2.13-$kafka_version.jar"
  touch "$jars/complete"
}

# certify makes the certificate of both servers, which is its own authority.
certify() {
  [ -f "$dir/server.pem" ] && return
  command -v openssl > /dev/null || die "openssl is absent: install it (Debian: apt-get install openssl)"
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost \
    -addext 'subjectAltName=IP:127.0.0.1,DNS:localhost' -keyout "$dir/key.pem" -out "$dir/ca.pem" 2> "$dir/openssl.log" ||
    { cat "$dir/openssl.log" >&2; die "openssl made no certificate"; }
  rm -rf "$dir/kafka" # its users are made with its folder
  cat "$dir/key.pem" "$dir/ca.pem" > "$dir/server.pem"
}

start_redis() {
  if running redis > /dev/null; then say "redis runs already"; return; fi
  for port in "$redis_port" "$redis_tls_port"; do
    ! answers "$port" || die "port $port is taken: set TOLLGATE_SERVICES_REDIS_PORT"
  done
  mkdir -p "$dir/redis"
  redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$dir/redis" --appendonly yes --save '' \
    --maxmemory-policy noeviction --tls-port "$redis_tls_port" --tls-cert-file "$dir/ca.pem" \
    --tls-key-file "$dir/key.pem" --tls-ca-cert-file "$dir/ca.pem" --tls-auth-clients no \
    --user tollgate on '>secret' '~*' '&*' +@all > "$dir/redis.log" 2>&1 < /dev/null &
  remember redis $!
  await redis redis_pong
}

kafka_config() {
  local module=org.apache.kafka.common.security
  cat > "$dir/kafka.properties" << END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$controller_port,SECURE://127.0.0.1:$kafka_tls_port
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port,SECURE://127.0.0.1:$kafka_tls_port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location=$dir/server.pem
listener.name.secure.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.secure.plain.sasl.jaas.config=$module.plain.PlainLoginModule required user_p="secret";
listener.name.secure.scram-sha-256.sasl.jaas.config=$module.scram.ScramLoginModule required;
listener.name.secure.scram-sha-512.sasl.jaas.config=$module.scram.ScramLoginModule required;
log.dirs=$dir/kafka
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
END
}

start_kafka() {
  if running kafka > /dev/null; then say "kafka runs already"; return; fi
  for port in "$kafka_port" "$controller_port" "$kafka_tls_port"; do
    ! answers "$port" || die "port $port is taken: set TOLLGATE_SERVICES_KAFKA_PORT"
  done
  mkdir -p "$dir/kafka"
  kafka_config
  if [ ! -f "$dir/kafka/meta.properties" ]; then
    local id
    id=$(java -cp "$jars/*" kafka.tools.StorageTool random-uuid 2> /dev/null | tail -n 1)
    java -cp "$jars/*" kafka.tools.StorageTool format -t "$id" -c "$dir/kafka.properties" \
      --add-scram 'SCRAM-SHA-256=[name=s256,password=secret]' \
      --add-scram 'SCRAM-SHA-512=[name=s512,password=secret]' > "$dir/kafka-format.log" 2>&1 ||
      { tail -n 20 "$dir/kafka-format.log" >&2; die "format of Kafka's folder failed"; }
  fi
  java -Xmx512m -Xms256m -XX:+UseG1GC -Dorg.slf4j.simpleLogger.showDateTime=true -cp "$jars/*" kafka.Kafka \
    "$dir/kafka.properties" > "$dir/kafka.log" 2>&1 < /dev/null &
  remember kafka $!
  await kafka kafka_ready
}

# broker_config NUMBER: a replica is dropped after 3 s of silence and a broker after 6, so that a lost leader is
# replaced in seconds, as on a cluster that is tuned for it.
broker_config() {
  local voters='' n
  for n in $brokers; do voters+=${voters:+,}$n@127.0.0.1:$(($(broker_port "$n") + 1)); done
  cat > "$dir/kafka-$1.properties" << END
process.roles=broker,controller
node.id=$1
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$(broker_port "$1"),CONTROLLER://127.0.0.1:$(($(broker_port "$1") + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$(broker_port "$1")
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/kafka-$1
num.partitions=4
default.replication.factor=3
min.insync.replicas=2
offsets.topic.num.partitions=4
offsets.topic.replication.factor=3
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
replica.lag.time.max.ms=3000
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
END
}

# launch_broker NUMBER: start one broker of the cluster on its data, and do not wait for it.
launch_broker() {
  if running "kafka-$1" > /dev/null; then say "kafka-$1 runs already"; return; fi
  # Beside each other on few cores: the first compiler is quick to start, and nothing is measured here.
  java -Xmx384m -Xms128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.showDateTime=true \
    -cp "$jars/*" kafka.Kafka "$dir/kafka-$1.properties" > "$dir/kafka-$1.log" 2>&1 < /dev/null &
  remember "kafka-$1" $!
}

start_cluster() {
  local n id=''
  for n in $brokers; do
    ! answers "$(broker_port "$n")" || die "port $(broker_port "$n") is taken: set TOLLGATE_SERVICES_KAFKA_PORT"
    broker_config "$n"
  done
  for n in $brokers; do
    [ ! -f "$dir/kafka-$n/meta.properties" ] || continue
    mkdir -p "$dir/kafka-$n"
    [ -n "$id" ] || id=$(java -cp "$jars/*" kafka.tools.StorageTool random-uuid 2> /dev/null | tail -n 1)
    java -XX:TieredStopAtLevel=1 -cp "$jars/*" kafka.tools.StorageTool format -t "$id" \
      -c "$dir/kafka-$n.properties" > "$dir/kafka-format.log" 2>&1 ||
      { tail -n 20 "$dir/kafka-format.log" >&2; die "format of the folder of kafka-$n failed"; }
  done
  for n in $brokers; do launch_broker "$n"; done
  for n in $brokers; do await "kafka-$n" broker_ready "$n"; done
}

# resume NAME: start one server again.
resume() {
  case $1 in
    redis) start_redis ;;
    kafka) start_kafka ;;
    kafka-[123]) launch_broker "${1#kafka-}"; await "$1" broker_ready "${1#kafka-}" ;;
    *) die "there is no server $1: want redis, kafka, kafka-1, kafka-2 or kafka-3" ;;
  esac
}

stop_one() { # NAME [SIGNAL]
  local name=$1 pid
  if pid=$(running "$name"); then
    kill -s "${2:-TERM}" "$pid"
    for _ in $(seq 150); do
      running "$name" > /dev/null || break
      sleep 0.2
    done
    if running "$name" > /dev/null; then
      say "$name did not stop in 30 s: killed"
      kill -9 "$pid"
    fi
    say "$name stopped"
  fi
  rm -f "$dir/$name.pid"
}

# further N: the start of set N, in a process of its own.
further() {
  TOLLGATE_SERVICES_REDIS_PORT=$((redis_port + 100 * ($1 - 1))) \
    TOLLGATE_SERVICES_KAFKA_PORT=$((kafka_port + 100 * ($1 - 1))) "$here/services.sh" start "$dir/$1"
}

# addresses PORT: those of a server in every set, with commas between them.
addresses() {
  local n list=127.0.0.1:$1
  for ((n = 2; n <= sets; n++)); do list+=,127.0.0.1:$(($1 + 100 * (n - 1))); done
  echo "$list"
}

case $command in
  start)
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    install_redis
    fetch_kafka
    certify
    start_redis
    start_kafka
    say "redis at 127.0.0.1:$redis_port, kafka at 127.0.0.1:$kafka_port, data in $dir"
    for ((n = 2; n <= sets; n++)); do further "$n"; done
    ;;
  fetch)
    install_redis
    fetch_kafka
    ;;
  stop)
    # The last broker of a cluster would wait for a quorum before it ends, and what it holds is thrown away.
    for name in kafka-1 kafka-2 kafka-3; do stop_one "$name" KILL; done
    stop_one kafka
    stop_one redis
    for set in "$dir"/[2-9]; do [ ! -d "$set" ] || "$here/services.sh" stop "$set"; done
    ;;
  cluster)
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    fetch_kafka
    start_cluster
    say "kafka at 127.0.0.1:$(broker_port 1), :$(broker_port 2) and :$(broker_port 3), data in $dir"
    ;;
  halt)
    stop_one "${3:?name a server}" "${4:-TERM}"
    ;;
  resume)
    dir=$(cd "$dir" && pwd)
    resume "${3:?name a server}"
    ;;
  status)
    code=0
    for name in redis kafka; do
      if pid=$(running "$name"); then echo "$name runs (pid $pid)"; else echo "$name does not run"; code=1; fi
    done
    exit $code
    ;;
  env)
    echo "TOLLGATE_TEST_REDIS=$(addresses "$redis_port")"
    echo "TOLLGATE_TEST_KAFKA=$(addresses "$kafka_port")"
    echo "TOLLGATE_TEST_REDIS_TLS=127.0.0.1:$redis_tls_port"
    echo "TOLLGATE_TEST_KAFKA_TLS=127.0.0.1:$kafka_tls_port"
    echo "TOLLGATE_TEST_CA=$(cd "$dir" && pwd)/ca.pem"
    ;;
  *)
    sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
