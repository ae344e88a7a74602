#!/bin/sh
# Run a command as a driver of the Ray cluster: its container joins as a node without CPUs, because a driver needs a
# node of its own on its host, and leaves at the end. Otherwise the cluster would wait a minute for a lost node.
set -eu
ray start --address="$RAY_ADDRESS" --num-cpus=0 --node-manager-port=6380 --object-manager-port=6381 \
  --runtime-env-agent-port=6382 --dashboard-agent-grpc-port=6383 --metrics-export-port=8080 \
  --min-worker-port=20000 --max-worker-port=20999 --object-store-memory=500000000 --disable-usage-stats >&2
trap : TERM INT  # signals are for the command; we go on to leave the cluster

# A node ends with the head, a minute after it, and never joins a new one. Then the command must end too, so that a
# service starts again. The inner shell becomes the command, in the foreground, with our stdin.
node='grep -qsx raylet /proc/[0-9]*/comm'
watch="while kill -0 \$\$ 2>/dev/null; do
  $node || { echo 'driver.sh: the Ray node ended' >&2; kill \$\$; break; }
  sleep 5
done"
code=0
sh -c "($watch) >/dev/null & "'exec "$@"' sh "$@" || code=$?
if [ "$code" = 0 ] && ! $node; then code=1; fi
ray stop >&2 || true
exit "$code"
