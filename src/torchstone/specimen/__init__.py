"""A network with its data and objective, and everything that loops over the data or guards the network's state."""

from torchstone.specimen.processes import Processes, join_job
from torchstone.specimen.protection import keeping_random_states, protect
from torchstone.specimen.specimen import Passes, Specimen
from torchstone.specimen.split import Split

__all__ = ["Passes", "Processes", "Specimen", "Split", "join_job", "keeping_random_states", "protect"]
