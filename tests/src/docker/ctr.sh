# containerd's own client, with the runtime's binary named in the options of containerd's shim for runc.
case $RT in
  runc) binary=$(command -v runc) ;;
  *) binary=$FOLDER/ringwall ;;
esac
c() { ctr --address "$FOLDER/exec/containerd/containerd.sock" --namespace "test-$RT" "$@"; }
root() { rm -rf "$FOLDER/root" && mkdir "$FOLDER/root" && tar -C "$BUSYBOX" -c . | tar -C "$FOLDER/root" -x; }
begin() { c run "$@"; }
options="--runtime io.containerd.runc.v2 --runc-binary $binary --rootfs"
root
step run c run --rm $options "$FOLDER/root" one /bin/sh -c 'echo hi; echo err >&2; exit 3'
step environment c run --rm $options --env A=b --cwd /tmp --user 5:6 "$FOLDER/root" one /bin/sh -c 'echo $A; pwd; id'
step no-such-program c run --rm $options "$FOLDER/root" one /no/such
step gone c task ls --quiet
c run --detach --null-io $options "$FOLDER/root" box /bin/sh -c 'trap "exit 4" TERM; while :; do sleep 0.05; done'
status() { c task ls | awk '$1 == "box" { print $3 }'; }
step running status
step exec c task exec --exec-id e1 box /bin/sh -c 'echo inside; exit 5'
step exec-missing c task exec --exec-id e2 box nosuch
step exec-user c task exec --exec-id e3 --user 7 --cwd /tmp box /bin/sh -c 'id -u; pwd'
step ps sh -c "ctr --address '$FOLDER/exec/containerd/containerd.sock' --namespace 'test-$RT' task ps box | grep -q '^[0-9]'"
step pause c task pause box
step paused status
step resume c task resume box
step resumed status
step metrics sh -c "ctr --address '$FOLDER/exec/containerd/containerd.sock' --namespace 'test-$RT' task metrics box | grep -cE '^(pids.current|memory.usage_in_bytes|cpuacct.usage|memory.usage)'"
step delete-running c task delete box
step kill c task kill --signal TERM box
until_ok sh -c "[ \"\$(ctr --address '$FOLDER/exec/containerd/containerd.sock' --namespace 'test-$RT' task ls | awk '\$1 == \"box\" { print \$3 }')\" = STOPPED ]"
step stopped status
step delete c task delete box
step remove c container rm box
step nothing c container ls --quiet
