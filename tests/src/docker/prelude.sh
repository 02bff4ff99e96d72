# What every script begins with. RT is the runtime; a step is one line of the comparison: its output, then its errors (the
# two come over different ways, in no order), and its status.
step() {
  echo "## $1"
  shift
  "$@" </dev/null 2>"$FOLDER/errors"
  status=$?
  cat "$FOLDER/errors"
  echo "-> $status"
}
# A step that says nothing unless it succeeds with runc.
works() {
  step "$@"
  [ "$status" = 0 ] || echo "must succeed"
}
run() { docker run --network none --runtime "$RT" "$@"; }
once() { run --rm "$@"; }
sh_once() { once "$@" </dev/null; }
# A container in the background, by name; its id is nobody's business.
up() { run -d --name "$@" >/dev/null; }
# Waits until a command succeeds.
until_ok() {
  n=0
  until "$@" >/dev/null 2>&1; do
    n=$((n + 1))
    [ "$n" -lt 600 ] || { echo "never: $*"; return 1; }
    sleep 0.05
  done
}
said() { docker logs "$1" 2>&1 | grep -q "$2"; }
state() { docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Error}}' "$1"; }
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
of_client() { stty -F "/dev/$(ps -o tty= --ppid "$client" | head -n 1)" "$@"; }
# As when a person resizes the window.
resize() { of_client rows "$1" cols "$2"; }
# The client has taken its terminal over: what is typed before would be echoed by that too.
raw() { of_client -a | grep -q -e -icanon; }
finish() {
  wait "$client"
  echo "ended with $?"
  exec 9>&-
  tr -d '\r' <"$SCREEN"
}
export RT
# The size is told once it is the whole of the new one: stty(1) sets rows and columns one after the other.
export TALK='trap "case \$(stty size 2>/dev/null) in \"33 77\") [ \$told ] || { told=1; echo 33 77; };; esac" WINCH; trap "echo interrupted; exit 6" INT; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo ready
  read line; echo "got $line"; while :; do sleep 0.05; done'
export WAIT='echo ready; read line; echo "got $line"; exit 7'
talk() {
  shown ready && key 'abc\177d\r' && shown 'got abd' && resize 33 77 && shown '33 77' && key '\003' && finish
}
