"""The command lines of kind, minikube and k3d, against outputs as these programs print them.

None of the three runs here; `scripts/test` runs the native driver for real.
"""

import base64
import io
import json
import os

import pytest
import yaml
from byok8s import progress
from byok8s.cluster import ClusterInfo, images, kubeconfig, store
from byok8s.cluster.k3d import K3dDriver
from byok8s.cluster.kind import KindDriver
from byok8s.cluster.minikube import MinikubeDriver
from byok8s.cluster.tool import Answer, SystemRunner
from byok8s.exceptions import ClusterError

NODE = "byok8s-dev-control-plane"


def tool_kubeconfig(server, name):
    """A kubeconfig as all three tools write it."""
    pem = {key: base64.b64encode(key.encode()).decode() for key in ("ca", "cert", "key")}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [
                {
                    "name": name,
                    "cluster": {"server": server, "certificate-authority-data": pem["ca"]},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": pem["cert"],
                        "client-key-data": pem["key"],
                    },
                }
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
    )


class Recorder:
    """Replays answers by the beginning of the command line, and remembers what was run."""

    def __init__(self, answers):
        self.answers = answers
        self.ran = []
        self.environments = []
        self.after = {}  # what running a command changes, by the command's first words

    def _answer(self, argv):
        line = " ".join(argv)
        return next((a for start, a in self.answers.items() if line.startswith(start)), None)

    def query(self, argv, env):
        answer = self._answer(argv)
        return Answer(127, "") if answer is None else Answer(*answer)

    def run(self, argv, env, log, line):
        self.ran.append(list(argv))
        self.environments.append(dict(env))
        code, out = self._answer(argv) or (0, "")
        for text in out.splitlines():
            line(text)
        if code:
            raise ClusterError(f"'{argv[0]}' failed; its whole output is in {log}.")
        for start, change in self.after.items():
            if " ".join(argv).startswith(start):
                change(env)


class Step:
    def __init__(self, details):
        self.update = details.append


class Report:
    """Remembers titles, details and notes."""

    def __init__(self):
        self.titles, self.details, self.notes = [], [], []

    def step(self, title):
        import contextlib

        self.titles.append(title)
        return contextlib.nullcontext(Step(self.details))

    def note(self, line):
        self.notes.append(line)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("MINIKUBE_DRIVER", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path / "byok8s" / "clusters" / "dev"


@pytest.fixture(autouse=True)
def image(tmp_path, monkeypatch):
    built = images.BuiltImage("localhost/byok8s-worker:1.0.0-abc", tmp_path / "worker.tar")
    monkeypatch.setattr(images, "worker_image", lambda cache, report: built)
    return built


@pytest.fixture
def make(monkeypatch):
    """Makes a driver on recorded answers; a command is installed when it has an answer."""

    def build(driver_class, answers):
        recorder = Recorder(answers)
        driver = driver_class(recorder)
        installed = {line.split()[0] for line in answers}
        monkeypatch.setattr(driver, "_is_installed", installed.__contains__)
        return driver, recorder

    return build


DOCKER = {"docker version": (0, "28.3.0\n")}
PODMAN = {"podman info": (0, "linux\n")}
NO_DOCKER = {"docker version": (1, "\n")}

# kind 0.29, output piped: no spinner, one line when a part starts and one when it ends
KIND_CREATE = """\
Creating cluster "byok8s-dev" ...
 • Ensuring node image (kindest/node:v1.33.1) 🖼  ...
 ✓ Ensuring node image (kindest/node:v1.33.1) 🖼
 • Preparing nodes 📦   ...
 ✓ Preparing nodes 📦
 • Waiting ≤ 3m0s for control-plane = Ready ⏳  ...
 ✓ Waiting ≤ 3m0s for control-plane = Ready ⏳
 • Ready after 14s 💚
Set kubectl context to "kind-byok8s-dev"
You can now use your cluster with:
kubectl cluster-info --context kind-byok8s-dev
"""
KIND_KUBECONFIG = tool_kubeconfig("https://127.0.0.1:43693", "kind-byok8s-dev")


def kind(state=None, more=None):
    return {
        "kind get clusters": (0, "other\nbyok8s-dev\n" if state else "other\n"),
        "kind get kubeconfig --name byok8s-dev": (0, KIND_KUBECONFIG),
        "kind create": (0, KIND_CREATE),
        "docker inspect --format {{.State.Status}} " + NODE: (0, f"{state}\n"),
        **DOCKER,
        **(more or {}),
    }


def check_context(server):
    """The context is ours, is current, and the tool's own did not come with it."""
    config = yaml.safe_load(kubeconfig.paths()[0].read_text())
    assert [context["name"] for context in config["contexts"]] == ["byok8s-dev"]
    assert config["current-context"] == "byok8s-dev"
    assert config["clusters"][0]["cluster"]["server"] == server
    assert config["clusters"][0]["cluster"]["certificate-authority-data"] == "Y2E="


def test_kind_makes_a_cluster_with_our_context(make, state, image):
    driver, recorder = make(KindDriver, kind())
    report = Report()
    info = driver.create("dev", report)
    assert info == ClusterInfo("dev", "kind", "byok8s-dev", image.ref, None)
    assert recorder.ran == [
        ["kind", "create", "cluster", "--name", "byok8s-dev", "--wait", "3m"],
        ["kind", "load", "image-archive", str(image.archive), "--name", "byok8s-dev"],
    ]
    assert recorder.environments[0] == {"KUBECONFIG": str(state / "kubeconfig")}
    check_context("https://127.0.0.1:43693")
    assert report.titles == ["Starting kind cluster byok8s-dev", "Loading the worker image"]
    assert report.details[1] == "Ensuring node image (kindest/node:v1.33.1)"
    assert report.details[3] == "Preparing nodes"


def test_kind_finds_a_running_cluster_and_loads_an_image_once(make, image):
    driver, recorder = make(KindDriver, kind("running"))
    store.save(ClusterInfo("dev", "kind", "byok8s-dev", image.ref))
    assert driver.running("dev")
    assert driver.create("dev", Report()).worker_image == image.ref
    assert recorder.ran == []
    check_context("https://127.0.0.1:43693")


def test_kind_brings_a_stopped_cluster_back(make, image):
    driver, recorder = make(KindDriver, kind("exited"))
    store.save(ClusterInfo("dev", "kind", "byok8s-dev", image.ref))
    assert not driver.running("dev")
    driver.create("dev", Report())
    assert recorder.ran == [["docker", "start", NODE]]


def test_kind_takes_podman_when_docker_does_not_answer(make):
    driver, recorder = make(KindDriver, kind(more={**NO_DOCKER, **PODMAN}))
    assert driver.missing() is None
    driver.create("dev", Report())
    assert recorder.environments[0]["KIND_EXPERIMENTAL_PROVIDER"] == "podman"


def test_kind_status(make):
    inside = f"docker exec {NODE} kubectl --kubeconfig=/etc/kubernetes/admin.conf get"
    answers = kind("running", {f"{inside} --raw=/readyz": (0, "ok"), f"{inside} node": (0, "True")})
    driver, _ = make(KindDriver, answers)
    assert driver.status("dev") == [
        (f"container {NODE}", "running"),
        ("API server", "ready"),
        (f"node {NODE}", "ready"),
    ]
    driver, _ = make(KindDriver, kind("exited"))
    assert driver.status("dev") == [(f"container {NODE}", "exited")]


def test_kind_deletes(make):
    driver, recorder = make(KindDriver, kind("exited"))
    driver.delete("dev", Report())
    assert recorder.ran == [["kind", "delete", "cluster", "--name", "byok8s-dev"]]


def test_kind_deletes_nothing_when_there_is_nothing(make):
    driver, recorder = make(KindDriver, kind())
    driver.delete("dev", Report())
    assert recorder.ran == []


def test_a_cluster_that_cannot_be_seen_does_not_count_as_deleted(make):
    driver, _ = make(KindDriver, kind("running", NO_DOCKER))
    with pytest.raises(ClusterError, match=r"'dev' cannot be deleted now: kind needs a container"):
        driver.delete("dev", Report())


def test_a_failure_names_the_log(make, state):
    driver, _ = make(KindDriver, kind(more={"kind create": (1, "ERROR: failed to create cluster")}))
    with pytest.raises(ClusterError, match=str(state / "kind.log")):
        driver.create("dev", Report())


def test_where_the_image_cannot_be_built_the_published_one_is_taken(make, monkeypatch):
    def refuse(cache, report):
        raise ClusterError("The worker image can be built on Linux only.")

    monkeypatch.setattr(images, "worker_image", refuse)
    driver, recorder = make(KindDriver, kind())
    report = Report()
    assert driver.create("dev", report).worker_image is None
    assert [argv[1] for argv in recorder.ran] == ["create"]
    assert "published" in report.notes[0]


def event(step, name, message):
    kinds = {"type": "io.k8s.sigs.minikube.step", "specversion": "1.0"}
    data = {"currentstep": step, "message": message, "name": name, "totalsteps": "19"}
    return json.dumps({**kinds, "datacontenttype": "application/json", "data": data})


# minikube 1.37 --output=json
MINIKUBE_START = "\n".join(
    [
        event("0", "Initial Minikube Setup", "[byok8s-dev] minikube v1.37.0 on Debian 12"),
        event("1", "Selecting Driver", "Automatically selected the docker driver"),
        event("19", "Done", 'Done! kubectl is now configured to use "byok8s-dev" cluster'),
    ]
)
MINIKUBE_ABSENT = json.dumps(
    {
        "specversion": "1.0",
        "type": "io.k8s.sigs.minikube.info",
        "data": {"message": 'Profile "byok8s-dev" not found. Run "minikube profile list"'},
    }
)
START = [
    *("minikube", "start", "--profile", "byok8s-dev", "--embed-certs", "--interactive=false"),
    *("--wait=all", "--output=json"),
]


def minikube(host=None, more=None):
    status = {"Name": "byok8s-dev", "Kubeconfig": "Configured", "Worker": False}
    status |= {"Host": host, "Kubelet": host, "APIServer": host}
    return {
        "minikube status --profile byok8s-dev": (0, json.dumps(status))
        if host
        else (85, MINIKUBE_ABSENT),
        "minikube config get driver": (65, ""),
        "minikube start": (0, MINIKUBE_START),
        **DOCKER,
        **(more or {}),
    }


def write_kubeconfig(env):
    os.makedirs(os.path.dirname(env["KUBECONFIG"]), exist_ok=True)
    with open(env["KUBECONFIG"], "w") as stream:
        stream.write(tool_kubeconfig("https://192.168.49.2:8443", "byok8s-dev"))


def test_minikube_makes_a_cluster_with_our_context(make, image):
    driver, recorder = make(MinikubeDriver, minikube())
    recorder.after["minikube start"] = write_kubeconfig
    report = Report()
    info = driver.create("dev", report)
    assert info == ClusterInfo("dev", "minikube", "byok8s-dev", image.ref, None)
    assert recorder.ran == [
        START,
        ["minikube", "image", "load", str(image.archive), "--profile", "byok8s-dev"],
    ]
    check_context("https://192.168.49.2:8443")
    assert report.details[1] == "Automatically selected the docker driver"


def test_minikube_is_forced_as_root(make, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    driver, recorder = make(MinikubeDriver, minikube())
    recorder.after["minikube start"] = write_kubeconfig
    driver.create("dev", Report())
    assert "--force" in recorder.ran[0]


def test_minikube_starts_a_stopped_cluster(make, image):
    driver, recorder = make(MinikubeDriver, minikube("Stopped"))
    recorder.after["minikube start"] = write_kubeconfig
    store.save(ClusterInfo("dev", "minikube", "byok8s-dev", image.ref))
    assert not driver.running("dev")
    driver.create("dev", Report())
    assert recorder.ran == [START]


def test_minikube_status_and_delete(make):
    driver, recorder = make(MinikubeDriver, minikube("Running"))
    assert driver.running("dev")
    assert driver.status("dev") == [
        ("host", "running"),
        ("kubelet", "running"),
        ("API server", "running"),
    ]
    driver.delete("dev", Report())
    assert recorder.ran == [["minikube", "delete", "--profile", "byok8s-dev"]]
    driver, recorder = make(MinikubeDriver, minikube())
    assert driver.status("dev") == [("host", "not there")]
    driver.delete("dev", Report())
    assert recorder.ran == []


def test_minikube_without_its_kubeconfig_is_one_sentence(make):
    driver, _ = make(MinikubeDriver, minikube("Running"))
    with pytest.raises(ClusterError, match="did not write the kubeconfig"):
        driver.create("dev", Report())


# k3d 5.8
K3D_CREATE = """\
INFO[0000] Prep: Network
INFO[0000] Created network 'k3d-byok8s-dev'
INFO[0002] Creating node 'k3d-byok8s-dev-server-0'
INFO[0012] Cluster 'byok8s-dev' created successfully!
"""


def k3d(status=None, more=None):
    node = {"name": "k3d-byok8s-dev-server-0", "role": "server"}
    node["State"] = {"Running": status == "running", "Status": status, "Started": ""}
    cluster = {"name": "byok8s-dev", "nodes": [node], "serversCount": 1}
    cluster["serversRunning"] = int(status == "running")
    return {
        "k3d cluster list --output json": (0, json.dumps([cluster] if status else [])),
        "k3d kubeconfig get byok8s-dev": (
            0,
            tool_kubeconfig("https://0.0.0.0:33421", "k3d-byok8s-dev"),
        ),
        "k3d cluster create": (0, K3D_CREATE),
        **DOCKER,
        **(more or {}),
    }


def test_k3d_makes_a_cluster_with_our_context(make, image):
    driver, recorder = make(K3dDriver, k3d())
    report = Report()
    info = driver.create("dev", report)
    assert info == ClusterInfo("dev", "k3d", "byok8s-dev", image.ref, None)
    create = ["k3d", "cluster", "create", "byok8s-dev", "--kubeconfig-update-default=false"]
    options = ["--kubeconfig-switch-context=false", "--wait", "--timeout", "3m"]
    assert recorder.ran == [
        [*create, *options],
        ["k3d", "image", "import", str(image.archive), "--cluster", "byok8s-dev"],
    ]
    check_context("https://0.0.0.0:33421")
    assert report.details[1] == "Created network 'k3d-byok8s-dev'"


def test_k3d_starts_a_stopped_cluster(make, image):
    driver, recorder = make(K3dDriver, k3d("exited"))
    store.save(ClusterInfo("dev", "k3d", "byok8s-dev", image.ref))
    assert not driver.running("dev")
    driver.create("dev", Report())
    assert recorder.ran == [["k3d", "cluster", "start", "byok8s-dev", "--wait", "--timeout", "3m"]]


def test_k3d_status_and_delete(make):
    driver, recorder = make(K3dDriver, k3d("running"))
    assert driver.running("dev")
    assert driver.status("dev") == [("server k3d-byok8s-dev-server-0", "running")]
    driver.delete("dev", Report())
    assert recorder.ran == [["k3d", "cluster", "delete", "byok8s-dev"]]
    driver, recorder = make(K3dDriver, k3d())
    assert driver.status("dev") == [("server", "not there")]


@pytest.mark.parametrize(
    ("driver_class", "answers", "sentence"),
    [
        (KindDriver, {}, "The command kind is not installed; see https://kind.sigs.k8s.io."),
        (KindDriver, {"kind": (0, "")}, "kind needs a container engine that runs"),
        (KindDriver, {"kind": (0, ""), **NO_DOCKER}, "kind needs a container engine that runs"),
        (KindDriver, {"kind": (0, ""), **DOCKER}, None),
        (MinikubeDriver, {}, "The command minikube is not installed"),
        (MinikubeDriver, {"minikube x": (0, "")}, "minikube needs one of its drivers"),
        (MinikubeDriver, {"minikube x": (0, ""), "virsh": (0, "")}, None),
        (MinikubeDriver, {"minikube config get driver": (0, "none\n")}, None),
        (K3dDriver, {}, "The command k3d is not installed"),
        (K3dDriver, {"k3d": (0, ""), **PODMAN}, "k3d needs a Docker engine that runs"),
        (K3dDriver, {"k3d": (0, ""), **DOCKER}, None),
    ],
)
def test_what_is_missing_is_one_sentence(make, driver_class, answers, sentence):
    driver, _ = make(driver_class, answers)
    missing = driver.missing()
    assert missing is None if sentence is None else missing.startswith(sentence)


@pytest.mark.parametrize("driver_class", [KindDriver, K3dDriver])
def test_a_tool_that_gives_no_kubeconfig_is_one_sentence(make, driver_class):
    answers = (kind if driver_class is KindDriver else k3d)("running")
    answers = {key: value for key, value in answers.items() if "kubeconfig" not in key}
    driver, _ = make(driver_class, answers)
    with pytest.raises(
        ClusterError, match="does not give the kubeconfig of its cluster byok8s-dev"
    ):
        driver.create("dev", Report())


def test_real_commands_are_logged_and_told_line_by_line(tmp_path):
    log, told = tmp_path / "x" / "kind.log", []
    SystemRunner().run(
        ["sh", "-c", "echo one; echo $GREETING >&2"], {"GREETING": "two"}, log, told.append
    )
    assert told == ["one", "two"]
    assert log.read_text().endswith("one\ntwo\n")


def test_a_real_command_that_fails_names_its_log_and_last_line(tmp_path):
    with pytest.raises(
        ClusterError, match=r"exit code 3 \(no disk\); its whole output is in .*log"
    ):
        SystemRunner().run(["sh", "-c", "echo no disk; exit 3"], {}, tmp_path / "log", print)


def test_real_questions_never_raise():
    runner = SystemRunner()
    assert runner.query(["sh", "-c", "echo $A; exit 4"], {"A": "x"}) == Answer(4, "x\n")
    assert runner.query(["no-such-command-here"], {}) == Answer(127, "")


def test_the_reporter_of_the_command_line_fits(make):
    driver, _ = make(KindDriver, kind())
    stream = io.StringIO()
    driver.create("dev", progress.reporter(stream))
    assert "Starting kind cluster byok8s-dev: done in" in stream.getvalue()
