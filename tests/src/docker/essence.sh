# What people use most, in the time that the test VM has: nearly all of it in one container, as starting one takes seconds
# there. It waits without a process of its own, so that it survives that there can be none.
mkdir -p "$FOLDER/bind-$RT" && echo host >"$FOLDER/bind-$RT/file"
docker volume create "vol-$RT" >/dev/null
up box -e A=b -w /tmp/new --hostname box --memory 64m --pids-limit 20 --cpus 0.5 --shm-size 1m --tmpfs /t:size=1m,mode=700 \
  --device /dev/null:/dev/nothing:r -v "$FOLDER/bind-$RT:/b:ro" -v "vol-$RT:/v" busybox sh -c '
  trap "echo got term; exit 3" TERM; trap "echo got usr1" USR1; echo up; echo err >&2
  mkfifo /fifo; while :; do read -t 1 x <>/fifo; done'
until_ok said box up
step options docker exec box sh -c 'echo $A; pwd; hostname; cat /proc/1/cmdline | tr "\0" " " | cut -c 1-6'
step privileges docker exec box grep -E '^Cap|NoNew|Seccomp:' /proc/self/status
step exec-options docker exec -u 5:6 -w /tmp -e X=y box sh -c 'id; pwd; echo $X; exit 7'
step stdin sh -c 'echo text | docker exec -i box cat'
step killed docker exec box sh -c 'kill -9 $$'
step not-in-path docker exec box nosuch
step not-executable docker exec box /etc/passwd
step binds docker exec box sh -c 'cat /b/file; echo kept >/v/file; cat /v/file; echo x >/b/new'
step read-only docker exec box sh -c 'echo x >/proc/sys/kernel/domainname'
step mounts docker exec box sh -c 'grep -cE " (/b|/v) " /proc/mounts; stat -c %a /t; df -k /t /dev/shm | tr -s " " | cut -d " " -f 2,6'
step device docker exec box sh -c 'cat /dev/nothing; mknod /tmp/x b 7 7; cat /tmp/x; ls -l /dev/nothing | cut -c 1-10'
step limits docker exec box sh -c 'cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max'
step memory docker exec box sh -c 'dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo $?'
step pids docker exec box sh -c 'for i in $(seq 30); do sleep 1 & done'
step update sh -c 'docker update --memory 100m --memory-swap 200m box >/dev/null; docker exec box cat /sys/fs/cgroup/memory.max'
step stats sh -c 'docker stats --no-stream --format "{{.Name}} {{.PIDs}}" box | grep -c "^box [1-9]"'
echo from-the-host >"$FOLDER/given"
docker exec box sh -c 'echo one >/written; mkdir /folder; echo in >/folder/x'
step copies sh -c 'docker cp "$1" box:/folder/given && docker exec box cat /folder/given; docker cp box:/written - | tar -xO' - "$FOLDER/given"
step diff sh -c 'docker diff box | sort'
step pause sh -c 'docker pause box; docker inspect -f "{{.State.Status}}" box; docker exec box true; docker unpause box'
step kill docker kill -s USR1 box
until_ok said box usr1
step stop docker stop box
step stopped state box
step logs docker logs box
docker rm box >/dev/null
step status once busybox sh -c 'echo out; echo err >&2; exit 125'
step no-such-program once busybox /nonexistent
# All of the host's devices and capabilities, and what is read-only otherwise.
step privileged once --privileged busybox sh -c '
  grep -E "^Cap|Seccomp:" /proc/self/status; echo there >/proc/sys/kernel/domainname && cat /proc/sys/kernel/domainname
  mkdir /m && mount -t tmpfs none /m && echo mounted; touch /sys/x 2>/dev/null || echo no; ls -d /dev/null /dev/full /dev/tty'
run_it() { terminal run 'docker run -it --name term --network none --runtime $RT busybox sh -c "$TALK"' && talk; }
step run-it run_it
step ended state term
docker rm -f term >/dev/null
up killed busybox sleep 1000
exec_it() { terminal exec 'docker exec -it killed sh -c "$TALK"' && talk; }
step exec-it exec_it
step kill-9 sh -c 'docker kill killed; docker wait killed'
step killed-state state killed
docker rm killed >/dev/null
docker volume rm "vol-$RT" >/dev/null
