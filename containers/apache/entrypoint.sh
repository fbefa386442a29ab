#!/bin/bash
# Starts one httpd, or one uvicorn, in the foreground. Environment, all optional:
#   SERVER          apache (default) | uvicorn: an ASGI application, and none of what follows but CODE
#   ASGI_APP        the application, as uvicorn is given it; ASGI_LOOP: asyncio (default) | uvloop
#   MPM             prefork (default) | event
#   WSGI_MODE       embedded (default) | daemon
#   WSGI_INTERPRETER  main (default) | sub: an interpreter of the application's own
#   WSGI_PROCESSES  number of processes that run Python (default 1)
#   WSGI_THREADS    threads of each such process; prefork embedded has one by nature (default 1)
#   WSGI_SCRIPT     path of the WSGI script; CODE: directory put on Python's path
# Everything else in the environment reaches the WSGI process as it is, as os.environ.
set -euo pipefail

fail() { echo "entrypoint: $*" >&2; exit 64; }

case "$SERVER" in
  apache) ;;
  uvicorn)
    cd "$CODE"
    exec /opt/venv/bin/uvicorn "$ASGI_APP" --host 0.0.0.0 --port 80 --loop "$ASGI_LOOP" \
      --lifespan off --no-access-log ;;
  *) fail "SERVER must be apache or uvicorn, not '$SERVER'" ;;
esac
case "$MPM" in
  prefork) mpm=MPM_PREFORK ;;
  event) mpm=MPM_EVENT ;;
  *) fail "MPM must be prefork or event, not '$MPM'" ;;
esac
case "$WSGI_MODE" in
  embedded) mode=WSGI_EMBEDDED ;;
  daemon) mode=WSGI_DAEMON ;;
  *) fail "WSGI_MODE must be embedded or daemon, not '$WSGI_MODE'" ;;
esac
case "$WSGI_INTERPRETER" in
  main) WSGI_GROUP='%{GLOBAL}' ;;
  sub) WSGI_GROUP=cell ;;
  *) fail "WSGI_INTERPRETER must be main or sub, not '$WSGI_INTERPRETER'" ;;
esac
[[ "$WSGI_PROCESSES" =~ ^[1-9][0-9]*$ ]] || fail "WSGI_PROCESSES must be 1 or more"
[[ "$WSGI_THREADS" =~ ^[1-9][0-9]*$ ]] || fail "WSGI_THREADS must be 1 or more"
[ -r "$WSGI_SCRIPT" ] || fail "no WSGI script at $WSGI_SCRIPT: mount the code at $CODE"

MOD_WSGI=$(echo /opt/venv/lib/python3*/site-packages/mod_wsgi/server/mod_wsgi-py3*.so)
HTTP_THREADS=$WSGI_THREADS
HTTP_WORKERS=$((WSGI_PROCESSES * HTTP_THREADS))
export MOD_WSGI WSGI_GROUP HTTP_THREADS HTTP_WORKERS WSGI_PROCESSES WSGI_THREADS WSGI_SCRIPT CODE

mkdir -p /run/apache2
rm -f /run/apache2/apache2.pid
exec apache2 -f /etc/apache2/hbshim.conf -D FOREGROUND -D "$mpm" -D "$mode"
