#!/bin/sh
# The steps that both recipes of the worker image take inside of it: the Dockerfile and `local.py`.
# Compiled files do not depend on times ("unchecked-hash"): no pod ever compiles again.
set -eu

compile() {
    python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash "$@"
}

case $1 in
base)
    # a name for the user; a pod may run with any other number too
    echo 'byok8s:x:65532:65532:byok8s:/tmp:/usr/sbin/nologin' >>/etc/passwd
    echo 'byok8s:x:65532:' >>/etc/group
    # the last two for pods without volumes
    mkdir -p /opt/byok8s /work /run/byok8s
    chmod 1777 /work /run/byok8s
    # not PYTHONPATH: a rule's own Python, such as conda's, must not see it
    echo /opt/byok8s >/usr/lib/python3/dist-packages/byok8s.pth
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
        /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
    compile /usr/lib/python3 /usr/lib/python3.*
    ;;
packages)
    rm -rf /opt/byok8s/bin /opt/byok8s/.lock
    compile /opt/byok8s
    HOME=/tmp python3 -c 'import obstore, snakemake.cli'
    ;;
code)
    compile /opt/byok8s/byok8s /opt/byok8s/snakemake_storage_plugin_byok8s
    ;;
esac
