"""Where records go: JSON Lines by default, and the trackers that teams already use."""

from torchstone.watching.loggers.base import Logger
from torchstone.watching.loggers.json_lines import JsonLines
from torchstone.watching.loggers.mlflow import MLflow
from torchstone.watching.loggers.tensorboard import TensorBoard
from torchstone.watching.loggers.wandb import WeightsAndBiases

__all__ = ["JsonLines", "Logger", "MLflow", "TensorBoard", "WeightsAndBiases"]
