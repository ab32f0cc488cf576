"""The loss as a function on weight space: along lines, planes and curves, from a state to another, along a training run."""

from torchstone.landscape.alignment import Alignment, align
from torchstone.landscape.barrier import Largest, Profile, barrier_height, largest_mean
from torchstone.landscape.batch_statistics import batch_norms, recomputed_statistics
from torchstone.landscape.bezier import BendTraining, Bezier, PolygonalChain, train_bend
from torchstone.landscape.checkpoints import read_state
from torchstone.landscape.curvature_along import Parabola, parabola_along
from torchstone.landscape.directions import embedded, filter_normalised, orthogonalised, random_direction
from torchstone.landscape.evaluate import Values, on_rows, statistics_at, values_at
from torchstone.landscape.grid import GridLosses, Plane, grid_places
from torchstone.landscape.hidden_units import HiddenUnits, hidden_units, permuted
from torchstone.landscape.line import Ray, Segment, inclusive
from torchstone.landscape.minmax_ratio import Extremes, extreme_eigenvalues
from torchstone.landscape.moving import moving
from torchstone.landscape.persistence import Basin, basins, sublevel_components
from torchstone.landscape.point import Point, every_parameter, from_state, here
from torchstone.landscape.trajectory import (
    TrajectoryPCA,
    gram_of_path,
    heading,
    ornstein_uhlenbeck_shares,
    random_sign_headings,
    random_sign_shares,
    random_walk_shares,
    trajectory_pca,
)

__all__ = [
    "Alignment",
    "Basin",
    "BendTraining",
    "Bezier",
    "Extremes",
    "GridLosses",
    "HiddenUnits",
    "Largest",
    "Parabola",
    "Plane",
    "Point",
    "PolygonalChain",
    "Profile",
    "Ray",
    "Segment",
    "TrajectoryPCA",
    "Values",
    "align",
    "barrier_height",
    "basins",
    "batch_norms",
    "embedded",
    "every_parameter",
    "extreme_eigenvalues",
    "filter_normalised",
    "from_state",
    "gram_of_path",
    "grid_places",
    "heading",
    "here",
    "hidden_units",
    "inclusive",
    "largest_mean",
    "moving",
    "on_rows",
    "ornstein_uhlenbeck_shares",
    "orthogonalised",
    "parabola_along",
    "permuted",
    "random_direction",
    "random_sign_headings",
    "random_sign_shares",
    "random_walk_shares",
    "read_state",
    "recomputed_statistics",
    "statistics_at",
    "sublevel_components",
    "train_bend",
    "trajectory_pca",
    "values_at",
]
