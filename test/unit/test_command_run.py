"""Every option of `byok8s run` reaches the one core call, and bad usage does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from byok8s.command.root import root
from byok8s.command.run import run
from byok8s.settings import KubeSettings, PlacementSettings, RunSettings, S3Location, S3Options
from click.testing import CliRunner, Result

FILES = ("workflow-alpha", "params-blue")
BUCKET = ("-b", "mybucket")


class Core:
    """Stands for run_workflow and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[RunSettings] = []

    def __call__(self, settings: RunSettings, report: Any) -> None:
        report.note  # noqa: B018  # a Reporter is passed
        self.calls.append(settings)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    fake = Core()
    monkeypatch.setattr("byok8s.run.story.run_workflow", fake)
    return fake


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(root, arguments, env=environment, prog_name="byok8s")


def settings_of(core: Core, *arguments: str, **environment: str) -> RunSettings:
    result = invoke(*FILES, *arguments, **environment)
    assert result.exit_code == 0, result.output
    assert result.output == ""
    return core.calls.pop()


DEFAULTS = RunSettings("workflow-alpha", "params-blue", location=S3Location("mybucket"))


def test_the_least_that_runs(core: Core) -> None:
    assert settings_of(core, *BUCKET) == DEFAULTS
    assert invoke("run", *FILES, *BUCKET).exit_code == 0
    assert core.calls.pop() == DEFAULTS


OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("alpha.txt", "beta.txt"), {"targets": ("alpha.txt", "beta.txt")}),
    (("--s3-bucket=b-2/p/q",), {"location": S3Location("b-2", "p/q")}),
    (("-b", "s3://b-2/p"), {"location": S3Location("b-2", "p")}),
    (("-k", "lab"), {"kube": KubeSettings(namespace="lab")}),
    (("--k8s-namespace=lab",), {"kube": KubeSettings(namespace="lab")}),
    (("-k", ""), {}),
    (("--context=c",), {"kube": KubeSettings(context="c")}),
    (("--kubeconfig=", "--context=", "--image="), {}),
    (("--kubeconfig=k",), {"kube": KubeSettings(kubeconfig=Path("k"))}),
    (("-s", "flow/Snakefile"), {"snakefile": Path("flow/Snakefile")}),
    (("--snakefile=S",), {"snakefile": Path("S")}),
    (("-n",), {"dry_run": True}),
    (("--dry-run",), {"dry_run": True}),
    (("-f",), {"force": True}),
    (("--force",), {"force": True}),
    (("-j", "7"), {"jobs": 7}),
    (("--jobs=7",), {"jobs": 7}),
    (("--no-bundle",), {"bundle": False}),
    (("--bundle",), {"bundle": True}),
    (("--pods-per-second=0",), {"pods_per_second": 0}),
    (("--pods-per-second=2.5",), {"pods_per_second": 2.5}),
    (("--s3-endpoint-url=http://x:1",), {"endpoint_url": "http://x:1"}),
    (("--s3-region=eu-west-1",), {"region": "eu-west-1"}),
    (("--s3-addressing=virtual",), {"s3": S3Options(addressing="virtual")}),
    (("--s3-sse=AES256",), {"s3": S3Options(sse="AES256")}),
    (
        ("--s3-sse=aws:kms", "--s3-sse-kms-key-id=key"),
        {"s3": S3Options(sse="aws:kms", sse_kms_key_id="key")},
    ),
    (("--s3-storage-class=STANDARD_IA",), {"s3": S3Options(storage_class="STANDARD_IA")}),
    (("--s3-requester-pays",), {"s3": S3Options(requester_pays=True)}),
    (("--image=localhost/x:1",), {"image": "localhost/x:1"}),
    (("--max-threads=2",), {"max_threads": 2}),
    (("--retries=3",), {"retries": 3}),
    (("--max-disruptions=0",), {"max_disruptions": 0}),
    (("--memory-retries=5",), {"memory_retries": 5}),
    (
        ("--wait-limit=image=10m", "--wait-limit=too-large=never"),
        {"wait_limits": {"image": 600.0, "too_large": None}},
    ),
    (("--keep-going",), {"keep_going": True}),
    (("--on-exit=keep",), {"on_exit": "keep"}),
    (("--param=a=1", "--param=b.c=1.10"), {"overrides": {"a": 1, "b.c": "1.10"}}),
    (("--param=a=1", "--param=a=null"), {"overrides": {"a": None}}),
    (("--download",), {"download": True}),
    (("--local",), {"local": True}),
    (("--owner=jane",), {"owner": "jane"}),
    (("--owner=", "--spot=", "--toleration=", "--pod-template="), {}),
    *(
        (words, {"placement": PlacementSettings(**fields)})
        for words, fields in (
            (("--spot=prefer",), {"spot": "prefer"}),
            (("--node-selector=a=b", "--node-selector=c"), {"node_selector": ("a=b", "c")}),
            (("--node-preference=a=b:5",), {"node_preference": ("a=b:5",)}),
            (("--toleration=a", "--toleration=b=c"), {"toleration": ("a", "b=c")}),
            (("--priority-class=high",), {"priority_class": "high"}),
            (("--queue=lab",), {"kueue_queue": "lab"}),
            (("--runtime-class=gvisor",), {"runtime_class": "gvisor"}),
            (("--service-account=reader",), {"service_account": "reader"}),
            (("--image-pull-secret=a",), {"image_pull_secret": ("a",)}),
            (("--volume=pvc:a:/b",), {"volume": ("pvc:a:/b",)}),
            (("--pod-template=t.yaml",), {"pod_template": Path("t.yaml")}),
            (("--allow-privileged",), {"allow_privileged": True}),
        )
    ),
    (("--debug",), {"debug": True}),
]


@pytest.mark.parametrize(("arguments", "changes"), OPTIONS, ids=" ".join)
def test_an_option_reaches_the_core(
    core: Core, arguments: tuple[str, ...], changes: dict[str, Any]
) -> None:
    from dataclasses import replace

    assert settings_of(core, *BUCKET, *arguments) == replace(DEFAULTS, **changes)


def test_every_option_is_among_those_tested() -> None:
    tested = {word.partition("=")[0] for words, _ in OPTIONS for word in words}
    for parameter in run.params:
        if isinstance(parameter, click.Option):
            assert tested & set(parameter.opts), parameter.name


ENVIRONMENT: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"BYOK8S_S3_BUCKET": "b-2/p"}, {"location": S3Location("b-2", "p")}),
    ({"AWS_ENDPOINT_URL_S3": "http://x:1"}, {"endpoint_url": "http://x:1"}),
    ({"AWS_ENDPOINT_URL": "http://x:1"}, {"endpoint_url": "http://x:1"}),
    (
        {"AWS_ENDPOINT_URL_S3": "http://x:1", "AWS_ENDPOINT_URL": "http://y:1"},
        {"endpoint_url": "http://x:1"},
    ),
    (
        {"AWS_ENDPOINT_URL_S3": "", "AWS_ENDPOINT_URL": "http://y:1"},
        {"endpoint_url": "http://y:1"},
    ),
    ({"BYOK8S_OWNER": "jane"}, {"owner": "jane"}),
    *(
        ({f"BYOK8S_{name}": text}, {"placement": PlacementSettings(**fields)})
        for name, text, fields in (
            ("SPOT", "never", {"spot": "never"}),
            ("NODE_SELECTOR", "a=b c=d", {"node_selector": ("a=b", "c=d")}),
            ("NODE_PREFERENCE", "a=b", {"node_preference": ("a=b",)}),
            ("TOLERATION", "a b", {"toleration": ("a", "b")}),
            ("PRIORITY_CLASS", "high", {"priority_class": "high"}),
            ("QUEUE", "lab", {"kueue_queue": "lab"}),
            ("RUNTIME_CLASS", "gvisor", {"runtime_class": "gvisor"}),
            ("SERVICE_ACCOUNT", "reader", {"service_account": "reader"}),
            ("IMAGE_PULL_SECRET", "a b", {"image_pull_secret": ("a", "b")}),
            ("VOLUME", "pvc:a:/b", {"volume": ("pvc:a:/b",)}),
            ("POD_TEMPLATE", "t.yaml", {"pod_template": Path("t.yaml")}),
        )
    ),
    ({"AWS_REGION": "a"}, {"region": "a"}),
    ({"BYOK8S_S3_ADDRESSING": "path"}, {"s3": S3Options(addressing="path")}),
    (
        {"BYOK8S_S3_SSE": "aws:kms", "BYOK8S_S3_SSE_KMS_KEY_ID": "key"},
        {"s3": S3Options(sse="aws:kms", sse_kms_key_id="key")},
    ),
    ({"BYOK8S_S3_SSE": "", "BYOK8S_S3_STORAGE_CLASS": "", "BYOK8S_S3_REQUESTER_PAYS": ""}, {}),
    ({"BYOK8S_S3_STORAGE_CLASS": "X_1"}, {"s3": S3Options(storage_class="X_1")}),
    ({"BYOK8S_S3_REQUESTER_PAYS": "1"}, {"s3": S3Options(requester_pays=True)}),
    ({"AWS_DEFAULT_REGION": "a"}, {"region": "a"}),
    ({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}, {"region": "a"}),
    ({"BYOK8S_WAIT_LIMIT": "image=90s queue=2h"}, {"wait_limits": {"image": 90, "queue": 7200}}),
]


@pytest.mark.parametrize(("environment", "changes"), ENVIRONMENT)
def test_a_variable_reaches_the_core(
    core: Core, environment: dict[str, str], changes: dict[str, Any]
) -> None:
    settings = settings_of(core, **({"BYOK8S_S3_BUCKET": "mybucket"} | environment))
    from dataclasses import replace

    assert settings == replace(DEFAULTS, **changes)


def test_an_option_comes_before_its_variable(core: Core) -> None:
    settings = settings_of(
        core, *BUCKET, "--s3-endpoint-url=http://x:1", "--s3-region=a",
        BYOK8S_S3_BUCKET="other", AWS_ENDPOINT_URL_S3="http://y:1", AWS_REGION="b",
    )  # fmt: skip
    assert (settings.location, settings.endpoint_url, settings.region) == (
        S3Location("mybucket"),
        "http://x:1",
        "a",
    )


def test_variables_for_runs_on_a_cluster_do_not_stand_in_the_way_of_local(core: Core) -> None:
    local = settings_of(
        core, "--local", BYOK8S_IMAGE="lab/worker:1", BYOK8S_SPOT="never", BYOK8S_OWNER="jane",
        BYOK8S_TOLERATION="a b",
    )  # fmt: skip
    assert (local.image, local.owner, local.placement) == (None, None, PlacementSettings())
    assert settings_of(core, *BUCKET, BYOK8S_IMAGE="lab/worker:1").image == "lab/worker:1"


def test_local_without_a_bucket_also_where_a_variable_names_one(core: Core) -> None:
    assert settings_of(core, "--local").location is None
    assert settings_of(core, "--local", "-b", "", BYOK8S_S3_BUCKET="x-1").location is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Usage: byok8s"),
        (("workflow-alpha",), "Missing argument 'PARAMS'"),
        ((*FILES,), "No S3 bucket given; name one with --s3-bucket (-b) or BYOK8S_S3_BUCKET"),
        ((*FILES, "-b", "My_Bucket"), "'My_Bucket' does not name an S3 bucket"),
        ((*FILES, *BUCKET, "-j", "0"), "0 is not in the range x>=1"),
        ((*FILES, *BUCKET, "-j", "many"), "'many' is not a valid integer"),
        ((*FILES, *BUCKET, "--retries", "-1"), "-1 is not in the range x>=0"),
        ((*FILES, *BUCKET, "--pods-per-second", "-1"), "-1.0 is not in the range x>=0"),
        ((*FILES, *BUCKET, "--pods-per-second", "nan"), "--pods-per-second is nan"),
        (
            (*FILES, *BUCKET, "--wait-limit=x=1m"),
            "NAME one of invalid, image, image-absent, config",
        ),
        (
            (*FILES, *BUCKET, "--wait-limit=image=soon"),
            "write it as image=90s, 10m, 2h, 1d or never",
        ),
        ((*FILES, *BUCKET, "-k", "Lab!"), "'Lab!' cannot be a namespace"),
        ((*FILES, *BUCKET, "--image", "a b"), "'a b' is not an image reference"),
        ((*FILES, "", *BUCKET), "A TARGET is empty"),
        ((*FILES, *BUCKET, "--param", "x"), "--param 'x' must be KEY=VALUE"),
        ((*FILES, *BUCKET, "--local", "--context", "c"), "so --context cannot apply"),
        ((*FILES, *BUCKET, "--local", "--queue", "q"), "so --queue cannot apply"),
        ((*FILES, *BUCKET, "--local", "--node-selector", "a"), "so --node-selector cannot apply"),
        ((*FILES, *BUCKET, "--local", "--allow-privileged"), "so --allow-privileged cannot apply"),
        ((*FILES, *BUCKET, "--owner", "ü"), "--owner is 'ü', of which nothing can stand in a"),
        ((*FILES, *BUCKET, "--no-such"), "No such option"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(
    core: Core, arguments: tuple[str, ...], words: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert core.calls == []


def test_help_shows_every_option_in_a_section_with_examples() -> None:
    result = invoke("run", "--help")
    assert result.exit_code == 0
    for parameter in run.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert parameter.opts[0] in result.stdout
    for title in (
        "What to run:",
        "Where the files are:",
        "Which cluster:",
        "Where the pods run:",
        "How:",
        "Examples:",
    ):
        assert f"\n{title}\n" in result.stdout
    assert "Options:" not in result.stdout.partition("\n")[2]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from byok8s.command.root import root\n"
        "try: root.main(['run', '--help'], 'byok8s')\n"
        "except SystemExit: pass\n"
        "heavy = {'snakemake', 'kubernetes', 'boto3', 'botocore', 'obstore', 'rich', 'yaml'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("heavy: []")
