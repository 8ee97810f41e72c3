#!/usr/bin/env python3
"""Runs started the way users start them: mpirun, torchrun, and ranks on several hosts.

usage: check_launchers.py CHECK RANK_PROGRAM [PYTHON]
CHECK: mpirun, torchrun, hosts, hosts-mpirun, hosts-torchrun. A host is a network namespace joined to
the others by veth pairs and a bridge in a namespace of its own. Exits with 77 (skipped) where the
machine allows no namespaces or lacks the launcher. PYTHON has torch, for torchrun.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

STEPS, ENDLESS = "20", "1000000000"
TIMEOUT_MS, HEARTBEAT_MS = "20000", "300"
LIMIT = 60  # seconds; a run that takes longer hangs


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def clean_environment(**more):
    ours = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_|MASTER_|SLURM_|OMPI_|PMI|TORCHELASTIC)")
    env = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return env | {name: str(value) for name, value in more.items()}


class Process:
    def __init__(self, command, **env):
        self.command = [str(word) for word in command]
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            self.command, env=clean_environment(**env), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def end(self):
        """(status, output); the whole session of the process is killed when it takes too long."""
        try:
            output, _ = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            output, _ = self.process.communicate()
            raise AssertionError(f"{' '.join(self.command)} hangs:\n{output}")
        return self.process.returncode, output


def expect_done(outputs, world, launcher, hosts=None):
    text = "".join(outputs)
    for rank in range(world):
        host = hosts[rank] if hosts else 0
        line = f"rank {rank} of {world} on host {host} by {launcher}: done"
        assert line in text, f"no line \"{line}\" in:\n{text}"


class Hosts:
    """`count` network namespaces on one switch, 10.77.0.1 and so on."""

    def __init__(self, count):
        self.names = [f"ashlar{os.getpid()}h{i}" for i in range(count)]
        self.switch = f"ashlar{os.getpid()}sw"

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    def __enter__(self):
        try:
            self.ip("netns", "add", self.switch)
            self.ip("-n", self.switch, "link", "add", "switch0", "type", "bridge")
            self.ip("-n", self.switch, "link", "set", "switch0", "up")
            for i, name in enumerate(self.names):
                self.ip("netns", "add", name)
                self.ip("-n", name, "link", "set", "lo", "up")
                self.ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{i}",
                        "netns", self.switch)
                self.ip("-n", self.switch, "link", "set", f"port{i}", "master", "switch0", "up")
                self.ip("-n", name, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
                self.ip("-n", name, "link", "set", "eth0", "up")
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            self.__exit__()
            skip(f"no network namespaces here (needs root and ip): {getattr(error, 'stderr', error)}")
        return self

    def __exit__(self, *_):
        for name in [*self.names, self.switch]:
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def address(self, i):
        return f"10.77.0.{i + 1}"

    def inside(self, i, command):
        return ["ip", "netns", "exec", self.names[i], *command]

    def cut(self, i):
        self.ip("-n", self.names[i], "link", "set", "eth0", "down")


def ranks_on(hosts, program, steps):
    world = len(hosts.names)
    return [Process(hosts.inside(r, [program, steps, TIMEOUT_MS, HEARTBEAT_MS]), RANK=r,
                    WORLD_SIZE=world, MASTER_ADDR=hosts.address(0), MASTER_PORT=29517)
            for r in range(world)]


def check_hosts(program, _):
    for count in (2, 3):
        with Hosts(count) as hosts:
            results = [p.end() for p in ranks_on(hosts, program, STEPS)]
            expect_done([output for _, output in results], count, "environment", range(count))
    # A cut link: whoever is on the other side is named, and nobody waits for the timeout.
    for cut in (0, 2):
        with Hosts(3) as hosts:
            processes = ranks_on(hosts, program, ENDLESS)
            time.sleep(2.5)
            hosts.cut(cut)
            since = time.monotonic()
            for rank, process in enumerate(processes):
                status, output = process.end()
                assert status == 1, (rank, status, output)
                others = [r for r in range(3) if r != cut] if rank == cut else [cut]
                named = any(f"rank {r} (" in output for r in others)
                assert named and "cut off" in output, f"rank {rank} names nobody: {output}"
                print(f"host {cut} cut, rank {rank}: {output.strip()}")
            assert time.monotonic() - since < float(TIMEOUT_MS) / 1000, "later than the timeout"


def check_mpirun(program, _):
    mpirun = shutil.which("mpirun") or skip("no mpirun here")
    status, output = Process([mpirun, "--allow-run-as-root", "--oversubscribe", "-np", "3",
                              program, STEPS]).end()
    assert status == 0, output
    expect_done([output], 3, "Open MPI")


def check_hosts_mpirun(program, _):
    mpirun = shutil.which("mpirun") or skip("no mpirun here")
    with Hosts(2) as hosts, tempfile.TemporaryDirectory() as folder:
        # In place of ssh: enters the host's namespaces, and gives it a name and a folder of its own.
        agent = pathlib.Path(folder) / "agent"
        agent.write_text(f"""#!/bin/sh
number=${{1##*.}}; shift
mkdir -p {folder}/$number
exec unshare --uts sh -c 'hostname host'$number'; export TMPDIR={folder}/'$number'; exec ip netns exec \
{hosts.names[0][:-1]}'$((number - 1))' sh -c "$*"' sh "$@"
""")
        agent.chmod(0o755)
        where = ",".join(f"{hosts.address(i)}:1" for i in range(2))
        command = [mpirun, "--allow-run-as-root", "--mca", "plm_rsh_agent", agent,
                   "--mca", "oob_tcp_if_include", "eth0", "--mca", "btl_tcp_if_include", "eth0",
                   "-host", where, "-np", "2"]
        status, output = Process(hosts.inside(0, [*command, program, STEPS])).end()
        assert status != 0 and "-x MASTER_ADDR" in output, output
        status, output = Process(hosts.inside(
            0, [*command, "-x", f"MASTER_ADDR={hosts.address(0)}", "-x", "MASTER_PORT=29517",
                program, STEPS])).end()
        assert status == 0, output
        expect_done([output], 2, "Open MPI", [0, 1])


def torchrun_command(python, *options):
    return [python, "-m", "torch.distributed.run", *options, "--no-python"]


def check_torchrun(program, python):
    status, output = Process(torchrun_command(python, "--standalone", "--nproc-per-node", "2")
                             + [program, STEPS]).end()
    assert status == 0, output
    expect_done([output], 2, "torchrun")
    # An elastic restart: the first life ends with an error, the second meets under other keys.
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder) / "once"
        script.write_text(f"""#!/bin/sh
if [ "$TORCHELASTIC_RESTART_COUNT" = 0 ]; then exec timeout -s KILL 2 {program} {ENDLESS}; fi
exec {program} {STEPS}
""")
        script.chmod(0o755)
        status, output = Process(torchrun_command(python, "--standalone", "--nproc-per-node", "2",
                                                  "--max-restarts", "1") + [script]).end()
        assert status == 0, output
        expect_done([output], 2, "torchrun")


def check_hosts_torchrun(program, python):
    with Hosts(2) as hosts:
        agents = [Process(hosts.inside(i, torchrun_command(
            python, "--nnodes", "2", "--node-rank", str(i), "--nproc-per-node", "2",
            "--master-addr", hosts.address(0), "--master-port", "29518") + [program, STEPS]))
            for i in range(2)]
        results = [agent.end() for agent in agents]
        assert all(status == 0 for status, _ in results), results
        expect_done([output for _, output in results], 4, "torchrun", [0, 0, 1, 1])


CHECKS = {"mpirun": check_mpirun, "torchrun": check_torchrun, "hosts": check_hosts,
          "hosts-mpirun": check_hosts_mpirun, "hosts-torchrun": check_hosts_torchrun}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](os.path.abspath(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
    print("passed")
