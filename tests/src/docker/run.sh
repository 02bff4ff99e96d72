# Options of docker run.
step plain once busybox echo hi
step environment once -e A=b -e 'C=d e' busybox sh -c 'echo $A $C $HOME $PATH'
step folder once -w /tmp/new/deep busybox pwd
step user once -u 1000:1001 busybox id
step user-by-name once -u nobody busybox id
# Docker gives them in no order.
step group-add once --group-add 7 --group-add 8 busybox sh -c 'id -G | tr " " "\n" | sort -n'
step entrypoint once --entrypoint /bin/echo busybox a b
step hostname once --hostname box --domainname example.org busybox sh -c 'hostname; cat /proc/sys/kernel/domainname'
step init once --init busybox sh -c 'ps -o pid,comm | head -2; exit 3'
step capabilities once busybox sh -c 'grep ^Cap /proc/self/status'
step cap-add once --cap-add SYS_PTRACE busybox sh -c 'grep ^CapEff /proc/self/status'
step cap-drop once --cap-drop ALL --cap-add CHOWN busybox sh -c 'grep ^Cap /proc/self/status'
step cap-user once -u 5 busybox sh -c 'grep ^Cap /proc/self/status'
step no-new-privileges once --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
step seccomp-default once busybox grep Seccomp: /proc/self/status
step seccomp-unconfined once --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status
step seccomp-refuses once busybox sh -c 'unshare -U true; mount -t tmpfs none /tmp'
step read-only once --read-only busybox sh -c 'touch /new; mkdir /tmp/x'
step ulimit once --ulimit nofile=100:200 --ulimit core=0 busybox sh -c 'ulimit -n; ulimit -Hn; ulimit -c'
step device once --device /dev/null:/dev/mynull busybox sh -c 'echo x >/dev/mynull && ls -l /dev/mynull | cut -c 1-10'
step sysctl once --sysctl kernel.msgmax=1000 busybox cat /proc/sys/kernel/msgmax
step oom-score-adj once --oom-score-adj 500 busybox cat /proc/self/oom_score_adj
step stdin sh -c 'echo text | docker run -i --rm --network none --runtime "$RT" busybox cat'
step log-driver-none once --log-driver none busybox echo hi
step devices once busybox sh -c 'cd /dev; ls -d null zero full random urandom tty ptmx pts shm mqueue stdin stdout stderr fd'
step masked once busybox sh -c 'cat /proc/kcore /proc/keys /proc/timer_list | wc -c; ls /proc/acpi /sys/firmware | wc -l'
step read-only-paths once busybox sh -c 'echo 1 >/proc/sys/kernel/sysrq; echo 1 >/proc/sysrq-trigger'
step label once --label a=b busybox true
step cidfile once --cidfile "$FOLDER/cid-$RT" busybox true
step create-start sh -c 'docker create --name made --network none --runtime "$RT" busybox echo made >/dev/null; docker start -a made; docker rm made'
step mount-bind once --mount "type=bind,source=$FOLDER/client,target=/c,readonly" busybox sh -c 'ls /c; touch /c/x'
step mount-tmpfs once --mount type=tmpfs,destination=/t,tmpfs-size=65536,tmpfs-mode=1700 busybox sh -c 'stat -c %a /t; dd if=/dev/zero of=/t/f bs=1k count=100 2>&1 | grep -o "No space.*"'
docker volume create "vol-$RT" >/dev/null
step mount-volume once --mount "type=volume,source=vol-$RT,target=/v" busybox sh -c 'echo kept >/v/file; ls /v'
step mount-volume-again once -v "vol-$RT:/v:ro" busybox sh -c 'cat /v/file; touch /v/x'
docker volume rm "vol-$RT" >/dev/null
step devices-rules once --device /dev/null:/dev/only-read:r busybox sh -c 'cat /dev/only-read; mknod /tmp/x b 7 7; cat /tmp/x; ls -l /dev/only-read | cut -c 1-10'
