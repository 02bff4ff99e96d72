# The engine starts again while containers run (--live-restore): the harness does it when it is asked for.
restart() {
  echo "$1" >"$FOLDER/restart"
  until_ok test ! -e "$FOLDER/restart"
}
# The count is empty for a moment each time that it is written.
goes_on() {
  docker exec box sh -c 'until a=$(cat /count) && [ "$a" ]; do :; done
    until [ "$(cat /count)" -gt "$a" ] 2>/dev/null; do sleep 0.05; done; echo goes on'
}
up box busybox sh -c 'trap "exit 3" TERM; i=0; echo up; while :; do i=$((i + 1)); echo $i >/count; sleep 0.05; done'
until_ok said box up
pid=$(docker inspect -f '{{.State.Pid}}' box)
for signal in TERM KILL; do
  restart $signal
  step $signal-state state box
  step $signal-same-process sh -c "[ \"\$(docker inspect -f '{{.State.Pid}}' box)\" = $pid ] && echo same"
  step $signal-goes-on goes_on
  step $signal-logs docker logs box
done
step pause docker pause box
restart TERM
step paused state box
step unpause docker unpause box
step unpaused-goes-on goes_on
step stop docker stop box
step stopped state box
step start docker start box
step started-goes-on goes_on
step rm docker rm -f box
