# Limits, and what is told of them.
step memory once --memory 64m busybox sh -c 'dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo $?'
step memory-of-init once --memory 64m busybox dd if=/dev/zero of=/dev/null bs=200M count=1
run --name hungry --memory 64m busybox sh -c 'sleep 1; exec dd if=/dev/zero of=/dev/null bs=200M count=1' >/dev/null 2>&1
step oom-killed state hungry
docker rm -f hungry >/dev/null
# Another process's end counts too, and the container goes on. The engine listens for it a moment after the start.
run --name other --memory 64m busybox sh -c 'sleep 1; dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo $?' >/dev/null
step oom-of-another state other
docker rm -f other >/dev/null
step pids once --pids-limit 10 busybox sh -c 'for i in $(seq 20); do sleep 1 & done'
step cpus once --cpus 0.5 busybox sh -c 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max'
step cpuset once --cpuset-cpus 0 busybox nproc
step reservation once --memory 64m --memory-reservation 32m busybox sh -c 'cat /sys/fs/cgroup/memory/memory.soft_limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.low'
up box busybox sleep 1000
step update-pids sh -c 'docker update --pids-limit 20 box 2>/dev/null'
step updated-pids docker exec box sh -c 'for i in $(seq 30); do sleep 1 & done'
step update-memory sh -c 'docker update --memory 100m --memory-swap 200m box >/dev/null 2>&1'
step update-cpus sh -c 'docker update --cpus 0.5 box >/dev/null 2>&1'
step update-restart sh -c 'docker update --restart always box >/dev/null 2>&1; docker inspect -f "{{.HostConfig.RestartPolicy.Name}}" box'
step stats sh -c 'docker stats --no-stream --format "{{.Name}}" box'
step stats-pids sh -c 'docker stats --no-stream --format "{{.PIDs}}" box | grep -c "^[1-9]"'
docker rm -f box >/dev/null
