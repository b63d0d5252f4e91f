"""For those who have an NGINX already: the ten lines, and the module for it."""

import os
import re
import shutil
import subprocess

import httpx
import pytest

from harness import ROOT, Server, free_port, wait_until

TOKEN = "token-of-an-existing-site-0123456789"

SITE = """
daemon off;
pid nginx.pid;
error_log error.log;
events { }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;

    server {
        listen 127.0.0.1:%d;
        location / { return 200 "the site that was there"; }
    }
}
"""


def make(target, **variables):
    return subprocess.run(
        ["make", "-s", "-C", ROOT, target,
         *(f"{name}={value}" for name, value in variables.items())],
        capture_output=True, text=True)


def nginx():
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


def ten_lines():
    """The three parts that `make print-config` prints."""
    done = make("print-config")
    assert done.returncode == 0
    parts = [re.sub(r"(?m)^#.*\n", "", part)
             for part in done.stdout.split("\n\n")]
    lines = [line for part in parts for line in part.splitlines() if line]
    assert len(lines) == 10
    return parts


@pytest.fixture
def site(tmp_path):
    port, metrics = free_port(), free_port()
    main, http, server = ten_lines()

    conf = main + SITE % port
    conf = conf.replace("    server {", http + "    server {", 1)
    conf = conf.replace("        location /", server + "        location /", 1)

    # what differs on another machine: paths and addresses

    for old, new in {
            "modules/ngx_http_clawd_module.so": os.environ["CLAWD_MODULE"],
            "127.0.0.1:11434": f"127.0.0.1:{free_port()}",
            "127.0.0.1:9091": f"127.0.0.1:{metrics}",
            "/var/log/nginx/clawd.log": "clawd.log"}.items():
        assert conf.count(old) == 1
        conf = conf.replace(old, new)

    if os.getuid() == 0:
        conf = "user root;\n" + conf
    (tmp_path / "nginx.conf").write_text(conf)
    for name in ("clawd_proxy.conf", "clawd_log.conf"):
        shutil.copy(ROOT / name, tmp_path)

    running = Server(tmp_path, [nginx(), "-e", "error.log", "-p",
                                f"{tmp_path}/", "-c", "nginx.conf"],
                     {"CLAWDBOT_TOKEN": TOKEN})
    running.wait_for(f"http://127.0.0.1:{metrics}/metrics")
    running.url = f"http://127.0.0.1:{port}"
    yield running
    assert running.stop() == 0


def test_ten_lines_gate_a_site(site):
    assert httpx.get(f"{site.url}/").text == "the site that was there"

    # the upstream is away: it is the gate that answers, in each API's shape

    assert httpx.get(f"{site.url}/v1/models").status_code == 401
    assert httpx.get(f"{site.url}/api/tags").json()["error"]
    known = {"Authorization": f"Bearer {TOKEN}"}
    reply = httpx.get(f"{site.url}/v1/models", headers=known)
    assert (reply.status_code, reply.json()["error"]["type"]) \
        == (502, "server_error")

    log = site.folder / "clawd.log"
    wait_until("the log", lambda: log.read_text().count("\n") == 4)
    assert '"user":"admin"' in log.read_text()


@pytest.fixture(scope="module")
def source():
    """The source tree of the packaged NGINX."""
    return subprocess.run([ROOT / "tools/nginx-source.sh"], check=True,
                          capture_output=True, text=True).stdout.strip()


def test_module_for_a_source_tree(source, tmp_path):
    done = make("module", NGINX_SRC=source)
    assert done.returncode == 0, done.stderr
    built = ROOT / "build/module/ngx_http_clawd_module.so"
    assert str(built.relative_to(ROOT)) in done.stdout

    # an NGINX of that release that was built --with-compat takes it

    conf = tmp_path / "nginx.conf"
    conf.write_text(f"load_module {built};\npid nginx.pid;\nevents {{ }}\n"
                    "http { clawd_zone clawd:1m; access_log off; }\n")
    done = subprocess.run([nginx(), "-t", "-e", "stderr", "-p", tmp_path,
                           "-c", conf], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_module_leaves_the_tree_alone(source, tmp_path):
    tree = tmp_path / "nginx"
    shutil.copytree(source, tree)
    (tree / "Makefile").write_text("# its owner's\n")
    assert make("module", NGINX_SRC=tree).returncode == 0
    assert (tree / "Makefile").read_text() == "# its owner's\n"
    assert not (tree / "objs").exists()


def test_module_refuses_an_old_nginx(source, tmp_path):
    tree = tmp_path / "nginx"
    shutil.copytree(source, tree)
    header = tree / "src/core/nginx.h"
    text = header.read_text()
    text = re.sub(r"(?m)^(#define nginx_version ).*", r"\g<1>    1021006", text)
    text = re.sub(r'(?m)^(#define NGINX_VERSION ).*', r'\g<1>     "1.21.6"', text)
    header.write_text(text)
    done = make("module", NGINX_SRC=tree)
    assert done.returncode != 0
    assert 'needs NGINX 1.22.0 or newer, and this is "1.21.6"' in done.stderr


@pytest.mark.parametrize("variables, said", [
    ({}, "NGINX_SRC=DIR"), ({"NGINX_SRC": "/"}, "no NGINX source tree")])
def test_module_says_what_it_needs(variables, said):
    done = make("module", **variables)
    assert done.returncode != 0
    assert said in done.stderr
