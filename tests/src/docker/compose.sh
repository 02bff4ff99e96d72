# Several containers that need each other, as a compose file starts them: a store that becomes healthy, a worker that follows what
# is put into their volume, a client that asks for something; then all stop, in reverse.
docker volume create "shared-$RT" >/dev/null
run -d --name store -v "shared-$RT:/data" --label project=p -e NAME=store --health-cmd 'test -e /data/ready' --health-interval 100ms \
  busybox sh -c 'trap "echo $NAME stops; exit 3" TERM; mkdir /data/in /data/out; sleep 0.3; touch /data/ready
  while :; do sleep 0.05; done' >/dev/null
until_ok sh -c '[ "$(docker inspect -f "{{.State.Health.Status}}" store)" = healthy ]'
run -d --name worker --volumes-from store --label project=p --restart on-failure:5 busybox sh -c 'trap "echo worker stops; exit 0" TERM
  [ -e /data/tried ] || { touch /data/tried; exit 1; }
  echo works; while :; do for f in /data/in/*; do [ -e "$f" ] || continue; tr a-z A-Z <"$f" >/data/tmp && rm "$f" && mv /data/tmp "/data/out/${f##*/}"; done
  sleep 0.05; done' >/dev/null
until_ok said worker works
step restarted docker inspect -f '{{.RestartCount}} {{.State.Status}}' worker
step client once --volumes-from store busybox sh -c 'for n in 1 2 3 4 5; do echo "job $n" >/data/new$n; mv /data/new$n /data/in/$n; done
  for n in 1 2 3 4 5; do until [ -e /data/out/$n ]; do sleep 0.05; done; cat /data/out/$n; done; ls /data/in | wc -l'
step list sh -c 'docker ps --filter label=project=p --format "{{.Names}} {{.State}}" | sort'
step paused sh -c 'docker pause store worker && docker ps --filter status=paused --format "{{.Names}}" | sort; docker unpause store worker'
step stop sh -c 'docker stop worker store; docker inspect -f "{{.Name}} {{.State.ExitCode}}" worker store'
step logs sh -c 'for c in store worker; do docker logs $c; done'
step again sh -c 'docker start store worker; until docker ps --filter label=project=p --filter status=running -q | wc -l | grep -q 2; do sleep 0.05; done; echo up'
step removed sh -c 'docker rm -f worker store | sort; docker volume rm "shared-$RT" >/dev/null && echo gone'
