"""Training procedures: empirical risk minimisation and what is built on it.

`fit.fit` trains a network, `evaluation` holds losses and errors by example for it.
"""
