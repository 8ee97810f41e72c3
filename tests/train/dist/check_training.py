#!/usr/bin/env python3
"""Training runs started the way users start them, on one host and on several (check_launchers.py).

usage: check_training.py CHECK ASHLAR RUN_FILES [PYTHON]
CHECK: hosts, hosts-mpirun, torchrun, hosts-torchrun. ASHLAR is the command; RUN_FILES writes a tiny run's data and
configuration. Every run is in ordered mode: it must end with the bits of one rank that no launcher started.
Exits with 77 (skipped) where the machine allows no namespaces or lacks the launcher. PYTHON has torch.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from check_launchers import Hosts, Process, skip, torchrun_command

TIMEOUT = 20  # distributed.timeout, seconds
TIMES = {"tokens_per_second", "data_wait", "communication_wait", "memory_bytes", "mfu"}
PORT = 29519


class Place:
    """A folder with data, a configuration, and the run that all others must equal."""

    def __init__(self, ashlar, run_files, folder):
        self.ashlar, self.run_files, self.folder = ashlar, run_files, pathlib.Path(folder)
        subprocess.run([run_files, "write", folder], check=True)
        status, output = Process(self.command("straight")).end()
        assert status == 0, output
        self.straight = self.result("straight")

    def command(self, run, *options):
        options = ["distributed.reduce=ordered", f"distributed.timeout={TIMEOUT}", *options]
        words = [self.ashlar, "train", self.folder / "config.yaml", "--output", self.folder / run,
                 "--resume", "auto"]
        return [str(word) for word in words] + [word for o in options for word in ("--set", o)]

    def result(self, run):
        """metrics.jsonl without times, and the digest of all values of the last checkpoint."""
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        metrics = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
        shown = subprocess.run([self.run_files, "digest", self.folder / run], check=True,
                               capture_output=True, text=True)
        return metrics, shown.stdout

    def expect_same(self, run):
        assert self.result(run) == self.straight, f"{run} differs from one rank's run"
        print(f"{run}: the bits of one rank")

    def await_lines(self, run, count):
        path = self.folder / run / "metrics.jsonl"
        limit = time.monotonic() + 60
        while not path.exists() or path.read_text().count("\n") < count:
            assert time.monotonic() < limit, f"{run} has not come to line {count}"
            time.sleep(0.02)


def ranks_on(hosts, world, command):
    """Rank r on host r mod the number of hosts."""
    n = len(hosts.names)
    return [Process(hosts.inside(r % n, command), RANK=r, WORLD_SIZE=world, LOCAL_RANK=r // n,
                    LOCAL_WORLD_SIZE=world // n, MASTER_ADDR=hosts.address(0), MASTER_PORT=PORT)
            for r in range(world)]


def check_hosts(place, _):
    with Hosts(2) as hosts:
        for world, stage in ((2, 2), (4, 3)):
            run = f"hosts{world}"
            for process in ranks_on(hosts, world, place.command(run, f"distributed.zero={stage}")):
                status, output = process.end()
                assert status == 0, output
            place.expect_same(run)
    # A cut link: every rank ends, well within the timeout, and names one on the other side.
    with Hosts(2) as hosts:
        endless = place.command("cut", "train.steps=1000000", "distributed.zero=1")
        processes = ranks_on(hosts, 4, endless)
        place.await_lines("cut", 3)
        hosts.cut(1)
        since = time.monotonic()
        for rank, process in enumerate(processes):
            status, output = process.end()
            assert status == 1, (rank, status, output)
            beyond = [r for r in range(4) if r % 2 != rank % 2]
            assert any(f"rank {r} (" in output for r in beyond), f"rank {rank} names nobody: {output}"
            print(f"link cut, rank {rank}: {output.strip().splitlines()[-1]}")
        print(f"all ended {time.monotonic() - since:.1f} s after the cut")
        assert time.monotonic() - since < TIMEOUT + 5, "later than the timeout"
    # The link is back: the run goes on by itself where its newest checkpoint is.
    with Hosts(2) as hosts:
        subprocess.run([shutil.which("rm"), "-rf", place.folder / "back"], check=True)
        processes = ranks_on(hosts, 2, place.command("back"))
        place.await_lines("back", 5)
        hosts.cut(0)
        ends = [process.end()[0] for process in processes]
        assert ends in ([1, 1], [0, 0]), ends
    with Hosts(2) as hosts:
        for process in ranks_on(hosts, 4, place.command("back", "distributed.zero=2")):
            status, output = process.end()
            assert status == 0, output
        place.expect_same("back")


def check_hosts_mpirun(place, _):
    mpirun = shutil.which("mpirun") or skip("no mpirun here")
    with Hosts(2) as hosts, tempfile.TemporaryDirectory() as folder:
        agent = pathlib.Path(folder) / "agent"  # in place of ssh, as in check_launchers.py
        agent.write_text(f"""#!/bin/sh
number=${{1##*.}}; shift
mkdir -p {folder}/$number
exec unshare --uts sh -c 'hostname host'$number'; export TMPDIR={folder}/'$number'; exec ip netns exec \
{hosts.names[0][:-1]}'$((number - 1))' sh -c "$*"' sh "$@"
""")
        agent.chmod(0o755)
        for world in (2, 4):
            where = ",".join(f"{hosts.address(i)}:{world // 2}" for i in range(2))
            command = [mpirun, "--allow-run-as-root", "--oversubscribe", "--mca", "plm_rsh_agent", agent,
                       "--mca", "oob_tcp_if_include", "eth0", "--mca", "btl_tcp_if_include", "eth0",
                       "-host", where, "-np", str(world), "-x", f"MASTER_ADDR={hosts.address(0)}",
                       "-x", f"MASTER_PORT={PORT}", "-x", "GOMP_SPINCOUNT"]
            run = f"mpirun{world}"
            status, output = Process(hosts.inside(0, [*command, *place.command(run)])).end()
            assert status == 0, output
            place.expect_same(run)


def check_torchrun(place, python):
    for world, stage in ((2, 1), (4, 3)):
        run = f"torchrun{world}"
        status, output = Process(
            torchrun_command(python, "--standalone", "--nproc-per-node", str(world))
            + place.command(run, f"distributed.zero={stage}")).end()
        assert status == 0, output
        place.expect_same(run)
    # Elastic restarts: rank 1 of the first two lives is killed in the middle; torchrun starts all anew.
    script = place.folder / "killed"
    script.write_text(f"""#!/bin/sh
if [ "$TORCHELASTIC_RESTART_COUNT" -lt 2 ] && [ "$RANK" = 1 ]; then
  "$@" & child=$!
  lines() {{ cat {place.folder}/elastic/metrics.jsonl 2>/dev/null | wc -l; }}
  while [ "$(lines)" -lt $((6 + 8 * TORCHELASTIC_RESTART_COUNT)) ]; do sleep 0.01; done
  kill -9 $child; wait $child; exit 137
fi
exec "$@"
""")
    script.chmod(0o755)
    status, output = Process(
        torchrun_command(python, "--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
        + [script, *place.command("elastic")]).end()
    assert status == 0, output
    assert output.count("resuming from") >= 2, output
    place.expect_same("elastic")


def check_hosts_torchrun(place, python):
    with Hosts(2) as hosts:
        for world in (2, 4):
            run = f"hosts-torchrun{world}"
            agents = [Process(hosts.inside(i, torchrun_command(
                python, "--nnodes", "2", "--node-rank", str(i), "--nproc-per-node", str(world // 2),
                "--master-addr", hosts.address(0), "--master-port", str(PORT))
                + place.command(run))) for i in range(2)]
            for status, output in [agent.end() for agent in agents]:
                assert status == 0, output
            place.expect_same(run)


CHECKS = {"hosts": check_hosts, "hosts-mpirun": check_hosts_mpirun, "torchrun": check_torchrun,
          "hosts-torchrun": check_hosts_torchrun}

if __name__ == "__main__":
    os.environ["GOMP_SPINCOUNT"] = "1000"  # more ranks than cores
    with tempfile.TemporaryDirectory() as temporary:
        CHECKS[sys.argv[1]](Place(os.path.abspath(sys.argv[2]), os.path.abspath(sys.argv[3]), temporary),
                            sys.argv[4] if len(sys.argv) > 4 else None)
    print("passed")
