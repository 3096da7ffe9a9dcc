"""JupyterLab, as `workbook.py lab` starts it: an untouched notebook opens unchanged, a saved one is
stored as nbdev keeps it.

A notebook is stored without what depends on the machine: the version of Python, the kernel's name
for people. JupyterLab completes this on opening, and would then call the notebook changed. So it
gets it completed, and it is taken away again on saving."""
from configparser import ConfigParser
from pathlib import Path

from ipykernel.ipkernel import IPythonKernel
from jupyter_client.kernelspec import NoSuchKernel, get_kernel_spec
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from nbdev.clean import clean_nb

SETTINGS = ConfigParser()
SETTINGS.read(Path(__file__).resolve().parent.parent / "settings.ini", encoding="utf-8")


class Notebooks(AsyncLargeFileManager):
    async def get(self, *args, **options):
        model = await super().get(*args, **options)
        if model["type"] == "notebook" and model["content"]: complete(model["content"]["metadata"])
        return model

    async def save(self, model, path=""):
        if model["type"] == "notebook": clean(model["content"])
        return await super().save(model, path)


def complete(metadata):
    "Add what JupyterLab would add."
    try: kernel = get_kernel_spec(metadata["kernelspec"]["name"])
    except (KeyError, NoSuchKernel): return   # the reader's own: JupyterLab asks
    if kernel.language != "python": return
    metadata["kernelspec"]["display_name"] = kernel.display_name
    metadata["language_info"] = dict(IPythonKernel.language_info)


def clean(nb):
    "Take away what depends on the machine, and what says in which order cells were run."
    kept = [SETTINGS["DEFAULT"][f"allowed_{of}metadata_keys"].split() for of in ("", "cell_")]
    clean_nb(nb, False, *kept, clean_ids=False)


c.ServerApp.contents_manager_class = Notebooks   # noqa: F821
