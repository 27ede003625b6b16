"""Tasks: labelled texts in fixed splits, each with the metrics it is judged by.

`packaged` tasks need a package index alone; `glue` tasks come from a local folder or the Hugging Face hub;
`files` reads a person's own data. Whatever the origin, a `Task` loads to the same columns: text, text_pair
(pairs only), label. Where SPARSEBERT_PREPARED_DIR names a folder of `prepared` data, its tasks are the only
ones; they have tokens instead of texts, and what reads texts is not imported.

>>> get_task("glue/sst2").metrics
('accuracy',)
"""

from __future__ import annotations

from sparsebert.data.tasks.prepared import prepared_task, prepared_tasks
from sparsebert.data.tasks.task import CONFIRM, Task
from sparsebert.errors import InputError, shown, unknown_name
from sparsebert.paths import Folders, prepared_dir
from sparsebert.registry import TASKS


def task_names() -> tuple[str, ...]:
    """Every name that `get_task` knows; the last, `file:PATH`, stands for any file of one's own.

    Those of registered tasks are among them. Of prepared data, the names of its tasks.
    """
    if folder := prepared_dir():
        return prepared_tasks(folder)
    from sparsebert.data.tasks.files import PREFIX

    return (*registered(), f"{PREFIX}PATH")


def get_task(name: str, folders: Folders | None = None) -> Task:
    """The task of that name. Data is read by `task.load()`, except that `file:` tasks read theirs here.

    `folders` are by default those that environment variables name. A GLUE task comes from `folders.data`, or
    from the hub if it has no folder there. With `folders.prepared` all tasks come from there. Raises
    `InputError` for an unknown name, a folder that does not exist, or a file that cannot be used.
    """
    folders = folders or Folders.named()
    if folders.prepared:
        return prepared_task(name, folders.prepared)
    from sparsebert.data.tasks.files import PREFIX, READERS, file_task

    if name in (tasks := registered()):
        return tasks[name].in_folder(folders.data.resolve() if folders.data else None)
    if name.endswith(CONFIRM):
        return get_task(name.removesuffix(CONFIRM), folders).confirmed
    if name.startswith(PREFIX):
        return file_task(name)
    if name.lower().endswith(tuple(READERS)):
        raise InputError(f"unknown task '{shown(name)}'; of your own data write {PREFIX}{shown(name)}")
    raise unknown_name("task", name, task_names())


def registered() -> dict[str, Task]:
    """All tasks but files, those of packages first; the modules that read texts are imported for it."""
    from sparsebert.data.tasks import glue, packaged

    return packaged.PACKAGED | glue.GLUE | TASKS
