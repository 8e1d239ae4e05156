"""The life of snapshots: names, versions, collection; and that none of it is torn, wrong or lost when processes die at any step, when Redis
does, or when the disk is full. Steps are counted, killed and failed by a preloaded library (tests/steps); schedules are drawn
from printed seeds."""
import errno
import glob
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import ORACLE, ROUSE, rouse

STEPS = os.path.join(os.path.dirname(os.path.dirname(ROUSE)), "tests", "libsteps.so")
CPU = ["--device", "cpu", "--threads", "1"]
PROMPT = ["--prompt", "In the beginning", "--max-tokens", "8", "--logprobs", "1", "--json"]
VARIANTS = 3


@pytest.fixture(scope="session")
def variants(tmp_path_factory):
    """Directories of one name with different models: path, digest and the answer of each, computed without any snapshot."""
    out = []
    scratch = str(tmp_path_factory.mktemp("scratch"))
    for i in range(VARIANTS):
        path = str(tmp_path_factory.mktemp(f"variant{i}") / "oracle")
        shutil.copytree(ORACLE, path)
        config = json.load(open(f"{path}/config.json"))
        config["layer_norm_eps"] = [1e-5, 0.1, 1.0][i]  # far enough apart for the answers to differ
        json.dump(config, open(f"{path}/config.json", "w"))
        built = json.loads(rouse("snapshot", "build", "--model", path, "--store", scratch, "--json", *CPU).stdout)
        plain = rouse("generate", "--model", path, "--no-snapshot", *CPU, *PROMPT)
        out.append({"path": path, "digest": built["model_digest"], "id": built["id"], "answer": answer(plain.stdout)[1]})
    assert len({v["answer"] for v in out}) == VARIANTS
    return out


def answer(stdout):
    """What was said: version, and what must not differ."""
    c = json.loads(stdout.splitlines()[0])
    return c.get("version", ""), json.dumps([c["text"], c["tokens"], c["logprobs"], c["finish_reason"]])


def ask(store, model, *args, check=True, env=None):
    return rouse("generate", "--model", model, "--store", store, *CPU, *PROMPT, *args, check=check, env=env)


def build(store, variant, *args):
    return json.loads(rouse("snapshot", "build", "--model", variant["path"], "--store", store, "--json", *CPU, *args).stdout)


def verb(store, *args, check=True):
    done = rouse("snapshot", *args, "--store", store, "--json", check=check)
    return [json.loads(line) for line in done.stdout.splitlines()] if check else done


def gc(store, *args):
    return verb(store, "gc", "--grace", "0s", *args)


def copy_store(store, to):
    subprocess.run(["cp", "-r", "--sparse=always", "--reflink=auto", store, to], check=True)
    return to


def stepped(store, argv, **settings):
    """The binary with the library preloaded; settings are the library's."""
    env = dict(os.environ, LD_PRELOAD=STEPS, STEPS_ROOT=store, **{f"STEPS_{k.upper()}": str(v) for k, v in settings.items()})
    return subprocess.run([ROUSE, *argv], capture_output=True, text=True, timeout=120, env=env)


def count_steps(store, argv, tmp_path):
    report = str(tmp_path / "steps")
    done = stepped(store, argv, report=report)
    assert done.returncode == 0, done.stderr
    n = int(open(report).read())
    assert n > 3, "the library did not see the program"
    return n


def an_hour_later(store):
    """Temporaries of writers are only taken for dead ones' after an hour."""
    for path in glob.glob(f"{store}/**/*.tmp-*", recursive=True):
        os.utime(path, (time.time() - 4000,) * 2)


def unaccounted(store):
    """Files of the store that belong to no snapshot that is there, and to no name."""
    ids = {os.path.basename(p)[:32] for p in glob.glob(f"{store}/*.snap")}
    strange = []
    for path in glob.glob(f"{store}/**/*", recursive=True):
        if os.path.isdir(path):
            continue
        rel = os.path.relpath(path, store)
        folder, name = os.path.split(rel)
        known = (re.fullmatch(r"[0-9a-f]{32}\.snap", rel) or (folder == "locks" and os.path.getsize(path) == 0)
                 or rel == "names/oracle" or (folder == "index/files" and re.fullmatch("[0-9a-f]{64}", name))
                 or (folder in ("used", "index/records") and name in ids)
                 or (folder == "index/models" and open(path).read()[3:35] in ids))
        if not known:
            strange.append(rel)
    return strange


# ---- what operators see ----

def test_versions(tmp_path, variants):
    store = str(tmp_path / "store")
    a, b, c = variants
    assert build(store, a)["version"] == "v1" and build(store, a)["built"] is False
    assert build(store, b)["version"] == "v2"
    for model, variant in (("oracle", b), ("oracle@v1", a), ("oracle@v2", b), (a["path"], a)):
        said = answer(ask(store, model).stdout)
        assert said == ("v1" if variant is a else "v2", variant["answer"])
    verb(store, "promote", "oracle@v1")
    assert answer(ask(store, "oracle").stdout) == ("v1", a["answer"])
    built = build(store, c, "--version", "2026-11.rc1")
    assert built["version"] == "2026-11.rc1" and not built["promoted"]
    assert answer(ask(store, "oracle").stdout) == ("v1", a["answer"])  # a build does not become active by itself
    assert build(store, c, "--promote")["promoted"]
    assert answer(ask(store, "oracle").stdout) == ("2026-11.rc1", c["answer"])
    (name,) = verb(store, "rollback", "oracle")
    assert name["answers"] == "v1" and answer(ask(store, "oracle").stdout)[0] == "v1"
    verb(store, "split", "oracle", "v1=90", "v2=10")
    verb(store, "pin", "oracle@2026-11.rc1")
    rows = {r["version"]: r for r in verb(store, "ls")}
    assert rows["v1"]["active"] and rows["v1"]["weight"] == 90 and rows["v2"]["weight"] == 10 and rows["2026-11.rc1"]["pinned"]
    assert all(r["last_used_ms"] > 0 and not r["in_use"] for r in rows.values())
    shared = verb(store, "diff", "oracle@v1", "oracle@v2")[0]
    assert set(shared["fingerprint"]) == {"model"} and 0 < shared["shared_bytes"] < shared["bytes_a"]
    shown = verb(store, "show", "oracle@v1", "--device", "cpu", "--cpu-kernels", "generic")[0]
    fits = verb(store, "show", "oracle@v1", "--device", "cpu")[0]
    assert fits["fits_here"] and (not shown["fits_here"] and set(shown["differs_here"]) == {"arch"} or
                                  "generic" in fits["fingerprint"]["arch"])


@pytest.mark.parametrize("argv, code, words", [
    (["promote", "oracle@v9"], 3, ["no version 'v9'", "it has v3, v2, v1"]),
    (["promote", "oracle"], 2, ["NAME@VERSION"]),
    (["promote", "delphi@v1"], 3, ["delphi"]),
    (["promote", "a/b@v1"], 2, ["not a name"]),
    (["rollback", "oracle"], 2, ["no step to go back"]),
    (["split", "oracle", "v1"], 2, ["VERSION=WEIGHT"]),
    (["split", "oracle", "v1=-1"], 2, ["VERSION=WEIGHT"]),
    (["split", "oracle", "v1=9999999"], 2, ["1000000"]),
    (["split", "oracle", "v1=0"], 2, ["every weight is 0"]),
    (["split", "oracle", "v1=1", "v1=2"], 2, ["two weights"]),
    (["pin", "oracle@../x"], 2, ["not a version"]),
    (["gc", "--max-age", "soon"], 2, ["--max-age", "7d"]),
    (["gc", "--max-age", "99999999d"], 2, ["7 digits"]),
    (["diff", "oracle"], 2, ["A B"]),
    (["diff", "oracle", "nothing"], 3, ["nothing"]),
])
def test_clear_words(life_store, argv, code, words):
    done = rouse("snapshot", *argv, "--store", life_store, check=False)
    assert done.returncode == code and all(w in done.stderr for w in words), done
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="session")
def life_store(tmp_path_factory, variants):
    """A store with three versions of a name, v1 promoted; to be copied."""
    store = str(tmp_path_factory.mktemp("life") / "store")
    for v in variants:
        build(store, v)
    verb(store, "promote", "oracle@v1")
    path = f"{store}/names/oracle"
    text = open(path).read().replace("previous v3", "previous -")  # nothing to roll back to, so that two may be collected
    open(path, "w").write(text)
    return store


def test_promote_wants_a_snapshot(tmp_path, life_store):
    store = copy_store(life_store, str(tmp_path / "store"))
    gone = gc(store, "--max-bytes", "1")
    assert [r["version"] for r in gone if r["action"] == "evicted"] and gone[-1]["over_bytes"] > 0
    refused = verb(store, "promote", "oracle@v2", check=False)
    assert refused.returncode == 3 and "no snapshot of 'oracle@v2'" in refused.stderr
    verb(store, "promote", "oracle@v2", "--force")
    done = ask(store, "oracle", check=False)
    assert done.returncode == 3 and "'v2' of 'oracle' has no snapshot for this worker" in done.stderr


def test_a_quarantined_active_version_is_not_passed_over(tmp_path, variants, life_store):
    store = copy_store(life_store, str(tmp_path / "store"))
    verb(store, "promote", "oracle@v2")
    with open(f"{store}/{variants[1]['id']}.snap", "r+b") as f:
        f.seek(-5000, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-5000, os.SEEK_END)
        f.write(bytes([byte ^ 1]))
    assert ask(store, "oracle", check=False).returncode == 3  # found out here, and set aside
    done = ask(store, "oracle", check=False)
    assert done.returncode == 3 and "quarantined" in done.stderr and "rollback oracle" in done.stderr
    verb(store, "rollback", "oracle")
    assert answer(ask(store, "oracle").stdout) == ("v1", variants[0]["answer"])
    assert answer(ask(store, variants[1]["path"]).stdout) == ("v2", variants[1]["answer"])  # built anew
    assert any(r["state"] == "quarantined" for r in verb(store, "ls"))
    gc(store, "--quarantine-age", "0s")
    assert not unaccounted(store) and len(glob.glob(f"{store}/*.snap")) == 3


# ---- killed at every step ----

def test_build_killed_at_every_step(tmp_path, variants):
    v = variants[0]
    store = str(tmp_path / "count")
    argv = ["snapshot", "build", "--model", v["path"], *CPU]
    n = count_steps(store, [*argv, "--store", store], tmp_path)
    for at in range(1, n + 1):
        store = str(tmp_path / f"at{at}")
        done = stepped(store, [*argv, "--store", store], kill=at)
        assert done.returncode == -signal.SIGKILL, (at, done)
        assert answer(ask(store, v["path"]).stdout)[1] == v["answer"], at
        an_hour_later(store)
        gc(store)
        assert not unaccounted(store), at
        (row,) = verb(store, "ls")
        assert row["state"] == "ready" and row["version"] == "v1", at
        assert answer(ask(store, "oracle@v1").stdout) == ("v1", v["answer"]), at
        shutil.rmtree(store)
    print(f"killed at each of {n} steps")


def test_collection_killed_at_every_step(tmp_path, variants, life_store):
    argv = ["snapshot", "gc", "--grace", "0s", "--max-bytes", "1", "--json"]
    store = copy_store(life_store, str(tmp_path / "count"))
    n = count_steps(store, [*argv, "--store", store], tmp_path)
    assert len(glob.glob(f"{store}/*.snap")) == 1
    for at in range(1, n + 1):
        store = copy_store(life_store, str(tmp_path / f"at{at}"))
        done = stepped(store, [*argv, "--store", store], kill=at)
        assert done.returncode == -signal.SIGKILL, (at, done)
        assert answer(ask(store, "oracle").stdout) == ("v1", variants[0]["answer"]), at
        for i, version in ((1, "v2"), (2, "v3")):  # there and right, or gone: never between
            done = ask(store, f"oracle@{version}", check=False)
            assert done.returncode == 3 or answer(done.stdout) == (version, variants[i]["answer"]), (at, done)
        gc(store, "--max-bytes", "1")
        assert not unaccounted(store) and len(glob.glob(f"{store}/*.snap")) == 1, at
        shutil.rmtree(store)
    print(f"killed at each of {n} steps")


def test_changes_of_a_name_killed_at_every_step(tmp_path, life_store):
    store = copy_store(life_store, str(tmp_path / "count"))
    argv = ["snapshot", "promote", "oracle@v2", "--json"]
    n = count_steps(store, [*argv, "--store", store], tmp_path)
    seen = set()
    for at in range(1, n + 1):
        store = copy_store(life_store, str(tmp_path / f"at{at}"))
        assert stepped(store, [*argv, "--store", store], kill=at).returncode == -signal.SIGKILL
        seen.add(answer(ask(store, "oracle").stdout)[0])
        (name,) = verb(store, "promote", "oracle@v3")  # the lock of the dead holds nobody up
        assert name["answers"] == "v3" and name["previous"] in ("v1", "v2")
        an_hour_later(store)
        gc(store)
        assert not unaccounted(store), at
        shutil.rmtree(store)
    assert seen == {"v1", "v2"}, "the kills were all before, or all behind the change"


def test_a_builder_stopped_at_every_step_has_no_say_afterwards(tmp_path, variants, redis):
    """Stopped beyond the end of its lease, while a builder on another machine makes and publishes another model of that name: what
    that one said stands."""
    late, other = variants[0], variants[1]
    argv = ["snapshot", "build", "--model", late["path"], *CPU, "--redis", redis.url]
    redis.command_raw(b"FLUSHALL\r\n")
    store = str(tmp_path / "count")
    n, n_held = count_steps(store, [*argv, "--store", store], tmp_path), 0
    for at in range(1, n + 1):
        redis.command_raw(b"FLUSHALL\r\n")
        store = str(tmp_path / f"at{at}")
        env = dict(os.environ, LD_PRELOAD=STEPS, STEPS_ROOT=store, STEPS_STOP=str(at))
        p = subprocess.Popen([ROUSE, *argv, "--store", store], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        os.waitpid(p.pid, os.WUNTRACED)  # stopped
        leases = re.findall(rb"rouse:lease:[0-9a-f]+", redis.command_raw(b"KEYS rouse:lease:*\r\n"))
        for lease in leases:
            redis.command_raw(b"DEL " + lease + b"\r\n")  # it ran out
        build(str(tmp_path / f"other{at}"), other, "--redis", redis.url)
        p.send_signal(signal.SIGCONT)
        _, err = p.communicate(timeout=60)
        assert p.returncode in (0, 4), (at, p.returncode, err)
        ids = set(re.findall(rb"[0-9a-f]{32}\r\n", redis.command_raw(b"HVALS rouse:model:name:oracle\r\n")))
        if leases:  # it had the lease, and lost it
            n_held += 1
            assert ids == {other["id"].encode() + b"\r\n"}, (at, ids, err)
        for path in glob.glob(f"{store}/*.snap"):
            verb(store, "verify", os.path.basename(path)[:32])
        assert not glob.glob(f"{store}/*.building"), at
        shutil.rmtree(store)
        shutil.rmtree(str(tmp_path / f"other{at}"))
    assert n_held > n // 2, (n_held, n)


# ---- random schedules ----

class Schedule:
    """Commands at the same time on one store, half of them killed at a random moment. What a command that ended by itself said must
    be right; what may be refused is only what is not there."""

    def __init__(self, seed, store, variants):
        self.random = random.Random(seed)
        self.store, self.variants = store, variants
        self.running, self.n_checked, self.n_killed = [], 0, 0

    def command(self):
        r, v = self.random, self.random.choice(self.variants)
        version = r.choice(["v1", "v2", "v3"])
        return r.choice([
            ("dir", v, ["generate", "--model", v["path"], *CPU, *PROMPT]),
            ("name", None, ["generate", "--model", "oracle", *CPU, *PROMPT]),
            ("name", None, ["generate", "--model", f"oracle@{version}", *CPU, *PROMPT]),
            ("build", v, ["snapshot", "build", "--model", v["path"], *CPU, "--json"]),
            ("build", v, ["snapshot", "build", "--model", v["path"], "--force", *CPU, "--json"]),
            ("change", None, ["snapshot", "promote", f"oracle@{version}"]),
            ("change", None, ["snapshot", "rollback", "oracle"]),
            ("change", None, ["snapshot", "split", "oracle", "v1=1", "v2=1"]),
            ("change", None, ["snapshot", "pin", f"oracle@{version}"]),
            ("change", None, ["snapshot", "unpin", f"oracle@{version}"]),
            ("gc", None, ["snapshot", "gc", "--grace", "0s", "--max-bytes", r.choice(["1", "5M", "9M"])]),
            ("gc", None, ["snapshot", "gc", "--grace", "0s", "--keep", "1"]),
            ("change", None, ["snapshot", "reindex"]),
        ])

    def start(self):
        kind, variant, argv = self.command()
        p = subprocess.Popen([ROUSE, *argv, "--store", self.store], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        dies = time.monotonic() + self.random.uniform(0, 0.05) if self.random.random() < 0.5 else None
        self.running.append((p, kind, variant, argv, dies))

    def check(self, p, kind, variant, argv):
        out, err = p.communicate(timeout=60)
        if p.returncode == -signal.SIGKILL:
            self.n_killed += 1
            return
        assert p.returncode in (0, 1, 2, 3) or (p.returncode == 4 and kind in ("build", "gc")), (argv, p.returncode, err)
        lost = re.findall(r"snapshot not restored .*", err)  # collected between the look-up and the opening
        assert "quarantined" not in err and all("not there" in line for line in lost), (argv, err)
        if kind == "dir":
            assert p.returncode == 0, (argv, err)
        if kind in ("dir", "name") and p.returncode == 0:
            version, said = answer(out)
            (right,) = [v for v in self.variants if v["answer"] == said]  # nobody else's
            assert variant is None or right is variant, argv
            digests = dict(re.findall(r"^version (\S+) (\S+)", open(f"{self.store}/names/oracle").read(), re.M))
            assert version == "" or digests[version] == right["digest"], (argv, version)
            self.n_checked += 1

    def run(self, n):
        started = 0
        while True:
            enough = started >= n and self.n_checked > 5 and self.n_killed > 3
            if enough and not self.running:
                return
            assert started < 10 * n, "the schedule shows nothing"
            if not enough and len(self.running) < 4:
                self.start()
                started += 1
                continue
            for job in self.running[:]:
                p, kind, variant, argv, dies = job
                if dies and time.monotonic() >= dies:
                    p.kill()
                if p.poll() is not None:
                    self.running.remove(job)
                    self.check(p, kind, variant, argv)
            time.sleep(0.002)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_random_schedules(tmp_path, variants, seed):
    store = str(tmp_path / "store")
    build(store, variants[0])
    s = Schedule(seed, store, variants)
    held = subprocess.Popen([ROUSE, "generate", "--model", "oracle@v1", "--store", store, *CPU, "--in", "-"],
                            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_in_use(store)
    s.run(100)
    assert os.path.exists(f"{store}/{variants[0]['id']}.snap") and held.poll() is None  # held throughout
    held.kill()
    held.wait()
    for row in verb(store, "ls"):
        verb(store, "verify", row["id"])
    an_hour_later(store)
    gc(store)
    assert not unaccounted(store)
    for v in variants:
        assert answer(ask(store, v["path"]).stdout)[1] == v["answer"]
    print(f"seed {seed}: {s.n_checked} answers right, {s.n_killed} killed")


def wait_in_use(store):
    deadline = time.monotonic() + 30
    while not any(r["in_use"] for r in verb(store, "ls")):
        assert time.monotonic() < deadline, "nobody uses anything"
        time.sleep(0.02)


def test_what_is_in_use_stays(tmp_path, variants, life_store):
    store = copy_store(life_store, str(tmp_path / "store"))
    held = subprocess.Popen([ROUSE, "generate", "--model", "oracle@v3", "--store", store, *CPU, "--in", "-", "--json"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wait_in_use(store)
    said = {r.get("version"): r for r in gc(store, "--max-bytes", "1")}
    assert said["v3"]["action"] == "kept" and "in use" in said["v3"]["reason"] and said["v2"]["action"] == "evicted"
    refused = verb(store, "rm", "oracle@v3", check=False)
    assert refused.returncode == 4 and "in use" in refused.stderr
    verb(store, "rm", "oracle@v3", "--force")  # the process goes on
    out, _ = held.communicate(json.dumps({"id": "x", "text": "In the beginning", "max_tokens": 8, "logprobs": 1}) + "\n", timeout=60)
    assert answer(out) == ("v3", variants[2]["answer"])


# ---- Redis: down, empty, slow, restarted ----

class Proxy:
    """Between a program and Redis: counts what clients send, and at the given one lets the connection break, stand still or be slow."""

    def __init__(self, port):
        self.target = port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.server.getsockname()[1]}"
        self.n_sent, self.break_at, self.delay, self.silent, self.behind = 0, None, 0, False, False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client, socket.create_connection(("127.0.0.1", self.target)) as redis:
            while data := client.recv(1 << 16):
                self.n_sent += 1
                if self.silent:
                    time.sleep(3)
                    return
                if self.n_sent == self.break_at and not self.behind:
                    return
                time.sleep(self.delay)
                redis.sendall(data)
                reply = redis.recv(1 << 20)
                if self.n_sent == self.break_at:
                    return  # done there, unknown here
                client.sendall(reply)

    def close(self):
        self.server.close()


@pytest.fixture
def proxy(redis):
    redis.command_raw(b"FLUSHALL\r\n")
    p = Proxy(redis.port)
    yield p
    p.close()


def test_the_store_alone_suffices(tmp_path, variants, redis, proxy):
    """Redis lost, broken or emptied at each of its answers, during a build, a promotion and a restore."""
    for behind in (False, True):
        for at in range(1, 8):
            store = str(tmp_path / f"at{at}{behind}")
            redis.command_raw(b"FLUSHALL\r\n")
            for step in (["snapshot", "build", "--model", variants[0]["path"], *CPU],
                         ["snapshot", "build", "--model", variants[1]["path"], *CPU, "--promote"],
                         ["snapshot", "promote", "oracle@v1"],
                         ["generate", "--model", "oracle", *CPU, *PROMPT]):
                proxy.n_sent, proxy.break_at, proxy.behind = 0, at, behind
                done = rouse(*step, "--store", store, "--redis", proxy.url)
            assert answer(done.stdout) == ("v1", variants[0]["answer"])
            redis.command_raw(b"FLUSHALL\r\n")
            proxy.break_at = None
            assert answer(ask(store, "oracle", "--redis", proxy.url).stdout) == ("v1", variants[0]["answer"])
            assert answer(ask(store, "oracle").stdout) == ("v1", variants[0]["answer"])
            verb(store, "gc", "--grace", "0s", "--redis", redis.url)
            assert not unaccounted(store)
            shutil.rmtree(store)


def test_redis_slow_silent_or_away(tmp_path, variants, life_store, proxy):
    store = copy_store(life_store, str(tmp_path / "store"))
    for delay, silent, at_most in ((0.15, False, 2), (0, True, 3)):
        proxy.delay, proxy.silent = delay, silent
        began = time.monotonic()
        assert answer(ask(store, "oracle", "--redis", proxy.url).stdout) == ("v1", variants[0]["answer"])
        assert time.monotonic() - began < at_most
    proxy.close()
    assert answer(ask(store, "oracle", "--redis", proxy.url).stdout) == ("v1", variants[0]["answer"])
    kept = verb(store, "gc", "--grace", "0s", "--max-bytes", "1", "--redis", proxy.url)
    assert {r["action"] for r in kept[:-1]} == {"kept"} and any("Redis does not say" in r["reason"] for r in kept[:-1])


def test_a_stale_copy_in_redis_does_not_count(tmp_path, variants, life_store, redis):
    """The name was changed while Redis was away: its copy is older, and the next start mends it."""
    store = copy_store(life_store, str(tmp_path / "store"))
    redis.command_raw(b"FLUSHALL\r\n")
    verb(store, "reindex", "--redis", redis.url)
    verb(store, "promote", "oracle@v2")  # Redis does not hear of it
    assert b"revision 5" not in redis.command_raw(b"GET rouse:name:oracle\r\n")
    assert answer(ask(store, "oracle", "--redis", redis.url).stdout) == ("v2", variants[1]["answer"])
    assert b"revision 5" in redis.command_raw(b"GET rouse:name:oracle\r\n")


def monitored(redis, run):
    """The commands that clients sent while run() ran; what scripts did in the server is left out."""
    with socket.create_connection(("127.0.0.1", redis.port), 5) as s:
        s.sendall(b"MONITOR\r\n")
        assert s.recv(5) == b"+OK\r\n"
        run()
        redis.command_raw(b"PING the-end\r\n")
        s.settimeout(5)
        text = b""
        while b"the-end" not in text:
            text += s.recv(1 << 16)
    lines = text.decode(errors="replace").split("\n")
    return [line for line in lines if line.startswith("+") and " lua]" not in line and "the-end" not in line], text


def test_a_restore_asks_redis_twice_at_most(tmp_path, variants, life_store, redis):
    store = copy_store(life_store, str(tmp_path / "store"))
    for forget in (True, False, False):
        if forget:
            redis.command_raw(b"FLUSHALL\r\n")
        for model in ("oracle", "oracle@v2", variants[2]["path"]):
            sent, all_of_it = monitored(redis, lambda: ask(store, model, "--redis", redis.url))
            assert 1 <= len(sent) <= 2 and all('"EVAL"' in line for line in sent), sent
            assert not re.search(rb'"(SCAN|KEYS|HSCAN|ZSCAN|SSCAN)"', all_of_it, re.I)
    assert len(sent) == 1  # once it knows, one question


def test_uses_are_announced(tmp_path, life_store, redis):
    store = copy_store(life_store, str(tmp_path / "store"))
    redis.command_raw(b"FLUSHALL\r\n")
    held = subprocess.Popen([ROUSE, "generate", "--model", "oracle@v3", "--store", store, "--redis", redis.url, *CPU, "--in", "-"],
                            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    other = copy_store(life_store, str(tmp_path / "other"))  # another machine's sight of it: no lock there
    deadline = time.monotonic() + 40
    while not any(r["uses_by_redis"] for r in verb(other, "ls", "--redis", redis.url)):
        assert time.monotonic() < deadline and held.poll() is None
        time.sleep(0.5)
    said = {r.get("version"): r for r in verb(other, "gc", "--grace", "0s", "--max-bytes", "1", "--redis", redis.url)}
    assert said["v3"]["action"] == "kept" and "by Redis" in said["v3"]["reason"] and said["v2"]["action"] == "evicted"
    held.stdin.close()
    assert held.wait(30) == 0
    said = {r.get("version"): r for r in verb(other, "gc", "--grace", "0s", "--max-bytes", "1", "--redis", redis.url)}
    assert said["v3"]["action"] == "evicted"  # it took its leave
    assert b"evicted" in redis.command_raw(b"XREVRANGE rouse:events + - COUNT 1\r\n")


# ---- the disk is full ----

def test_full_disk_at_every_step(tmp_path, variants):
    v = variants[0]
    store = str(tmp_path / "count")
    argv = ["snapshot", "build", "--model", v["path"], *CPU]
    n = count_steps(store, [*argv, "--store", store], tmp_path)
    n_failed = 0
    for at in range(1, n + 1):
        store = str(tmp_path / f"at{at}")
        done = stepped(store, [*argv, "--store", store], fail=f"{at}:{errno.ENOSPC}")
        assert done.returncode in (0, 1), (at, done)
        assert done.returncode == 0 or "No space left on device" in done.stderr, (at, done)
        n_failed += done.returncode == 1
        left = [p for p in glob.glob(f"{store}/**/*", recursive=True) if ".tmp-" in p or p.endswith(".building")]
        assert not left, (at, left)
        assert answer(ask(store, v["path"]).stdout)[1] == v["answer"], at
        shutil.rmtree(store)
    assert n_failed > 5


def test_a_disk_that_is_too_small(tmp_path, variants):
    """A file system of 2 MB where one can be mounted, else a limit on the size of files."""
    store, mounted, limit = str(tmp_path / "small"), False, None
    os.mkdir(store)
    if os.geteuid() == 0:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", store], capture_output=True).returncode == 0
    if not mounted:
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        done = subprocess.run([ROUSE, "snapshot", "build", "--model", variants[0]["path"], "--store", store, *CPU],
                              capture_output=True, text=True, timeout=60, preexec_fn=limit)
        assert done.returncode == 1 and "no room" in done.stderr and "bytes are needed" in done.stderr, done
        assert not glob.glob(f"{store}/*.building") and not glob.glob(f"{store}/*.snap")
        served = subprocess.run([ROUSE, "generate", "--model", variants[0]["path"], "--store", store, *CPU, *PROMPT],
                                capture_output=True, text=True, timeout=60, preexec_fn=limit)
        assert served.returncode == 0 and answer(served.stdout)[1] == variants[0]["answer"], served
    finally:
        if mounted:
            subprocess.run(["umount", store], check=True)
