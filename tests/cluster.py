"""A Slurm of one node for tests: munged, slurmctld and slurmd in a folder of their own, without systemd or root rights.

Nothing outside the folder is written. The daemons listen on 127.0.0.1 alone, on ports that are free. As root, jobs run
as their submitter, else all as the user. Every daemon is stopped by the number in its own pid file.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NEEDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PACKAGES = "slurm-wlm slurm-client munge"
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in NEEDS if shutil.which(name, path=_PATH) is None]


class Cluster:
    """`with Cluster(folder) as cluster:` a node that is ready for jobs; `cluster.environment` leads commands to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}

    def __enter__(self) -> Cluster:
        for name in ("state", "spool", "log", "munge"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        (self.folder / "munge").chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(self._configuration())
        try:
            munge = {part: self.folder / "munge" / part for part in ("socket", "pid", "log", "seed")}
            files = [f"--{option}={munge[part]}" for option, part in
                     {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}.items()]
            self._start("munged", "--force", f"--key-file={key}", *files)
            self._start("slurmctld", "-f", self.environment["SLURM_CONF"])
            self._start("slurmd", "-f", self.environment["SLURM_CONF"])
            wait_for(lambda: self.run("sinfo", "-h", "-o", "%T").strip() in ("idle", "mixed", "allocated"), 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception) -> None:
        if (self.folder / "slurmctld.pid").is_file():
            numbers = self.run("squeue", "-h", "-o", "%F", check=False).split()
            if numbers:
                self.run("scancel", *sorted(set(numbers)), check=False)
                wait_for(lambda: not self.run("squeue", "-h", "-o", "%F", check=False).strip(), 30)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            self._stop(self.folder / name)

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def state(self, number: str) -> str:
        """The state of a job, or of a task (`12_1`), such as RUNNING or COMPLETED."""
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return next(word.partition("=")[2] for word in words if word.startswith("JobState="))

    def _start(self, *command: str) -> None:
        with (self.folder / "log" / "start").open("ab") as log:
            subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)

    def _stop(self, pid_file: Path) -> None:
        """TERM, once the command line shows that the number is still that of our daemon."""
        try:
            pid = int(pid_file.read_text())
        except (OSError, ValueError):
            return
        if _is_ours(pid, self.folder):
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not _is_ours(pid, self.folder), 30)

    def _configuration(self) -> str:
        folder, host, user = self.folder, socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
        cpus = len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
        port, node_port = _free_ports(2)
        # cred_expire: a requeued job waits that long, and a second, before it starts again (120 s by default).
        # linuxproc: finds processes that called setsid. Backfill every second, or dependants wait half a minute.
        return f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=20
MinJobAge=3600
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 \
RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _is_ours(pid: int, folder: Path) -> bool:
    """A finished daemon may stay a zombie until it is reaped: it has no command line."""
    try:
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_for(condition, seconds: float = 300) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.1)
