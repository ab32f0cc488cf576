"""Certificates on digits: the gate with numbers of its own, and what the counterexample breaks."""

from typing import Any

from torchstone.atlas import Scale
from torchstone.atlas.claims.risk import certificate_from_training_data as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.atlas.run import generator_for
from torchstone.details import Table


class TestCertificateFromTrainingData(ClaimConformance):
    id = "certificate_from_training_data"
    seconds = 60.0  # about 7 on a core of its own

    def test_certificates_are_below_one_half(self):
        """Of two splits the mean and two standard errors are above the larger certificate."""
        [table] = [figure for figure in self.result.evidence.figures if isinstance(figure, Table)]
        for prior in (module.FROM_DATA, module.FROM_START):
            measured = self.measured(f"mean certificate and two standard errors, {prior}")
            certificates = [row[1] for row in table.rows if row[0] == prior]
            assert 0 < max(certificates) <= measured < 0.5  # type: ignore[type-var]

    def test_every_certificate_covers_its_test_error(self):
        [table] = [figure for figure in self.result.evidence.figures if isinstance(figure, Table)]
        assert len(table.rows) == 4
        for row in table.rows:
            named: dict[str, Any] = dict(zip(table.columns, row, strict=True))
            assert 0 < named["test error"] < named["certificate"]
            assert named["examples"] == (700 if named["prior"] == module.FROM_DATA else 1400)

    def test_noise_gets_no_promise(self):
        assert self.measured("certificate on random labels") > 0.5

    def test_the_counterexample_is_refuted(self):
        """A prior that saw the examples promises what is not so: every test error of random labels is one half."""
        evidence = module.counterexample(Scale.QUICK, generator_for(self.id, 0))
        refuted = {check.name: check.measured for check in evidence.refuted}
        assert refuted == {"share of networks whose test error exceeds their certificate": 1}
