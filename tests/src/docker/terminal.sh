# Terminals: the client's is one that script(1) makes, whose keys are what is written to descriptor 9.
terminal() {
  SCREEN=$FOLDER/screen-$RT-$1
  keys=$FOLDER/keys-$RT-$1
  : >"$SCREEN"
  mkfifo "$keys"
  script -qefc "$2" /dev/null <"$keys" >"$SCREEN" 2>&1 &
  client=$!
  exec 9>"$keys"
}
shown() { until_ok grep -q "$1" "$SCREEN" || { cat "$SCREEN"; kill "$client"; return 1; }; }
key() { printf "$1" >&9; }
# As when a person resizes the window.
resize() { stty -F "/dev/$(ps -o tty= --ppid "$client" | head -n 1)" rows "$1" cols "$2"; }
finish() {
  wait "$client"
  echo "ended with $?"
  exec 9>&-
  tr -d '\r' <"$SCREEN"
}
export RT
export TALK='trap "stty size" WINCH; trap "echo interrupted; exit 6" INT; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo ready
  read line; echo "got $line"; while :; do sleep 0.05; done'
export WAIT='echo ready; read line; echo "got $line"; exit 7'
talk() {
  shown ready && key 'abc\177d\r' && shown 'got abd' && resize 33 77 && shown '33 77' && key '\003' && finish
}
run_it() { terminal run 'docker run -it --rm --network none --runtime $RT busybox sh -c "$TALK"' && talk; }
step run-it run_it
up box busybox sleep 1000
exec_it() { terminal exec 'docker exec -it box sh -c "$TALK"' && talk; }
step exec-it exec_it
exec_end() { terminal end 'docker exec -it -u 5 box sh -c "id -u; echo ready; read line; exit 9"' && shown ready && key '\004' && finish; }
step exec-end-of-file exec_end
docker rm -f box >/dev/null
detach() {
  terminal detach 'docker run -it --name apart --network none --runtime $RT busybox sh -c "$WAIT"'
  shown ready && key '\020\021' && finish
}
step detach detach
step detached state apart
again() { terminal again 'docker attach apart' && sleep 0.3 && key 'again\r' && shown 'got again' && finish; }
step attach-again again
step ended state apart
step logs sh -c 'docker logs apart | tr -d "\r"'
docker rm -f apart >/dev/null
own_keys() {
  terminal keys 'docker run -it --detach-keys ctrl-a,x --name apart --network none --runtime $RT busybox sh -c "$WAIT"'
  shown ready && key '\001x' && finish
}
step detach-keys own_keys
docker rm -f apart >/dev/null
# A terminal without a client that has one.
step run-t sh -c 'docker run -t --rm --network none --runtime $RT busybox sh -c "[ -t 1 ] && echo terminal" | tr -d "\r"'
run -dt --name apart busybox sh -c 'echo ready; sleep 1000' >/dev/null
until_ok said apart ready
step run-dt sh -c 'docker logs apart | od -c | head -n 1'
docker rm -f apart >/dev/null
