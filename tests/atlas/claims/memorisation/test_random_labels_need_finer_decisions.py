"""Critical samples under true and under shuffled labels: the gates over five seeds."""

import torch

from torchstone.atlas.claims.memorisation import random_labels_need_finer_decisions as claim
from torchstone.atlas.conformance import ClaimConformance
from torchstone.details import Table


class TestRandomLabelsNeedFinerDecisions(ClaimConformance):
    id = "random_labels_need_finer_decisions"

    def test_linear_decisions_to_99_percent(self):
        assert self.measured("agreement with |f| <= r |w|_1 on linear decisions") >= 0.99

    def test_every_one_of_five_seeds(self):
        [table] = [figure for figure in self.result.evidence.figures if isinstance(figure, Table)]
        assert len(table.rows) == claim.SEEDS == 5
        _, true, shuffled, *errors = (torch.tensor(column) for column in zip(*table.rows, strict=True))
        assert shuffled.min() > true.max()
        assert torch.stack(errors).max() <= 0.01  # all are fitted
