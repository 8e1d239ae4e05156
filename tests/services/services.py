"""Real services for tests and for the real demo: one Apache Kafka broker (KRaft), redis-server and an S3 server, on free loopback
ports.

Only the standard library. Each service is a child process with its data in a folder of its own; close() ends it and
nothing else. A broker may be stopped, killed and started again on the same port with the same data.
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KAFKA_JARS = os.path.join(ROOT, ".kafka", "libs")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Service:
    """A child process with a log file, started and stopped as often as a test likes."""

    name = "service"

    def __init__(self, folder):
        self.folder = folder
        self.log = os.path.join(folder, self.name + ".log")
        self.process = None
        os.makedirs(folder, exist_ok=True)

    def spawn(self, argv, env=None):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder,
                                            env=dict(os.environ, **(env or {})))

    def wait_for(self, is_up, seconds):
        end = time.monotonic() + seconds
        while not is_up():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} is not up after {seconds} s:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self, n_bytes=3000):
        with open(self.log, "rb") as f:
            return f.read()[-n_bytes:].decode(errors="replace")

    def stop(self, how=signal.SIGTERM, seconds=30):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def kill(self):
        self.stop(signal.SIGKILL)

    def close(self):
        self.stop()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.close()


class Kafka(Service):
    """Broker and controller in one JVM. bootstrap is its address."""

    name = "kafka"

    def __init__(self, folder, extra=()):
        super().__init__(folder)
        if not os.path.isdir(KAFKA_JARS):
            raise RuntimeError("Apache Kafka is not here: run ./dev setup")
        self.port, self.controller_port = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.properties = os.path.join(folder, "server.properties")
        self.extra = list(extra)

    def java(self, main, *args, heap="384m"):
        return ["java", f"-Xmx{heap}", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", os.path.join(KAFKA_JARS, "*"), main, *args]

    def format(self):
        lines = [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{self.controller_port}",
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={self.folder}/data",
            "num.partitions=6",
            "auto.create.topics.enable=false",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=4",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            *self.extra,
        ]
        self.write_and_format(lines)

    def write_and_format(self, lines):
        with open(self.properties, "w") as f:
            f.write("\n".join(lines) + "\n")
        done = subprocess.run(self.java("kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c",
                                        self.properties), capture_output=True, text=True, cwd=self.folder)
        if done.returncode:
            raise RuntimeError("formatting the broker's storage failed:\n" + done.stdout + done.stderr)

    def start(self):
        if not os.path.exists(self.properties):
            self.format()
        self.spawn(self.java("kafka.Kafka", self.properties))
        self.wait_for(self.answers, 90)

    def answers(self):
        """Sends an ApiVersions v0 request: the port opens before the broker can serve."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as s:
                s.settimeout(2)
                s.sendall(bytes.fromhex("0000000e" "0012" "0000" "00000001" "0004") + b"test")
                return len(s.recv(8)) > 0
        except OSError:
            return False


class Redis(Service):
    """redis-server without persistence. url is its address."""

    name = "redis"

    def __init__(self, folder, password=None):
        super().__init__(folder)
        self.port, self.password = free_port(), password
        self.url = f"redis://{':' + password + '@' if password else ''}127.0.0.1:{self.port}"
        if shutil.which("redis-server") is None:
            raise RuntimeError("redis-server is not here: run ./dev setup")

    def start(self):
        argv = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", self.folder]
        if self.password:
            argv += ["--requirepass", self.password]
        self.spawn(argv)
        self.wait_for(self.answers, 20)

    def answers(self):
        try:
            return re.match(rb"\+PONG|-NOAUTH", self.command_raw(b"PING\r\n")) is not None
        except OSError:
            return False

    def command_raw(self, line):
        with socket.create_connection(("127.0.0.1", self.port), 1) as s:
            s.settimeout(2)
            s.sendall(line)
            return s.recv(4096)


class S3(Service):
    """versitygw's S3 API (tests/services/s3) over a folder. env: what a client needs to reach it."""

    name = "s3"
    key, secret = "test-key-id", "test-secret-0123456789"

    def __init__(self, folder):
        super().__init__(folder)
        self.port = free_port()
        self.program = os.path.join(ROOT, ".s3", "s3")
        if not os.path.exists(self.program):
            raise RuntimeError("the S3 server is not here: run ./dev setup")
        self.data, self.metadata = os.path.join(folder, "data"), os.path.join(folder, "metadata")
        os.makedirs(self.data)
        os.makedirs(self.metadata)
        self.url = f"http://127.0.0.1:{self.port}"

    def env(self, url=None, secret=None):
        """url: of a proxy in front of it."""
        return {"AWS_ENDPOINT_URL": url or self.url, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": self.key,
                "AWS_SECRET_ACCESS_KEY": secret or self.secret}

    def start(self):
        self.spawn([self.program, f"127.0.0.1:{self.port}", self.data, self.metadata],
                   {"ROOT_ACCESS_KEY": self.key, "ROOT_SECRET_KEY": self.secret})
        self.wait_for(self.answers, 20)

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def bucket(self, name):
        os.makedirs(os.path.join(self.data, name), exist_ok=True)
        return name

    def keys(self, bucket):
        """What readers can see: complete objects alone."""
        top = os.path.join(self.data, bucket)
        return sorted(os.path.relpath(os.path.join(at, f), top) for at, _, files in os.walk(top) for f in files
                      if not os.path.relpath(at, top).startswith(".sgwtmp"))
