#!/bin/bash
# Starts one RabbitMQ node. Environment, all optional:
#   RABBITMQ_DEFAULT_USER, RABBITMQ_DEFAULT_PASS  the only account (default hbshim / hbshim)
#   HBSHIM_HEARTBEAT                              T the server suggests, in seconds (default 4)
#   HBSHIM_TLS_NAMES                              further subjectAltName entries, "DNS:x,IP:y"
#   HBSHIM_CLUSTER                                names of all nodes of its cluster, "rabbit@a rabbit@b"
#   HBSHIM_ERLANG_COOKIE                          the secret that the nodes of a cluster share
set -euo pipefail

user="${RABBITMQ_DEFAULT_USER:-hbshim}"
password="${RABBITMQ_DEFAULT_PASS:-hbshim}"
heartbeat="${HBSHIM_HEARTBEAT:-4}"
if ! [[ "$heartbeat" =~ ^[0-9]+$ ]]; then
  echo "entrypoint: HBSHIM_HEARTBEAT must be whole seconds, not '$heartbeat'" >&2
  exit 64
fi

# A cookie of this container's own, unless its cluster has one. `docker restart` keeps it: the data directory belongs to it.
cookie=/var/lib/rabbitmq/.erlang.cookie
if ! [ -s "$cookie" ]; then
  (umask 077; printf '%s' "${HBSHIM_ERLANG_COOKIE:-$(openssl rand -hex 24)}" > "$cookie")
  chown rabbitmq:rabbitmq "$cookie"
fi

tls=/etc/rabbitmq/tls
if ! [ -s "$tls/server.pem" ]; then
  mkdir -p "$tls"
  names="DNS:localhost,DNS:rabbitmq,IP:127.0.0.1${HBSHIM_TLS_NAMES:+,$HBSHIM_TLS_NAMES}"
  new_key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days 30)
  openssl req -x509 "${new_key[@]}" -subj "/CN=hbshim test CA" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$tls/ca.key" -out "$tls/ca.pem" 2>/dev/null
  openssl req "${new_key[@]}" -subj "/CN=rabbitmq" \
    -keyout "$tls/server.key" -out "$tls/server.csr" 2>/dev/null
  openssl x509 -req -sha256 -days 30 -in "$tls/server.csr" -CA "$tls/ca.pem" -CAkey "$tls/ca.key" \
    -CAcreateserial -out "$tls/server.pem" 2>/dev/null \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names")
  rm -f "$tls/ca.key" "$tls/server.csr"
  chown -R rabbitmq:rabbitmq "$tls"
fi

mkdir -p /etc/rabbitmq/conf.d
(umask 077; cat > /etc/rabbitmq/conf.d/90-start.conf <<CONF
heartbeat = $heartbeat
default_user = $user
default_pass = $password
CONF
)
chown rabbitmq:rabbitmq /etc/rabbitmq/conf.d/90-start.conf
if [ -n "${HBSHIM_CLUSTER:-}" ]; then
  # A node that does not answer is taken for dead after 8 s, not 60: tests wait for it.
  {
    echo "cluster_formation.peer_discovery_backend = classic_config"
    number=0
    for node in $HBSHIM_CLUSTER; do
      number=$((number + 1))
      echo "cluster_formation.classic_config.nodes.$number = $node"
    done
    echo "cluster_partition_handling = pause_minority"
    echo "net_ticktime = 8"
  } > /etc/rabbitmq/conf.d/91-cluster.conf
fi
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq

# Debian's wrapper in /usr/sbin sends the log into a file; the script behind it keeps stdout. The
# official image has no wrapper.
server=/usr/lib/rabbitmq/bin/rabbitmq-server
[ -x "$server" ] || server=$(command -v rabbitmq-server)
cd /var/lib/rabbitmq
exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups \
  env HOME=/var/lib/rabbitmq "$server"
