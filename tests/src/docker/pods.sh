# Pods of Podman, and containers that share namespaces by name: of `podman pod create` and `--ipc`, `--uts`, `--pid container:`.
podman() { command podman --runtime "$RT" "$@"; }
create() { podman pod create --network none --cgroup-parent "$CGROUP" "$@" >/dev/null; }
alone() { podman run --network none --cgroup-parent "$CGROUP" "$@"; }
in_pod() { podman run --pod "$@"; }
said() { podman logs "$1" 2>&1 | grep -q "$2"; }
codes() { podman inspect -f '{{.Name}} {{.State.Status}} {{.State.ExitCode}}' "$@"; }
states() { codes "$@"; podman pod ps --format '{{.Name}} {{.Status}} {{.NumberOfContainers}}'; }
# Which namespaces two containers have in common, and what they are called.
of() { podman exec "$1" sh -c 'cd /proc/self/ns; for kind in ipc uts net pid; do echo "$kind $(readlink $kind)"; done; hostname'; }
common() {
  of "$1" >"$FOLDER/one"
  of "$2" >"$FOLDER/other"
  grep -F -x -f "$FOLDER/one" "$FOLDER/other" | cut -d ' ' -f 1 | sed 's/^[0-9a-f]\{12\}$/ID/'
}
LOOP='trap "echo term; exit 3" TERM; echo up; while :; do sleep 0.1; done'
WAITS='trap "exit 4" TERM; sleep 1000 & wait'
create --name pod
step first in_pod pod --rm busybox sh -c 'hostname; id -u; ps | grep -c "[c]atatonit"'
in_pod pod -d --name a busybox sh -c "$LOOP" >/dev/null
in_pod pod -d --name b --memory 64m --pids-limit 40 -u 5 busybox sh -c "$WAITS" >/dev/null
until_ok said a up
step states states a b
step common common a b
step queue sh -c 'podman exec a touch /dev/mqueue/queue; podman exec b ls /dev/mqueue'
step shm sh -c 'podman exec a sh -c "echo there >/dev/shm/file"; podman exec b cat /dev/shm/file'
step processes podman exec b sh -c 'ps | grep -c "[s]leep 1000"; ps | grep -c "[c]atatonit"; kill -0 1 && echo own'
step exec podman exec -e A=b a sh -c 'echo $A; exit 5'
step top sh -c 'podman pod top pod pid >/dev/null 2>&1; echo $?'
step pause sh -c 'podman pod pause pod >/dev/null; podman inspect -f "{{.State.Status}}" a b; podman pod unpause pod >/dev/null'
step rm-one sh -c 'podman rm -f -t 0 b'
step after-rm states a
# What the containers do at their end they do, although the one of the pod itself is quicker.
step stop sh -c 'podman pod stop pod | grep -c .'
step stopped codes a
step logs podman logs a
step start sh -c 'podman pod start pod | grep -c .'
until_ok podman exec a true
step started states a
step restart sh -c 'podman pod restart pod | grep -c .'
until_ok podman exec a true
step restarted states a
step kill sh -c 'podman pod kill pod | grep -c .; podman wait a'
step killed states a
step rm sh -c 'podman pod rm -f pod | grep -c .'
for share in net,pid,uts net,ipc net; do
  create --name pod --share "$share"
  in_pod pod -d --name a busybox sh -c "$LOOP" >/dev/null
  in_pod pod -d --name b busybox sh -c "$WAITS" >/dev/null
  until_ok said a up
  step "share-$share" common a b
  step "seen-$share" podman exec a sh -c 'ps | grep -c "[s]leep 1000"'
  podman pod rm -f -t 0 pod >/dev/null
done
# Without the container that a pod was made of its others live on.
create --name pod
in_pod pod -d --name a busybox sh -c "$LOOP" >/dev/null
in_pod pod -d --name b busybox sh -c "$LOOP" >/dev/null
until_ok said b up
infra=$(podman pod inspect -f '{{.InfraContainerID}}' pod)
step infra-stop sh -c "podman stop $infra | grep -c ."
step alone-states states a b
step alone podman exec b hostname
step alone-common common a b
step alone-stop sh -c 'podman stop a; podman stop b'
step alone-codes codes a b
step alone-rm sh -c 'podman pod rm -f pod | grep -c .'
# Containers that belong to no pod.
alone -d --name a --hostname pod busybox sh -c "$WAITS" >/dev/null
alone -d --name b --ipc container:a --pid container:a busybox sh -c "$LOOP" >/dev/null
alone -d --name c --uts container:a busybox sh -c "$WAITS" >/dev/null
until_ok said b up
step by-name common a b
step by-name-uts common a c
step by-name-seen podman exec b sh -c 'ps | grep -c "[s]leep 1000"'
step by-name-of-another sh -c 'podman --runtime "$RT" run --rm --network none --cgroup-parent "$CGROUP" --ipc container:b --uts container:c busybox hostname'
step by-name-network sh -c 'podman --runtime "$RT" run --rm --network container:a --cgroup-parent "$CGROUP" busybox hostname | grep -c ^pod'
step by-name-stop sh -c 'podman stop -t 0 c; podman exec a hostname'
step by-name-rm sh -c 'podman rm -f -t 0 b c | sort; podman rm -f -t 0 a'
step nothing sh -c 'podman ps -a --format "{{.Names}}"; podman pod ps -q; ls "$FOLDER/run/exits"; find /sys/fs/cgroup -path "*$CGROUP/*" -name "libpod-*" | grep -c .'
