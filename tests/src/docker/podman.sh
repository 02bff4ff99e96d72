# Podman and its conmon, which asks a runtime for other things than containerd's shim does.
run() { podman run --network none --cgroup-parent "$CGROUP" --runtime "$RT" "$@"; }
said() { podman logs "$1" 2>&1 | grep -q "$2"; }
state() { podman inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' "$1"; }
step run once busybox sh -c 'echo out; echo err >&2; exit 3'
step no-such-program once busybox /nonexistent
step not-executable once busybox /etc/passwd
step stdin sh -c 'echo text | podman run --rm -i --network none --cgroup-parent "$CGROUP" --runtime "$RT" busybox cat'
step tmpfs once --tmpfs /etc --tmpfs /usr:size=1m --tmpfs /new busybox sh -c 'cat /etc/passwd; echo x >/etc/new; ls /etc /usr /new; stat -c "%n %a %u %g" /etc /etc/* /new; grep -E " /(etc|usr|new) " /proc/mounts | sort'
step tmpfs-full sh -c 'podman run --rm --network none --cgroup-parent "$CGROUP" --runtime "$RT" --tmpfs /bin:size=64k busybox true 2>&1 | grep -i -o "no space left on device" | tr N n'
up box -e A=b -w /tmp --hostname box -u 5:6 --memory 64m --pids-limit 40 -v "$FOLDER/home:/b:ro" \
  --health-cmd 'test -e /etc/passwd' --health-interval disable busybox sh -c '
  trap "echo got term; exit 3" TERM; trap "echo got usr1" USR1; echo up
  mkfifo /tmp/fifo; while :; do read -t 1 x <>/tmp/fifo; done'
until_ok said box up
step options podman exec box sh -c 'echo $A; pwd; hostname; id; ls -a /b; touch /b/x'
step privileges podman exec box grep -E '^Cap|NoNew|Seccomp:' /proc/self/status
step exec podman exec -u 7 -w / -e X=y box sh -c 'id -u; pwd; echo $X; exit 7'
step exec-missing podman exec box nosuch
step exec-detached sh -c 'podman exec -d box sh -c "echo there >/tmp/detached" >/dev/null && echo begun'
step health podman healthcheck run box
step ps podman ps --format '{{.Names}}'
step top sh -c 'podman top box pid comm >/dev/null 2>&1; echo $?'
step stats sh -c 'podman stats --no-stream --format "{{.Name}} {{.PIDs}}" box | grep -c "^box [1-9]"'
step pause sh -c 'podman pause box >/dev/null; podman inspect -f "{{.State.Status}}" box; podman unpause box >/dev/null'
# In a running container Podman copies through the mount namespace of its pid.
step cp sh -c 'echo given >"$FOLDER/given-$RT"; podman cp "$FOLDER/given-$RT" box:/ && podman exec box cat "/given-$RT" | head -n 1; ls "/given-$RT" 2>&1 | grep -c No'
step cp-out sh -c 'podman cp box:/bin/busybox - | tar -xO | cmp - "$BUSYBOX/bin/busybox" && echo same'
step cp-bound sh -c 'podman cp "$FOLDER/given-$RT" box:/b/x 2>&1 | grep -o "read-only file system"; podman cp box:/b/.config - | tar -t'
step pids podman exec box sh -c 'for i in $(seq 60); do sleep 1 & done'
# The processes that there was room for are gone.
sleep 1.5
step kill sh -c 'podman kill -s USR1 box'
until_ok said box usr1
step stop podman stop box
step stopped state box
step logs podman logs box
step start sh -c 'podman start box'
step rm-force sh -c 'podman rm -f -t 0 box | grep -c .'
up killed busybox sleep 1000
step kill-9 sh -c 'podman kill killed; podman wait killed'
step killed-state state killed
podman rm killed >/dev/null
podman create --name made --network none --cgroup-parent "$CGROUP" --runtime "$RT" busybox sh -c 'echo made; exit 4' >/dev/null
step create-start podman start -a made
step made-state state made
podman rm made >/dev/null
# With every runtime it may say that a container is gone whose window it comes to resize.
finish() {
  wait "$client"
  echo "ended with $?"
  exec 9>&-
  tr -d '\r' <"$SCREEN" | grep -v 'ERRO.*container not running'
}
run_it() { terminal run 'podman run -it --rm --network none --cgroup-parent "$CGROUP" --runtime $RT busybox sh -c "$TALK"' && talk; }
step run-it run_it
step nothing sh -c 'podman ps -a --format "{{.Names}}"; ls "$FOLDER/run/exits"'
