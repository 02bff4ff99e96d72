# Terminals.
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
again() { terminal again 'docker attach apart' && until_ok raw && key 'again\r' && shown 'got again' && finish; }
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
