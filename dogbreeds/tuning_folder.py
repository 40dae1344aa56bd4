"""The folder of a search by `--tune`, which Optuna calls a study: tuning writes it, the tuning report reads it.

    journal.log     every trial; every tuning process appends to it
    best.toml       the options of the best trial, for --config
    report.html     the study as a page

While tuning runs, there are also ``study.lock`` and a lock for each trial that runs.
"""

import os
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

JOURNAL = "journal.log"
BEST = "best.toml"
REPORT = "report.html"

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states of a trial that counts. An interrupted one has failed, and its options are tried again."""

IDENTITY = "identity"
"""User attribute of a study: its options, as a dictionary; `GIVEN` are those of them that are searched."""
GIVEN = "given"
TOP1 = "top1"
"""User attributes of a trial: validation top-1 after its best epoch, and the seconds that it took."""
SECONDS = "seconds"


def tuning_folder(output_dir: Path) -> Path:
    """The folder of the search for options of the run that will become `output_dir`."""
    return output_dir.with_name(output_dir.name + ".study")


def open_study(folder: Path) -> optuna.Study:
    """Open the study in an existing folder, or create it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = JournalFileBackend(str(folder / JOURNAL))
    _cut_torn_line(folder / JOURNAL)
    storage = JournalStorage(journal)
    return optuna.create_study(storage=storage, study_name="study", direction="minimize", load_if_exists=True)


def _cut_torn_line(journal: Path) -> None:
    """Cut off a last line that a full disk left unfinished: Optuna would write on behind it, and read it no more."""
    lock = JournalFileSymlinkLock(str(journal))  # that of whoever appends
    lock.acquire()
    try:
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)
    finally:
        lock.release()
