"""Short jobs share pods, and none of them suffers for what happens to another one."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from byok8s.cluster import S3Server
from byok8s.workflow.sharing import FEW
from support.project import (
    BYOK8S,
    Project,
    bucket_keys,
    clean_environment,
    kubectl,
    objects_left,
)
from support.s3proxy import S3Proxy

# Each job tells its pod, and whether it found its folder as it should: without what others left
SNAKEFILE = """
rule all:
    input: expand("out/{name}.txt", name=config["names"])
rule work:
    output: "out/{name}.txt"
    resources: mem_mb=200, bundle=lambda wildcards: 0 if wildcards.name == "alone" else 1
    shell:
        '''
        [ ! -e mark ]; touch mark
        case {wildcards.name} in
            fails) echo last words; exit 7;;
            hungry) python3 -c "bytearray(400_000_000)";;
            long) sleep 20;;
            slow*) sleep 0.7;;
        esac
        hostname > {output}
        '''
"""


def given(project: Project, *names: str) -> None:
    project.write({"Snakefile": SNAKEFILE, "params.json": json.dumps({"names": names})})


def hosts(project: Project, *names: str) -> dict[str, str]:
    return {name: project.get(f"out/{name}.txt").strip() for name in names}


def done_in_order(text: str) -> list[str]:
    return re.findall(r"^\[.*work \(name=(\w+)\) done", text, re.MULTILINE)


def test_one_that_fails_one_beyond_its_memory_and_a_long_one_touch_no_other(
    project: Project, cluster: Any
) -> None:
    plain = [f"p{i}" for i in range(12)]
    given(project, *plain[:3], "fails", *plain[3:6], "hungry", *plain[6:9], "long", *plain[9:],
          "alone")  # fmt: skip
    done = project.run("--keep-going", "--memory-retries=0")
    assert done.code == 1
    assert re.search(r"Failed: work \(name=fails\): the command exited with code 7\n.*\n"
                     r" +last words", done.out), done.text  # fmt: skip
    assert re.search(r"Failed: work \(name=hungry\): .*memory", done.out), done.text
    assert len(re.findall("^Failed: ", done.out, re.MULTILINE)) == 2
    order = done_in_order(done.out)
    assert sorted(order) == sorted([*plain, "long", "alone"]), "each once"
    assert order[-1] == "long", "it makes nobody wait"
    where = hosts(project, *plain, "long", "alone")
    assert len({where[name] for name in plain}) < len(plain), "pods are shared"
    assert where["alone"] not in {where[name] for name in (*plain, "long")}
    assert objects_left(cluster) == []


# A minute is the shortest limit that Snakemake knows
LIMITED = """
rule all:
    input: expand("out/{name}.txt", name=config["names"])
rule work:
    output: "out/{name}.txt"
    log: "logs/{name}.log"
    resources: runtime=lambda wildcards: 1 if wildcards.name == "slow" else 60
    shell:
        '''
        echo last words > {log}
        case {wildcards.name} in slow) sleep 150 & sleep 150;; esac
        hostname > {output}
        '''
"""


def test_a_time_limit_is_that_of_one_job(project: Project, cluster: Any) -> None:
    names = ["a", "b", "slow", "c", "d", "e"]
    project.write({"Snakefile": LIMITED, "params.json": json.dumps({"names": names})})
    done = project.run("--keep-going", "--retries=0")
    assert done.code == 1
    said = "ran longer than its limit of 60 s; give it more (runtime)"
    assert f"Failed: work (name=slow): the job {said}" in done.out, done.text
    assert "last words" in done.out and 60 < done.seconds < 100
    assert project.get("logs/slow.log") == "last words\n"
    assert sorted(done_in_order(done.out)) == ["a", "b", "c", "d", "e"], "each once"
    assert len(set(hosts(project, "a", "b", "c", "d", "e").values())) < 5, "pods are shared"
    assert objects_left(cluster) == []


# Groups are pods of their own, as they are written, whatever goes on around them
GROUPS = """
rule all:
    input: expand("out/{name}.txt", name=list("abcdefgh")), expand("group/{x}.txt", x=[1, 2])
rule single:
    output: "out/{name}.txt"
    shell: "hostname > {output}"
rule first:
    output: temp("first/{x}.txt")
    log: "logs/{x}-first.log"
    group: "pair"
    resources: mem_mb=150
    shell: "hostname > {output}; echo first > {log}"
rule second:
    input: "first/{x}.txt"
    output: "group/{x}.txt"
    group: "pair"
    resources: mem_mb=250
    shell: "cat {input} > {output}; hostname >> {output}"
"""


def test_groups_are_left_as_they_are_written(project: Project, cluster: Any) -> None:
    project.write({"Snakefile": GROUPS})
    done = project.run()
    assert done.code == 0, done.text
    pairs = [project.get(f"group/{x}.txt").split() for x in (1, 2)]
    assert all(first == second for first, second in pairs), "both in one pod"
    assert pairs[0][0] != pairs[1][0], "each connected part of a group is one"
    singles = hosts(project, *"abcdefgh")
    assert len(set(singles.values())) < 8, "the others share pods"
    assert not {pod for pair in pairs for pod in pair} & set(singles.values())
    kept = project.user_keys()
    assert "logs/1-first.log" in kept and "first/1.txt" not in kept
    assert "Nothing to be done" in project.run().out
    assert objects_left(cluster) == []


MANY = """
rule all:
    input: "all.txt"
rule one:
    input: "in/{n}.txt"
    output: "out/{n}.txt"
    shell: "cp {input} {output}"
rule gather:
    input: expand("out/{n}.txt", n=range(500))
    output: "all.txt"
    shell: "cat {input} > {output}"
"""


@contextmanager
def counted(project: Project, server: S3Server) -> Iterator[S3Proxy]:
    """Between the project's runs and the S3 server; also pods reach it."""
    project.env = {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_REGION": server.region,
    }
    host = urlsplit(server.endpoint_url).hostname or ""
    with S3Proxy(server.endpoint_url, host=host) as proxy:
        yield proxy


def test_requests_of_the_leader_and_of_pods(project: Project, cluster: Any) -> None:
    """All of a run's, from the checks before it to what it leaves behind."""
    for n in range(500):
        project.put(f"in/{n}.txt", f"{n}\n")
    project.write({"Snakefile": MANY})
    with counted(project, cluster.s3) as proxy:
        done = project.run("--s3-endpoint-url", proxy.endpoint_url)
        asked = list(zip(proxy.senders, proxy.requests, strict=True))
    assert done.code == 0, done.text
    assert len(project.get("all.txt").split()) == 500
    # only the leader lists; which of the machine's addresses it comes from is the system's choice
    (leads,) = {sender for sender, (kind, _) in asked if kind == "LIST"}
    leader = [request for sender, request in asked if sender == leads]
    pods = Counter(request for sender, request in asked if sender != leads)
    for requests in (leader, pods.elements()):
        kinds = Counter(_what(kind, key) for kind, key in requests)
        print(kinds.total(), kinds.most_common(12))
    assert len(leader) <= 0.1 * 501, Counter(_what(kind, key) for kind, key in leader)
    users = {request: count for request, count in pods.items() if ".byok8s/" not in request[1]}
    # an input is fetched once by its job, what one gives to the other a second time
    assert users == {("GET", f"in/{n}.txt"): 1 for n in range(500)} | {
        (kind, f"out/{n}.txt"): 1 for n in range(500) for kind in ("PUT", "GET")
    } | {("PUT", "all.txt"): 1}
    ours = pods.total() - sum(users.values())
    assert ours <= 0.5 * 501, Counter(_what(kind, key) for kind, key in pods if ".byok8s/" in key)


def test_requests_of_pods_with_one_job_each(project: Project, cluster: Any) -> None:
    """Of each a GET for its input and a PUT for its output; of the last few also a report."""
    for n in range(20):
        project.put(f"in/{n}.txt", f"{n}\n")
    project.write({"Snakefile": MANY.replace("500", "20")})
    with counted(project, cluster.s3) as proxy:
        done = project.run("--no-bundle", "--s3-endpoint-url", proxy.endpoint_url)
        requests = Counter(proxy.requests)
    assert done.code == 0, done.text
    assert len(project.get("all.txt").split()) == 20
    users = {of: count for of, count in requests.items() if "/" in of[1] and ".byok8s" not in of[1]}
    assert {of: n for of, n in users.items() if of[0] in ("GET", "PUT") and "all" not in of[1]} == {
        ("GET", f"in/{n}.txt"): 1 for n in range(20)
    } | {(kind, f"out/{n}.txt"): 1 for n in range(20) for kind in ("PUT", "GET")}
    assert not [key for kind, key in requests if kind == "GET" and "/sources/" in key]
    early = [key for kind, key in requests if kind == "PUT" and "/ended/" in key]
    assert 1 <= len(early) <= 2 * FEW and all(requests["PUT", key] == 1 for key in early)
    keys = bucket_keys(project.s3, project.bucket, ours=True)
    assert not [key for key in keys if "/ended/" in key]


PLAIN = """
rule all:
    input: expand("out/{n}.txt", n=range(3))
rule one:
    output: "out/{n}.txt"
    shell: "echo {wildcards.n} > {output}"
"""


def test_pods_with_jobs_of_the_plainest_kind_do_without_obstore(
    project: Project, cluster: Any
) -> None:
    project.write({"Snakefile": PLAIN})
    with counted(project, cluster.s3) as proxy:
        done = project.run("--no-bundle", "--s3-endpoint-url", proxy.endpoint_url)
        asked = list(zip(proxy.requests, proxy.headers, strict=True))
    assert done.code == 0, done.text
    assert [project.get(f"out/{n}.txt") for n in range(3)] == ["0\n", "1\n", "2\n"]
    puts = [headers for (kind, key), headers in asked if kind == "PUT" and key[:4] == "out/"]
    assert [headers.get("user-agent") for headers in puts] == [None] * 3


def _what(kind: str, key: str) -> str:
    """A request without what tells it from others of its kind."""
    return f"{kind} {re.sub(r'[0-9a-f]{8,}|[0-9]+', '*', key)}"


def test_without_bundles_each_job_has_a_pod(project: Project, cluster: Any) -> None:
    names = ["p1", "p2", "p3"]
    given(project, *names)
    done = project.run("--no-bundle")
    assert done.code == 0, done.text
    assert len(set(hosts(project, *names).values())) == 3
    assert objects_left(cluster) == []


def test_jobs_of_a_pod_that_is_deleted_run_elsewhere_and_finished_ones_do_not(
    project: Project, cluster: Any
) -> None:
    names = [f"slow{i}" for i in range(8)]
    given(project, *names)
    command = [BYOK8S, "run", "flow", "params", "-b", project.bucket, "--retries=0"]
    with subprocess.Popen(
        [*command, f"--context={project.context}"],
        cwd=project.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as leader:
        assert leader.stdout is not None
        text = ""
        while not done_in_order(text):
            line = leader.stdout.readline()
            assert line, text
            text += line
        first = done_in_order(text)[0]
        lost = project.get(f"out/{first}.txt").strip()
        kubectl(cluster, "delete", "pod", lost, "--grace-period=0", "--force")
        text += leader.stdout.read()
    assert leader.returncode == 0, text
    where = hosts(project, *names)
    assert where[first] == lost, "it is not run again"
    assert len(set(where.values())) > 1, "the others have gone elsewhere"
    assert "Failed: " not in text, text
    assert sorted(done_in_order(text)) == names, "each once"
    assert objects_left(cluster) == []
