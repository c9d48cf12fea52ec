"""The folder of a long run: configuration, environment, log and state, from which a killed run continues."""

from certnas.runs.environment import versions
from certnas.runs.files import finite, open_folder, refuse_changes, write_atomically
from certnas.runs.folder import RunFolder
from certnas.runs.interrupt import Interrupt, held_interrupts
from certnas.runs.tables import from_table, merged, read_toml, setting, to_table, to_toml

__all__ = [
    "Interrupt",
    "RunFolder",
    "finite",
    "from_table",
    "held_interrupts",
    "merged",
    "open_folder",
    "read_toml",
    "refuse_changes",
    "setting",
    "to_table",
    "to_toml",
    "versions",
    "write_atomically",
]
