"""Kernels that start at once: each is a fork of one clean process that has imported what most notebooks need.

Such a kernel is as fresh as another (nothing of ours is imported, nothing was run) and begins some five seconds
of processor time later: see `ahead`.
"""
import os
import sys
from importlib.metadata import EntryPoint
from multiprocessing import forkserver, get_context
from pathlib import Path
from unittest.mock import patch

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

FORKS = get_context("forkserver")


def run_kernel(connection_file, env, folder):
    "The life of a kernel, in the fork."
    from ipykernel.kernelapp import IPKernelApp
    os.setsid()   # so that what it starts ends with it
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.modules["matplotlib"].rcParams["backend"] = "module://matplotlib_inline.backend_inline"   # else figures are not shown
    sys.path[:] = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]
    sys.argv = ["ipykernel_launcher", "-f", connection_file, f"--IPKernelApp.parent_handle={os.getppid()}"]   # it ends with us
    IPKernelApp.launch_instance(sys.argv[1:])


class Child:
    "A forked process with the words of subprocess.Popen."
    stdin = stdout = stderr = None

    def __init__(self, *arguments):
        self._process = FORKS.Process(target=run_kernel, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    def poll(self): return self._process.exitcode
    def kill(self): self._process.kill()
    def terminate(self): self._process.terminate()
    def send_signal(self, signum): os.kill(self.pid, signum)

    def wait(self):
        self._process.join()
        return self._process.exitcode


class ForkedKernel(LocalProvisioner):
    "Starts a kernel as a fork."
    async def launch_kernel(self, cmd, **kwargs):
        self.process = Child(self.parent.connection_file, kwargs["env"], str(kwargs["cwd"]))
        self.pid = self.pgid = self.process.pid
        return self.connection_info


def use_forked_kernels():
    "From now on each kernel of this process is a fork."
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")   # a kernel ends without tidying up
    FORKS.set_forkserver_preload(["ahead"])
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))): forkserver.ensure_running()
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:ForkedKernel", factory.GROUP_NAME)
    factory.default_provisioner_name = "forked"
