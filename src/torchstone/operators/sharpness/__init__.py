"""How much the risk rises when the weights are moved: worst cases in balls and boxes, and averages."""

from torchstone.operators.sharpness.average_case import AverageCase, average_sharpness
from torchstone.operators.sharpness.keskar import KeskarSharpness, keskar_sharpness
from torchstone.operators.sharpness.projected_ascent import Maximum, maximise
from torchstone.operators.sharpness.region import Ball, Box, Region
from torchstone.operators.sharpness.risk_around import RiskAround
from torchstone.operators.sharpness.worst_case import WorstCase, ball_sharpness, ball_sharpness_curve

__all__ = [
    "AverageCase",
    "Ball",
    "Box",
    "KeskarSharpness",
    "Maximum",
    "Region",
    "RiskAround",
    "WorstCase",
    "average_sharpness",
    "ball_sharpness",
    "ball_sharpness_curve",
    "keskar_sharpness",
    "maximise",
]
