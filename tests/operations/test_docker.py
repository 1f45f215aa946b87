"""The container files: the Dockerfile's steps run as they stand, compose and Kubernetes hold together."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from goproxy_vm import __version__, cli
from goproxy_vm.config import environment_name, keys, load
from tests.operations import dockerfile

ROOT = Path(__file__).parents[2]
HOME = ROOT / "docker"
STAGES = dockerfile.read(HOME / "Dockerfile")
IMAGE = STAGES[-1]
VARIABLES = {environment_name(name) for name in keys()}
GIB = 1 << 30


def settings(environ: dict[str, str]) -> Any:
    """What a server with these variables runs with; every one must be a setting."""
    assert {name for name in environ if name.startswith("GOPROXY_VM_")} <= VARIABLES
    return load({}, environ, None).settings


# The image


def test_stages() -> None:
    build, image = STAGES
    assert (build.name, build.base, image.base) == ("build", "python:${PYTHON}", "python:${PYTHON}")
    assert "-slim" in (HOME / "Dockerfile").read_text().split("ARG PYTHON=")[1].splitlines()[0]
    assert image.all("USER") == ["10001:10001"]
    installing = [argument for _, argument in image.steps if re.search(r"apt-get|curl|wget|gcc", argument)]
    assert [argument[:30] for argument in installing] == ['if [ "$EXTRA" = direct ]; then']
    assert build.all("ARG") == ["EXTRA"]
    assert '".${EXTRA:+[$EXTRA]}"' in build.all("RUN")[0]
    label = dict(word.split("=", 1) for word in shlex.split(image.all("LABEL")[0]))
    assert label["org.opencontainers.image.version"] == "${VERSION}"
    assert label["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert image.environment()["VERSION"] == __version__


def test_its_commands_exist() -> None:
    parse = cli.command_line().parse_args
    program, *probe = IMAGE.command("HEALTHCHECK")
    assert [program] == IMAGE.command("ENTRYPOINT")
    assert parse(probe).asked == "health"
    assert parse(IMAGE.command("CMD")).command is parse(["serve"]).command


def test_its_environment_is_settings() -> None:
    assert str(settings(IMAGE.environment()).cache_dir) == IMAGE.all("VOLUME")[0]
    assert {"8080", "8081"} == set(IMAGE.all("EXPOSE")[0].split())


def test_the_context_has_what_is_copied_and_little_else() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word.removeprefix("./") for step in STAGES[0].all("COPY") for word in step.split()[:-1]}
    assert kept == copied
    assert all((ROOT / name).exists() for name in copied)


AFTER = """
user() { chroot --userspec=10001:10001 $root env -i $settings "$@"; }
test "$(stat -c '%u:%g %a' $root/var/cache/goproxy-vm)" = "10001:10001 700"
if user python -c 'import pip'; then exit 91; fi
if user python -c 'import ensurepip'; then exit 92; fi
if ls $root/opt/goproxy-vm/bin | grep -i pip; then exit 93; fi
volume=/mnt/volume; mkdir $volume; chown 10001:10001 $volume
mount --bind $volume $root/var/cache/goproxy-vm
umount $root/tmp
mount -o remount,ro $root; mount -o remount,ro $root/usr/local
if touch $root/written $root/usr/local/written; then exit 94; fi
if user $probe; then exit 95; else test $? = 3; fi
(exec chroot --userspec=10001:10001 $root env -i $settings goproxy-vm $serve --offline) &
# Counts to 20 s, for a loop of shell has no other clock.
for _ in $(seq 100); do if user $probe 2>/dev/null; then break; fi; sleep 0.2; done
user $probe
user goproxy-vm status
kill -TERM $!
wait $!
echo all of it
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_the_steps_run_as_they_stand(tmp_path: Path) -> None:
    """Build the image's files on top of this machine's, then serve from them, read-only, unprivileged."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root for a mount namespace")
    overlay = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w /mnt/m && mount -t overlay overlay /mnt/m"
    options = "-o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w"
    if subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{overlay} {options}"], capture_output=True
    ).returncode:
        pytest.skip("no overlay file system can be mounted here")
    reach = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(tmp_path),
        "aiofiles",
    ]
    if subprocess.run(reach, capture_output=True, timeout=60).returncode:
        pytest.skip("no package index can be reached")
    context = tmp_path / "context"
    context.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, context)
    shutil.copytree(ROOT / "goproxy_vm", context / "goproxy_vm", ignore=shutil.ignore_patterns("__pycache__"))
    environment = IMAGE.environment() | {
        "GOPROXY_VM_LISTEN": "127.0.0.1:0",
        "GOPROXY_VM_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
    }
    prelude = [
        f"settings={shlex.quote(' '.join(f'{name}={value}' for name, value in environment.items()))}",
        f"probe={shlex.quote(' '.join(IMAGE.command('HEALTHCHECK')))}",
        f"serve={shlex.quote(' '.join(IMAGE.command('CMD')))}",
    ]
    text = dockerfile.script(STAGES, context, sys.base_prefix, "\n".join([*prelude, AFTER]))
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("GOPROXY_VM_", "COV"))
    }
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", text],
        capture_output=True,
        text=True,
        env=outside,
        timeout=360,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all of it\n")
    assert f"goproxy-vm {__version__}" in done.stdout


# Compose


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((HOME / "compose.yaml").read_text())
    return content


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([mgMG]i?)", text).groups()  # type: ignore[union-attr]
    return int(number) << {"m": 20, "g": 30}[unit[0].lower()]


def test_compose_services() -> None:
    """As far as the schema of Compose matters for us: names, and what each refers to."""
    content = compose()
    assert set(content) == {"name", "services", "volumes"}
    services = content["services"]
    assert set(services) == {"goproxy-vm", "prometheus", "grafana", "alertmanager"}
    assert [name for name, service in services.items() if "profiles" in service] == ["alertmanager"]
    used: set[str] = set()
    for name, service in services.items():
        assert set(service) <= {
            *(
                "build",
                "image",
                "restart",
                "ports",
                "environment",
                "volumes",
                "read_only",
                "tmpfs",
                "cap_drop",
            ),
            *(
                "security_opt",
                "mem_limit",
                "pids_limit",
                "ulimits",
                "stop_grace_period",
                "logging",
                "command",
            ),
            *("depends_on", "profiles"),
        }, name
        assert 64 << 20 <= size(service["mem_limit"]) <= GIB
        assert service["cap_drop"] == ["ALL"]
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (HOME / source).exists(), volume
                assert volume.endswith(":ro")
            else:
                used.add(source)
    assert used == set(content["volumes"])


def test_compose_proxy() -> None:
    service = compose()["services"]["goproxy-vm"]
    assert (HOME / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]) == HOME / "Dockerfile"
    environ = {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in service["environment"].items()
    }
    found = settings(IMAGE.environment() | environ)
    assert found == settings(
        IMAGE.environment() | {"GOPROXY_VM_LISTEN": "0.0.0.0:8080", "GOPROXY_VM_ADMIN_LISTEN": "0.0.0.0:8081"}
    )
    assert int(service["stop_grace_period"].removesuffix("s")) > found.shutdown_timeout + 10
    assert f"cache:{IMAGE.all('VOLUME')[0]}" in service["volumes"]
    assert service["read_only"]


def test_only_modules_are_published_to_others() -> None:
    for name, service in compose()["services"].items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:") or (name == "goproxy-vm" and port.endswith(":8080")), port


def test_compose_passes_every_setting() -> None:
    """An empty variable counts as not set."""
    environment = compose()["services"]["goproxy-vm"]["environment"]
    fixed = {
        "GOPROXY_VM_LISTEN": "0.0.0.0:8080",
        "GOPROXY_VM_ADMIN_LISTEN": "0.0.0.0:8081",
        "GOPROXY_VM_LOG_FORMAT": "${GOPROXY_VM_LOG_FORMAT:-json}",
    }
    given = {environment_name(name) for name in keys()} - {"GOPROXY_VM_CACHE_DIR"}
    assert environment == {name: f"${{{name}:-}}" for name in given} | fixed


def test_compose_names_are_those_of_the_configuration() -> None:
    scraping = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text())
    services = compose()["services"]
    (job,) = scraping["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["goproxy-vm:8081"]}]
    (alertmanager,) = scraping["alerting"]["alertmanagers"]
    assert alertmanager["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    grafana = ROOT / "config/grafana/provisioning"
    (source,) = yaml.safe_load((grafana / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((grafana / "dashboards/goproxy-vm.yml").read_text())["providers"]
    assert f"../config/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


def test_alertmanager_takes_its_configuration() -> None:
    program = shutil.which("amtool")
    if program is None:
        pytest.skip("amtool is not installed")
    done = subprocess.run(
        [program, "check-config", str(HOME / "alertmanager.yml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanager_knows_the_alerts() -> None:
    rules = yaml.safe_load((ROOT / "config/prometheus/rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"] if "alert" in rule}
    named = set(re.findall(r"GoproxyVm[A-Za-z]+", (HOME / "alertmanager.yml").read_text()))
    assert named
    assert named <= alerts


# Kubernetes


def manifest() -> dict[tuple[str, str], dict[str, Any]]:
    found = yaml.safe_load_all((HOME / "kubernetes.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def test_kubernetes_objects_refer_to_each_other() -> None:
    objects = manifest()
    assert set(objects) == {
        ("Service", "goproxy-vm"),
        ("Service", "goproxy-vm-admin"),
        ("StatefulSet", "goproxy-vm"),
    }
    stateful = objects["StatefulSet", "goproxy-vm"]["spec"]
    template = stateful["template"]
    labels = template["metadata"]["labels"]
    assert stateful["selector"] == {"matchLabels": labels}
    assert ("Service", stateful["serviceName"]) in objects
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"modules": 8080, "admin": 8081}
    for name, port in (("goproxy-vm", "modules"), ("goproxy-vm-admin", "admin")):
        service = objects["Service", name]["spec"]
        assert service["selector"] == labels
        assert [each["targetPort"] for each in service["ports"]] == [port]
    volumes = {each["name"] for each in template["spec"]["volumes"]}
    volumes |= {each["metadata"]["name"] for each in stateful["volumeClaimTemplates"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
        assert container[probe]["httpGet"]["path"] in ("/healthz", "/readyz")


def test_kubernetes_settings() -> None:
    spec = manifest()["StatefulSet", "goproxy-vm"]["spec"]
    assert spec["replicas"] == 1
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert {each["name"] for each in container["env"]} <= VARIABLES
    found = settings(IMAGE.environment() | given)
    assert [str(found.admin_listen), *map(str, found.listen)] == ["0.0.0.0:8081", "0.0.0.0:8080"]
    # Not the mount itself: it belongs to root, and the server refuses what others own.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(found.cache_dir.parent) == mounts["cache"] == IMAGE.all("VOLUME")[0]
    assert pod["terminationGracePeriodSeconds"] > found.shutdown_timeout + 10
    assert (
        f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
        == IMAGE.all("USER")[0]
    )
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert size(container["resources"]["limits"]["memory"]) >= GIB // 2
