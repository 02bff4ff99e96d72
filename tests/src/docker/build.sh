# docker build, whose RUN lines are containers of the default runtime; and what the daemon tells.
mkdir -p "$FOLDER/context" && echo data >"$FOLDER/context/data"
cat >"$FOLDER/context/Dockerfile" <<'DOCKERFILE'
FROM busybox
ENV GREETING=hello
COPY data /data
RUN echo "$GREETING $(cat /data)" >/made && adduser -D user && mkdir /home/user/x && chown user /home/user/x
USER user
WORKDIR /home/user
RUN echo mine >x/file
ENTRYPOINT ["sh", "-c"]
CMD ["cat /made x/file; id -un"]
DOCKERFILE
step build docker build -q --no-cache --force-rm --network none -t built "$FOLDER/context"
step built sh -c 'docker run --rm --network none built'
step built-by sh -c 'docker create --name b built >/dev/null; [ "$(docker inspect -f "{{.HostConfig.Runtime}}" b)" = "$RT" ] && echo default; docker rm b'
echo 'FROM busybox
RUN exit 7' >"$FOLDER/context/Dockerfile"
step build-fails sh -c 'docker build -q --no-cache --force-rm --network none "$1" 2>&1 | tail -1' - "$FOLDER/context"
docker rmi -f built >/dev/null
since=$(date +%s)
sh_once --name evented busybox true
step events sh -c 'docker events --since "$1" --until "$(($(date +%s) + 1))" --filter container=evented --format "{{.Action}}"' - "$since"
