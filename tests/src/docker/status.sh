# Exit statuses, of what ends and of what does not begin.
for status in 0 1 37 125 126 127 137 143 255; do
  step "exit-$status" once busybox sh -c "exit $status"
done
step no-such-program once busybox /nonexistent
step not-in-path once busybox nonexistent
step a-folder once busybox /etc
step not-executable once busybox /etc/passwd
step killed-from-inside once busybox sh -c 'sh -c "kill -9 \$\$"; exit $?'
step init-kills-itself once busybox sh -c 'kill -9 $$; echo survived'
step no-such-image once nosuchimage:nosuchtag true
step no-such-option once --nonsense busybox true
up killed busybox sleep 1000
step kill-9 docker kill killed
step wait-137 docker wait killed
step state-137 state killed
up term busybox sh -c 'trap "exit 143" TERM; echo up; while :; do sleep 0.05; done'
until_ok said term up
step stop-143 docker stop term
step state-143 state term
docker rm -f killed term >/dev/null
