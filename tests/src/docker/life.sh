# The life of a container: logs, attach, stop, kill, pause, restart, wait, top, rename.
up box busybox sh -c 'trap "echo got term; exit 3" TERM; trap "echo got usr1" USR1; trap "echo got hup" HUP; echo up; while :; do sleep 0.05; done'
until_ok said box up
step logs docker logs box
step kill-usr1 docker kill -s USR1 box
until_ok said box usr1
step kill-number docker kill -s 1 box
until_ok said box hup
step logs-later docker logs box
step top sh -c 'docker top box | grep -q "[0-9]" && docker top box -o pid,comm >/dev/null'
step pause docker pause box
step paused state box
step exec-paused docker exec box true
step unpause docker unpause box
step runs-again docker exec box echo yes
step rename docker rename box other
step stop docker stop other
step stopped state other
step logs-at-the-end docker logs other
step wait docker wait other
step start docker start other
until_ok sh -c 'docker logs other | grep -cx up | grep -q 2'
step restart sh -c 'docker restart -t 10 other; docker inspect -f "{{.State.Running}}" other'
step kill docker kill other
step killed state other
step rm docker rm other
up stubborn busybox sh -c 'trap "" TERM; echo up; while :; do sleep 0.05; done'
until_ok said stubborn up
step stop-after-grace docker stop -t 1 stubborn
step stopped-after-grace state stubborn
docker rm stubborn >/dev/null
up quick busybox sh -c 'echo out; echo err >&2; sleep 0.3; exit 5'
step wait-for-the-end docker wait quick
step logs-stdout sh -c 'docker logs quick 2>/dev/null'
step logs-stderr sh -c 'docker logs quick 2>&1 >/dev/null'
docker rm quick >/dev/null
up follow busybox sh -c 'for i in 1 2 3; do echo $i; sleep 0.1; done'
step logs-follow docker logs -f follow
docker rm -f follow >/dev/null
run -d --name again --restart on-failure:2 busybox sh -c 'echo x; exit 1' >/dev/null
until_ok sh -c '[ "$(docker inspect -f "{{.RestartCount}} {{.State.Status}}" again)" = "2 exited" ]'
step restart-policy sh -c 'docker logs again; docker inspect -f "{{.RestartCount}} {{.State.ExitCode}}" again'
docker rm -f again >/dev/null
run -d --name signal --stop-signal USR1 busybox sh -c 'trap "exit 9" USR1; echo up; while :; do sleep 0.05; done' >/dev/null
until_ok said signal up
step stop-signal sh -c 'docker stop signal; docker inspect -f "{{.State.ExitCode}}" signal'
docker rm signal >/dev/null
run -d --name well --health-cmd 'test -e /etc/passwd' --health-interval 100ms busybox sleep 1000 >/dev/null
until_ok sh -c '[ "$(docker inspect -f "{{.State.Health.Status}}" well)" = healthy ]'
step health docker inspect -f '{{.State.Health.Status}}' well
docker rm -f well >/dev/null
# Its input stays open until its output has come: with every runtime Docker's attach loses what comes after the input's end.
run -d -i --name in busybox sh -c 'read line; echo "got $line"; until [ -e /go ]; do sleep 0.05; done; exit 4' >/dev/null
step attach sh -c 'attached=$FOLDER/attached-$RT; : >$attached
  { echo text; n=0; until grep -q got $attached || [ $n = 400 ]; do n=$((n + 1)); sleep 0.05; done
    docker exec in touch /go; } | timeout 25 docker attach in >$attached; echo $?; cat $attached'
docker rm -f in >/dev/null
up paused busybox sleep 1000
docker pause paused >/dev/null
step rm-paused docker rm -f paused
for n in 1 2 3 4; do up many$n busybox sleep 1000; done
step several sh -c 'docker ps --format "{{.Names}}" | sort; docker rm -f many1 many2 many3 many4'
# Namespaces of another container.
up shared --ipc shareable --hostname shared busybox sh -c 'trap exit TERM; sleep 1000 & wait'
step of-another sh_once --ipc container:shared --pid container:shared busybox sh -c 'ps | grep -c "[s]leep 1000"; readlink /proc/self/ns/ipc /proc/1/ns/ipc | uniq | wc -l'
step rm-shared docker rm -f shared
